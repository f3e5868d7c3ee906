"""Names out of configurations, manifests, records and rows stay in the folder that they are meant for."""

from __future__ import annotations

import csv
import json
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from launch.jobs.working_dir import EXCLUDED, check_tree
from launch.run_folder.folder import RunFolder
from launch.sweep.trial_records import SweepFolder, TrialRecord
from partner_rl.config.schema import RunConfig
from partner_rl.evaluation.human_sheet import _as_text
from partner_rl.models.store import MANIFEST_NAME, read_manifest
from partner_rl.storage.file_names import is_path_inside, is_plain_name
from partner_rl.storage.manifest import MANIFEST, check_manifest, write_manifest
from partner_rl.types import PartnerError
from tests.helpers.command_line import partner

PIECES = st.sampled_from(["..", ".", "/", "\\", "~", "a", "b.json", " ", "\0", "\n", "\x1b[2J", "\u202e", "é", "…"])
NAMES = st.one_of(
    st.lists(PIECES, max_size=6).map("".join), st.text(alphabet=string.printable, max_size=12), st.text(max_size=12)
)
ESCAPES = ["..", ".", "", "/", "../x", "a/../../x", "/tmp", "a\\..\\b", "a\0b", "a\nb", "x" * 300, "\ud800"]


@given(NAMES)
@settings(max_examples=300, deadline=None)
def test_a_plain_name_stays_where_it_is_put(name):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        if is_plain_name(name):
            (root / name).write_text("x", encoding="utf-8")
        else:
            assert not is_path_inside(name) or "/" in name
        assert [path for path in Path(folder).rglob("*") if path.is_file()] == [root / name] * is_plain_name(name)


@pytest.mark.parametrize("name", ESCAPES)
def test_these_are_no_plain_names(name):
    assert not is_plain_name(name)
    assert not is_path_inside(name)


def test_these_are():
    assert all(map(is_plain_name, ["first", "a b", "..a", "run-2026.01", "…", "é", "~", "a#2", "x" * 200]))
    assert all(map(is_path_inside, ["a", "a/b.json", "a/b/c"]))


@given(NAMES)
@settings(max_examples=200, deadline=None)
def test_a_run_makes_its_folder_in_runs_dir_or_none(name):
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "a" / "runs"
        runs.mkdir(parents=True)
        config = RunConfig(name=name or None, runs_dir=str(runs))
        if name and not is_plain_name(name):
            with pytest.raises(PartnerError, match="is no folder name"):
                RunFolder.create(config, default_name="default")
            assert not list(runs.iterdir())
        else:
            run = RunFolder.create(config, default_name="default")
            assert run.path.resolve().parent == runs.resolve()
            assert [path.name for path in runs.iterdir()] == [run.path.name]
        assert [path.name for path in Path(folder).iterdir()] == ["a"]
        assert [path.name for path in runs.parent.iterdir()] == ["runs"]


@given(NAMES)
@example("../outside")
@settings(max_examples=200, deadline=None)
def test_a_manifest_speaks_of_its_own_folder_only(name):
    # Hypothesis also tries texts of the sources: with this one the manifest would be right.
    assume(name != "state.json")
    with tempfile.TemporaryDirectory() as folder:
        inside, outside = Path(folder) / "checkpoint", Path(folder) / "outside"
        inside.mkdir()
        outside.write_text("x", encoding="utf-8")
        (inside / "state.json").write_text("x", encoding="utf-8")
        write_manifest(inside)
        check_manifest(inside)
        entry = json.loads((inside / MANIFEST).read_text(encoding="utf-8"))["files"]["state.json"]
        (inside / MANIFEST).write_text(json.dumps({"files": {name: entry}}), encoding="utf-8")
        with pytest.raises(PartnerError):
            check_manifest(inside)
        stored = {"source": "s", "files": {name: {"size": 1, "sha256": entry["sha256"]}}}
        (inside / MANIFEST_NAME).write_text(json.dumps(stored), encoding="utf-8")
        assert (read_manifest(inside) is None) == (not is_path_inside(name))


@given(NAMES)
@settings(max_examples=200, deadline=None)
def test_a_record_of_a_sweep_speaks_of_its_own_trial_only(name):
    # With this one the record would be right.
    assume(name != "trial-0001")
    with tempfile.TemporaryDirectory() as folder:
        sweep = SweepFolder(Path(folder) / "sweep")
        sweep.write(TrialRecord(name="trial-0001", number=1, values={}))
        path = sweep.path / "records" / "trial-0001.json"
        path.write_text(TrialRecord(name="x", number=1, values={}).model_dump_json().replace('"x"', json.dumps(name)))
        with pytest.raises(PartnerError):
            sweep.records()
        if not is_plain_name(name):
            with pytest.raises(PartnerError, match="is no trial"):
                sweep.read(name)
            with pytest.raises(PartnerError, match="is no trial"):
                sweep.write(TrialRecord(name=name, number=1, values={}))
        assert [path.name for path in Path(folder).rglob("*") if path.is_file()] == ["trial-0001.json"]


def test_ids_of_rows_are_no_file_names(tmp_path):
    ids = ["../../escaped", "/etc/passwd", "..", "a/b", "~root"]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seeker_id", "response_id", "seeker_post", "response_post"])
        writer.writerows([name, name, "I failed again.", "I am sorry to hear it."] for name in ids)
    work = tmp_path / "deep" / "work"
    work.mkdir(parents=True)
    result = partner("data", "convert", tmp_path / "pairs.csv", "pairs.parquet", folder=work)
    assert result.returncode == 0, result.stderr
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["deep/work/pairs.parquet", "pairs.csv"]


def test_links_do_not_lead_a_job_out_of_its_folder(tmp_path):
    (tmp_path / "secret").write_text("s" * 100)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "posts.csv").write_text("p" * 100)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "code.py").write_text("x")
    (tree / "same.py").symlink_to("code.py")
    (tree / "nowhere").symlink_to("gone")
    assert check_tree(tree, EXCLUDED) > 0
    for name, target in (("key", "../secret"), ("posts", tmp_path / "corpus"), ("up", ".."), ("here", ".")):
        (tree / name).symlink_to(target)
        with pytest.raises(PartnerError, match=f"the link .*/{name} leads"):
            check_tree(tree, EXCLUDED)
        assert check_tree(tree, [*EXCLUDED, f"/{name}"]) > 0
        (tree / name).unlink()
    (tmp_path / "link").symlink_to(tree)
    assert check_tree(tmp_path / "link", EXCLUDED) == check_tree(tree, EXCLUDED)


def test_a_cell_of_a_raters_sheet_is_no_formula():
    for post in ("=HYPERLINK(1)", "+1", "-1", "@a", "  =1"):
        assert _as_text(post) == f"'{post}"
    assert [_as_text(text) for text in ("", "I am = sorry.", "(-1)")] == ["", "I am = sorry.", "(-1)"]
