"""`partner-rl evaluate`: its choices in this process, and the whole command on a finished run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from launch.run_folder.evaluated import named_runs, warm_starts
from launch.run_folder.folder import RunFolder
from launch.training.evaluation import choose_pairs
from partner_rl.config.load import load_config
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError
from tests.evaluation.toy import made_up_pairs
from tests.helpers.command_line import partner

# The first test of a process trains the finished run, too.
pytestmark = [pytest.mark.timeout(1500), pytest.mark.usefixtures("commands_share_ray")]


def make_config(*overrides: str) -> RunConfig:
    return load_config("smoke", ["data.source=sample", *overrides])


def test_policies_are_called_after_their_runs_when_there_are_several(tmp_path):
    opened = []
    for name in ("one/first", "second", "two/first"):
        (tmp_path / name / "export").mkdir(parents=True)
        opened.append((RunFolder(tmp_path / name), make_config()))
    assert [run.name for run in named_runs(opened)] == ["first", "second", "first#2"]
    assert [run.name for run in named_runs(opened[1:2])] == ["rl"]
    (tmp_path / "second" / "export").rmdir()
    with pytest.raises(PartnerError, match="finish its training"):
        named_runs(opened)


def test_a_warm_start_that_runs_share_is_rewritten_with_once(tmp_path):
    shared = tmp_path / "warm"
    shared.mkdir()
    opened = []
    for name in ("first", "second", "third"):
        (tmp_path / name / "export").mkdir(parents=True)
        opened.append((RunFolder(tmp_path / name), make_config(f"warmstart.checkpoint={shared}")))
    assert list(warm_starts(named_runs(opened))) == ["warm_start"]
    (tmp_path / "third" / "warm_start").mkdir()
    opened[2] = (opened[2][0], make_config())
    assert list(warm_starts(named_runs(opened))) == ["first/warm_start", "third/warm_start"]
    assert warm_starts(named_runs(opened[:0])) == {}


def test_the_main_table_is_of_the_pairs_that_training_rewrites_and_the_others_come_along():
    pairs = made_up_pairs(42)
    chosen = choose_pairs(pairs, make_config("data.max_empathy=2", "evaluation.max_pairs=5"))
    assert len(chosen.examples) == 10
    headline = [example for example, inside in zip(chosen.examples, chosen.headline_N, strict=True) if inside]
    assert len(headline) == 5
    assert all(example.empathy is None or example.empathy <= 2 for example in headline)
    assert all(example.empathy > 2 for example in set(chosen.examples) - set(headline))
    assert list(chosen.examples) == [pair for pair in pairs if pair in chosen.examples]
    everything = choose_pairs(pairs, make_config("evaluation.max_pairs=null"))
    assert everything.headline_N.all()
    assert everything.examples == tuple(pairs)
    with pytest.raises(PartnerError, match="raise it with"):
        choose_pairs([pair for pair in pairs if pair.empathy == 4], make_config("data.max_empathy=0"))


@pytest.mark.slow
def test_a_run_beside_a_baseline_its_warm_start_and_the_originals(finished_run, tmp_path):
    arguments = ["--max-pairs", 8, "--baselines", "template", "--targets", "--human-sheet", "sheet.csv"]
    result = partner("evaluate", finished_run, *arguments, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Targets: rl" in result.stdout
    assert "No held-out judge took part" in result.stdout
    folder = finished_run / "evaluation"
    content = json.loads((folder / "report.json").read_text())
    names = ["original", "template", "warm_start", "rl"]
    assert list(content["systems"]) == names
    assert content["reference"] == "warm_start"
    assert content["systems"]["original"]["metrics"]["change_in_empathy"]["value"] == 0
    assert content["systems"]["template"]["metrics"]["distinct_sentences"]["value"] < 1
    assert "p_holm" in content["systems"]["rl"]["comparisons"]["specificity"]
    assert {target["outcome"] for target in content["targets"]["rl"]} <= {"reached", "missed", "not measured"}
    assert (folder / "report.html").read_text().count("data:image/png;base64,") == 4
    rows = pq.read_table(folder / "pairs.parquet")
    assert rows.num_rows == 4 * content["pairs"]["all"]
    assert "seeker_post" not in rows.column_names
    keys = list(csv.DictReader((tmp_path / "sheet.key.csv").open()))
    assert {frozenset((key["A"], key["B"])) for key in keys} <= {frozenset((name, "rl")) for name in names}
    # The run tracks with W&B, offline: the table of systems goes there and holds no posts.
    (table,) = finished_run.glob("wandb/**/media/table/evaluation_*.table.json")
    columns = json.loads(table.read_text())["columns"]
    assert {"system", "change_in_empathy", "change_in_empathy_low"} <= set(columns)
    assert not {"seeker_post", "rewritten_response"} & set(columns)


@pytest.mark.slow
def test_two_runs_on_the_pairs_of_the_first(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "again")
    settings = ["--set", "tracking.wandb=disabled", "--greedy", "--reference", "again", "--with-posts"]
    result = partner(
        "evaluate", finished_run, "again", "--max-pairs", 4, *settings, "--output", "report", folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "report/report.json").read_text())
    assert list(content["systems"]) == ["original", "tiny/warm_start", "again/warm_start", "tiny", "again"]
    # Two copies of one policy, both greedy: the same rewrites, so nothing to tell apart.
    tiny = content["systems"]["tiny"]
    assert tiny["metrics"] == content["systems"]["again"]["metrics"]
    assert all(comparison["p"] == 1.0 for comparison in tiny["comparisons"].values())
    assert "seeker_post" in pq.read_table(tmp_path / "report/pairs.parquet").column_names


@pytest.mark.slow
def test_a_policy_at_several_temperatures_is_several_systems(finished_run, tmp_path):
    asked = ["--temperatures", "0.5,1", "--targets", "--set", "tracking.wandb=disabled", "--output", "report"]
    result = partner("evaluate", finished_run, "--max-pairs", 4, *asked, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "report/report.json").read_text())
    trained = ["rl at temperature 0.5", "rl at temperature 1"]
    assert list(content["systems"]) == ["original", *(name.replace("rl", "warm_start") for name in trained), *trained]
    assert list(content["targets"]) == trained
    cold, hot = (content["systems"][name]["metrics"] for name in trained)
    assert cold["perplexity"] != hot["perplexity"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--split", "train"], "--split is 'train'"),
        (["--temperatures", "0.5,warm"], "--temperatures is '0.5,warm'"),
        (["--temperatures", "1,1"], "different numbers above 0"),
        (["--temperatures", "inf"], "different numbers above 0"),
        (["--temperatures", "1", "--greedy"], "--greedy draws nothing"),
    ],
)
def test_a_wrong_choice_is_one_clear_line(tmp_path, finished_run, flags, said):
    result = partner("evaluate", finished_run, *flags, folder=Path(tmp_path))
    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
