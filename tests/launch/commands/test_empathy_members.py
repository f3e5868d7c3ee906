"""The conservative score through the real command line: trained, scored, and refused where there is no ensemble."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.training.smoke import smoke_config
from partner_rl.config.load import load_config
from partner_rl.types import MECHANISMS, PartnerError
from rewards.empathy_ensemble import EmpathyEnsemble
from tests.helpers.command_line import run_here

TINY = ("--preset", "smoke", "resources.driver_threads=1")
CONSERVATIVE = "rewards.empathy.score=conservative"


def train(folder: Path, *options: str) -> Path:
    small = ("device=cpu", "data.max_train_pairs=40", "reward_training.empathy_epochs=1", *options)
    assert run_here("rewards", "train", "empathy", "--data", "sample", "--output", folder, *TINY, *small) == 0
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "seeker_post,response_post\nI failed my exam.,I am so sorry. What happened?\nNobody calls.,Go out.\n"
    )
    return path


def test_an_ensemble_is_trained_and_its_bound_scored(tmp_path: Path, pairs: Path) -> None:
    folder = train(tmp_path / "empathy", "reward_training.empathy_members=2")
    report = json.loads((folder / "report.json").read_text())
    assert len(report["splits"][0]["further_members"]) == 1
    assert "Members of the ensemble: 2;" in (folder / "README.md").read_text()
    ensemble = EmpathyEnsemble.load(folder)
    assert len(ensemble.members) == 2
    output = tmp_path / "scores.jsonl"
    options = ("--input", pairs, "--output", output, "--only", "empathy", "--empathy", folder)
    assert run_here("rewards", "score", *options, *TINY, CONSERVATIVE, "rewards.empathy.deviations=0.5") == 0
    first = json.loads(output.read_text().splitlines()[0])["empathy"]
    levels_EM = ensemble.expected_levels([("I failed my exam.", "I am so sorry. What happened?")])[:, 0]
    bound_M = (levels_EM.mean(0) - 0.5 * levels_EM.std(0)).clamp(0, 2).tolist()
    assert [first[name]["lower_level"] for name in MECHANISMS] == pytest.approx(bound_M, abs=1e-4)
    assert [first[name]["expected_level"] for name in MECHANISMS] == pytest.approx(levels_EM[0].tolist(), abs=1e-4)
    assert first["total"] == pytest.approx(sum(bound_M), abs=1e-3)


def test_a_bound_without_an_ensemble_is_one_line(
    tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(tmp_path / "empathy")
    options = ("--input", pairs, "--output", tmp_path / "scores.jsonl", "--only", "empathy", "--empathy", folder)
    assert run_here("rewards", "score", *options, *TINY, CONSERVATIVE, "reward_training.empathy_members=2") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "score=conservative needs two or more" in line
    checkpoint = f"rewards.empathy.checkpoint={folder}"
    assert run_here("train", *TINY, checkpoint, "--dry-run") == 0
    assert run_here("train", *TINY, checkpoint, CONSERVATIVE, "--dry-run") == 1
    assert "reward_training.empathy_members=3" in capsys.readouterr().out.replace("\n", "")


def test_a_configuration_that_trains_no_ensemble_is_refused() -> None:
    with pytest.raises(PartnerError, match=r"reward_training\.empathy_members=1 trains no ensemble"):
        load_config("smoke", [CONSERVATIVE])
    assert load_config("smoke", [CONSERVATIVE, "rewards.empathy.checkpoint=there"]).rewards.empathy.deviations == 1.0


def test_the_doctors_tiny_run_trains_an_ensemble_where_one_is_read(tmp_path: Path) -> None:
    config = load_config("embedded", [CONSERVATIVE, "rewards.empathy.checkpoint=there"])
    assert smoke_config(config, tmp_path).reward_training.empathy_members == 2
