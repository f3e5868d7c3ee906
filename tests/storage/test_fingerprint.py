"""Fingerprints: the same for what trains alike, another for anything else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from partner_rl.storage import fingerprint
from partner_rl.storage.fingerprint import fingerprint_of, fingerprint_of_files, fingerprint_of_pairs
from partner_rl.types import Example, MechanismLabel, PartnerError

pytestmark = pytest.mark.reported

PAIRS = tuple(Example(f"s{n}", f"r{n}", f"Post {n}.", f"Answer {n}.") for n in range(3))
LABELS = (MechanismLabel(1, ("Answer",)), MechanismLabel(0), MechanismLabel(0))


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "config.json").write_text(json.dumps({"hidden_size": 8, "transformers_version": "5.0"}))
    return path


@pytest.mark.parametrize(
    "other",
    [
        PAIRS[:2],
        PAIRS[::-1],
        (replace(PAIRS[0], seeker_post="Post 0!"), *PAIRS[1:]),
        (replace(PAIRS[0], response_id="r9"), *PAIRS[1:]),
        (replace(PAIRS[0], labels=LABELS), *PAIRS[1:]),
    ],
)
def test_other_pairs_have_another_fingerprint(other):
    assert fingerprint_of_pairs(PAIRS) == fingerprint_of_pairs(tuple(replace(pair) for pair in PAIRS))
    assert fingerprint_of_pairs(PAIRS) != fingerprint_of_pairs(other)


def test_the_part_that_a_pair_is_in_counts():
    assert fingerprint_of_pairs(PAIRS, ()) != fingerprint_of_pairs((), PAIRS)
    assert fingerprint_of_pairs(PAIRS[:1], PAIRS[1:]) != fingerprint_of_pairs(PAIRS[:2], PAIRS[2:])


def test_what_no_loader_reads_does_not_count(folder):
    before = fingerprint_of_files(folder)
    for name in ("README.md", "report.json", ".lock", "metrics.jsonl"):
        (folder / name).write_text("{}")
    (folder / "_candidates").mkdir()
    (folder / "_candidates" / "pairs.parquet").write_bytes(b"rows")
    (folder / "config.json").write_text(json.dumps({"transformers_version": "6.0", "hidden_size": 8}))
    assert fingerprint_of_files(folder) == before
    shutil.copytree(folder, folder.with_name("copy"))
    assert fingerprint_of_files(folder.with_name("copy")) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"Weights"), ("config.json", b'{"hidden_size": 9}'), ("vocab.txt", b"a"), ("b.json", b"1")],
)
def test_what_a_loader_reads_counts(folder, name, content):
    before = fingerprint_of_files(folder)
    (folder / name).write_bytes(content)
    assert fingerprint_of_files(folder) != before


def test_files_of_members_count_under_their_names(folder):
    (folder / "member-1").mkdir()
    (folder / "member-1" / "model.safetensors").write_bytes(b"one")
    before = fingerprint_of_files(folder)
    (folder / "member-1").rename(folder / "member-2")
    assert fingerprint_of_files(folder) != before


def test_a_large_file_is_known_by_size_and_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 64)
    monkeypatch.setattr(fingerprint, "_BLOCK", 8)
    monkeypatch.setattr(fingerprint, "_BLOCKS", 8)
    file = tmp_path / "large.safetensors"
    content = bytearray(range(200))
    file.write_bytes(content)
    before = fingerprint_of_files(file)
    for place in (0, 199, 95):
        changed = content.copy()
        changed[place] ^= 1
        file.write_bytes(changed)
        # Blocks begin at 0, 27, 54, 82, …, 192; what lies between them is not read.
        assert (fingerprint_of_files(file) != before) == (place != 95)
    file.write_bytes(content + b"x")
    assert fingerprint_of_files(file) != before


def test_what_is_not_there_is_one_line(tmp_path):
    with pytest.raises(PartnerError, match="nowhere cannot be read"):
        fingerprint_of_files(tmp_path / "nowhere")


def test_values_are_told_apart_by_their_order_and_kind():
    assert len({fingerprint_of(values) for values in ([(1,), (2,)], [(2,), (1,)], [("1",), (2,)], [(1, 2)])}) == 4
