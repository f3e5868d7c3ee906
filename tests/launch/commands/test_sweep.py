"""The real `partner-rl sweep` on tiny models: a grid with failing trials, interrupted by Ctrl-C and by SIGKILL."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.sweep.trial_records import SweepFolder
from partner_rl.config.load import load_config
from tests.helpers.command_line import COMMAND, environment, partner_process
from tests.helpers.waiting import wait_until

SPEC = """
base: smoke
search: grid
share_rewards: true
max_concurrent: 1
space:
  guards.max_length_ratio: {grid: [9.0, 0.001]}
  rewards.mutual_information.lambda_mi: {grid: [0.5, 1.0]}
overrides:
  algorithm.iterations: 6
  checkpoint.keep: 9
  guards: {action: stop, patience: 1, window: 1}
  rewards: {num_cpus: 0.25, fluency: {weight: 0.0}}
  resources: {actor_threads: 1, driver_threads: 1}
  tracking: {wandb: disabled, tensorboard: false}
"""
TIMEOUT_S = 600.0


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "sweep", *arguments], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_is_interrupted_killed_and_finished(tmp_path):
    (tmp_path / "grid.yaml").write_text(SPEC)
    sweep = SweepFolder(tmp_path / "out")

    # A scheduler's signal while the reward models are trained, before Ray runs.
    process = start(tmp_path, "grid.yaml", "--output", "out")
    wait_until((sweep.shared.path / "rewards").is_dir, "no reward model is trained", process=process)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, said
    assert "go on with: partner-rl sweep --resume out" in " ".join(said.split())
    assert not sweep.records()

    # SIGKILL when the first trial has finished and the second has a checkpoint.
    def in_second_trial() -> bool:
        first, second = sweep.read("trial-0001"), sweep.read("trial-0002")
        finished = first is not None and first.status == "finished"
        # The first one of six: what is left of the trial is the time that this process has to notice and to kill.
        return finished and second is not None and bool(sweep.run("trial-0002").saved_checkpoints())

    process = start(tmp_path, "--resume", "out")
    wait_until(in_second_trial, "the second trial has no checkpoint", process=process)
    # As when the machine goes down: a worker that outlives the sweep might finish its trial.
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.kill()
    process.communicate()
    first_checkpoint = sweep.run("trial-0002").checkpoint(1).stat().st_mtime_ns
    export = (sweep.run("trial-0001").export / "model.safetensors").stat().st_mtime_ns
    interrupted = sweep.read("trial-0002")
    assert interrupted is not None
    assert interrupted.status == "running"

    result = partner_process("sweep", "--resume", "out", folder=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "2 trials finished" in result.stdout
    assert "2 of 4 trials failed, the others are compared" in " ".join(result.stderr.split())

    records = sweep.records()
    assert [record.status for record in records] == ["finished", "finished", "failed", "failed"]
    assert [record.starts for record in records] == [1, 2, 1, 1]
    # The finished trial was left alone, the interrupted one went on from its checkpoint.
    assert (sweep.run("trial-0001").export / "model.safetensors").stat().st_mtime_ns == export
    assert sweep.run("trial-0002").checkpoint(1).stat().st_mtime_ns == first_checkpoint
    lines = sweep.run("trial-0002").metrics.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    # λ = 1 asks the shared pool, which has both directions, for the forward one alone.
    details = [{key for key in json.loads(line) if "detail/mutual" in key} for line in lines]
    assert details[0] == {"reward/detail/mutual_information/forward"}
    check_failures(result.stderr, sweep)
    check_shared_parts(sweep)
    check_report(sweep)


def check_failures(said: str, sweep: SweepFolder) -> None:
    said = " ".join(said.split())
    for record in sweep.records()[2:]:
        assert record.reason is not None
        assert record.reason.startswith("guard: length_ratio")
        assert f"{record.name} failed: guard: length_ratio" in said
    assert "Traceback" not in said


def check_shared_parts(sweep: SweepFolder) -> None:
    """What no key changes is there once."""
    assert sweep.shared.warm_start.is_dir()
    for record in sweep.records():
        run = sweep.run(record.name)
        config = load_config(str(run.config_file))
        assert config.warmstart.checkpoint == str(sweep.shared.warm_start)
        assert not run.warm_start.exists()
        assert not run.rewards.exists()
        assert (config.name, config.tracking.group) == (record.name, "out")
        assert record.reward_actors == 0
    sessions = json.loads((sweep.path / "sessions.json").read_text())
    # Ctrl-C came before Ray; the start that was killed and the last one had four actors each: trials are measured with
    # the component without a weight, too.
    assert [session["shared_actors"] for session in sessions] == [4, 4]
    assert all(session["seconds"] > 0 for session in sessions)


def check_report(sweep: SweepFolder) -> None:
    report = json.loads((sweep.path / "report.json").read_text())
    assert set(report["front"]) <= {"trial-0001", "trial-0002"}
    assert report["chosen"] in report["front"]
    table = pq.read_table(sweep.path / "trials.parquet").to_pylist()
    assert [row["status"] for row in table] == ["finished", "finished", "failed", "failed"]
    assert [row["trial"] for row in table if row["chosen"]] == [report["chosen"]]
    for name in ("report.md", "report.html"):
        text = (sweep.path / name).read_text()
        assert "trial-0003" in text
        assert "length_ratio" in text
    assert "data:image/png;base64" in (sweep.path / "report.html").read_text()
    # The chosen configuration is one that `train` takes.
    config = load_config(str(sweep.chosen))
    assert config.guards.max_length_ratio == 9.0
    assert config.warmstart.checkpoint is None
    assert config.name is None
    assert not sweep.scratch.exists()


def test_a_dry_run_starts_and_writes_nothing(tmp_path):
    (tmp_path / "grid.yaml").write_text(SPEC)
    output = tmp_path / "out"
    result = CliRunner().invoke(app, ["sweep", str(tmp_path / "grid.yaml"), "--output", str(output), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "4 trials to run" in result.stdout
    assert "trial-0004: guards.max_length_ratio=0.001, rewards.mutual_information.lambda_mi=1.0" in result.stdout
    assert "trained once for all trials: rewards.coherence.checkpoint" in result.stdout
    assert not output.exists()


def test_shipped_specs_can_be_started(tmp_path):
    # No model of the package index is needed to see that the spec is right.
    tiny = ["models.policy=random:llama", "models.reward_lm=random:llama", "models.encoder=random:bert"]
    result = CliRunner().invoke(app, ["sweep", "reward_weights", *tiny, "--output", str(tmp_path / "out"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "24 that Optuna proposes" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a spec to start a sweep"),
        (["reward_weight"], "did you mean reward_weights?"),
        (["reward_weights", "rewards.empathy.weight=1"], "swept and set at once"),
        (["reward_weights", "name=x"], "the sweep's own business"),
        (["reward_weights", "algorithm.iteration=1"], "did you mean algorithm.iterations?"),
        (["--resume", "nowhere"], "holds no sweep"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    result = CliRunner().invoke(app, ["sweep", *arguments, "--dry-run"])
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
