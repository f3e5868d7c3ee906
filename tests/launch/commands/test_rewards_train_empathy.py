"""`partner-rl rewards train empathy` through the real command line, alone and in two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from launch import cli
from partner_rl.types import MECHANISMS
from rewards.empathy_ensemble import EmpathyEnsemble
from rewards.empathy_model import EmpathyClassifier
from tests.helpers.command_line import environment
from tests.helpers.ports import free_port

TINY = ["--preset", "smoke", "resources.driver_threads=1", "device=cpu", "data.max_train_pairs=40"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["rewards", "train", "empathy", *arguments])
    return int(exit_.value.code or 0)


def test_two_splits_end_in_a_checkpoint_with_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "empathy"
    assert run("--data", "sample", "--output", str(folder), "--splits", "2", *TINY) == 0
    report = json.loads((folder / "report.json").read_text())
    assert [split["salt"] for split in report["splits"]] == ["partner", "partner-2"]
    assert set(report["splits"][0]["test"]) == set(MECHANISMS)
    card = (folder / "README.md").read_text()
    printed = capsys.readouterr().out
    for split in report["splits"]:
        assert split["test_pairs"] > 20
    mean = sum(split["test"]["explorations"]["levels"]["accuracy"] for split in report["splits"]) / 2
    assert f"| explorations | classifier | {mean:.3f} (" in card
    assert f"| explorations | classifier | {mean:.3f} (" in printed
    assert str(tmp_path) not in card
    assert "_name_or_path" not in json.loads((folder / "config.json").read_text())["encoder"]
    ((first, _, _),) = EmpathyClassifier.from_pretrained(folder).predict([("I am tired.", "I am sorry.")])
    assert sum(first.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["empathy"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--data", "sample", "reward_training.empathy_epoch=3"], "empathy_epochs"),
        (["--data", "sample", "models.encoder=nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--output", str(tmp_path / "e"), *TINY) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert expected in line
    assert list(tmp_path.iterdir()) == []


def test_unlabelled_pairs_and_foreign_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("seeker_post,response_post\n" + "".join(f"I am tired {i}.,Go to bed.\n" for i in range(60)))
    assert run("--data", str(pairs), "--output", str(tmp_path / "e"), *TINY) == 1
    assert "no test pair is labelled" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert run("--data", "sample", "--output", str(tmp_path / "mine"), *TINY) == 1
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_share_the_batches(tmp_path: Path) -> None:
    folder = tmp_path / "empathy"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(free_port())]
    command = ["-m", "launch.cli", "rewards", "train", "empathy", "--data", "sample", "--output", str(folder), *TINY]
    command += ["reward_training.empathy_members=2"]
    done = subprocess.run(
        [*launch, *command], env=environment(), capture_output=True, text=True, timeout=1000, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("| explorations | classifier |") == 1
    assert len(EmpathyEnsemble.load(folder).members) == 2
    assert run("--data", "sample", "--output", str(tmp_path / "alone"), *TINY) == 0
    # Half the steps, each with the mean gradient of two batches: not the weights of one process, but close to them.
    together, alone = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "alone"))
    name = "mechanisms.0.level.1.weight"
    assert together[name].sub(alone[name]).abs().max() > 0
    steps = json.loads((folder / "report.json").read_text())["splits"][0]["training"]
    assert steps["train_pairs"] == 32
