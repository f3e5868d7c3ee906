"""The generator plants what it says, the same again for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from partner_rl.data.readers import read_examples
from partner_rl.data.synthetic import SUMMARY, CorpusSettings, generate
from partner_rl.types import Example, PartnerError


def read(folder: Path) -> list[Example]:
    return list(read_examples(str(folder)).examples)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Example], dict]:
    folder = tmp_path_factory.mktemp("generated")
    generate(CorpusSettings(5000, seed=1, duplicates=0.1, pii=0.04), folder, rows_per_file=2000)
    return read(folder), json.loads((folder / SUMMARY).read_text())


def test_rows_are_distinct_pairs_of_shared_seeker_posts(corpus):
    examples, summary = corpus
    assert len(examples) == summary["rows"] == 5000
    assert len({example.response_id for example in examples}) == 5000
    texts = {(example.seeker_post.lower(), example.response_post.lower()) for example in examples}
    planted = summary["planted"]
    # Near duplicates of one pair with the same word added are exact ones of each other.
    assert 5000 - planted["exact"] - 12 <= len(texts) <= 5000 - planted["exact"]
    assert 2000 < len({example.seeker_post for example in examples}) < 3000
    posts = {example.seeker_id: example.seeker_post.removesuffix(" Honestly.") for example in examples}
    assert len(posts) < 2600


def test_what_is_planted_is_there(corpus):
    examples, summary = corpus
    planted = summary["planted"]
    assert planted["exact"] + planted["near"] == pytest.approx(500, rel=0.2)
    assert sum(planted["pii"].values()) == pytest.approx(200, rel=0.3)
    marks = {"email": "@example.org", "phone": "-555-01", "user": " u/helper_", "url": "https://example.org"}
    for kind, mark in marks.items():
        assert sum(mark in example.response_post.lower() for example in examples) == planted["pii"][kind], kind
    shouted = sum(example.response_post.isupper() for example in examples)
    assert shouted == planted["exact"]


def test_rows_depend_on_the_seed_alone(tmp_path: Path, corpus):
    generate(CorpusSettings(5000, seed=1, duplicates=0.1, pii=0.04), tmp_path / "again", rows_per_file=700)
    assert read(tmp_path / "again") == corpus[0]
    generate(CorpusSettings(100, seed=2), tmp_path / "other")
    assert not {example.response_post for example in read(tmp_path / "other")} & {
        example.response_post for example in corpus[0]
    }


def test_files_have_the_rows_that_were_asked_for_and_progress_is_told(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    generate(CorpusSettings(250), tmp_path, lambda *call: calls.append(call), rows_per_file=100)
    assert [pq.read_metadata(path).num_rows for path in sorted(tmp_path.glob("*.parquet"))] == [100, 100, 50]
    assert calls == [(100, 250), (200, 250), (250, 250)]
    assert sorted(path.name for path in tmp_path.iterdir())[0] == SUMMARY


def test_bad_requests_are_one_line(tmp_path: Path):
    generate(CorpusSettings(3), tmp_path)
    (tmp_path / "other.parquet").touch()
    with pytest.raises(PartnerError, match=r"holds something else too \(other\.parquet\)"):
        generate(CorpusSettings(3), tmp_path)
    with pytest.raises(PartnerError, match="rows=0"):
        CorpusSettings(0)
    with pytest.raises(PartnerError, match="duplicates=2: give a share"):
        CorpusSettings(1, duplicates=2)
    (tmp_path / "file").touch()
    with pytest.raises(PartnerError, match="cannot write"):
        generate(CorpusSettings(3), tmp_path / "file")
