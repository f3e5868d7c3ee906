"""Resuming a run: the folder's own housekeeping, and the real command killed by SIGKILL."""

from __future__ import annotations

import json
import logging
import os
import random
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from launch.run_folder.folder import RunFolder
from launch.run_folder.record import METRICS_FILE, SAMPLES_FILE, read_record
from launch.tracking.sink import SampleRow
from launch.tracking.tracker import Tracker
from launch.training.rl_loop import restore_newest
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.state import WEIGHTS, TrainingState
from partner_rl.config.load import load_config, save_config
from partner_rl.metric_names import OF_THE_MACHINE
from partner_rl.storage.atomic import folder_when_whole
from partner_rl.storage.manifest import MANIFEST
from partner_rl.types import PartnerError
from tests.helpers.command_line import COMMAND, ROOT, environment, partner
from tests.helpers.waiting import wait_until

SETTINGS = ["resources.driver_threads=1", "resources.actor_threads=1", "policy.lora.rank=2"]
SETTINGS += ["algorithm.iterations=6", "checkpoint.every=2", "checkpoint.keep=9", "algorithm.advantage=reinforce"]
SETTINGS += ["rewards.variety.weight=0.5", "rewards.variety.window=8"]
# One scorer is enough; it is the same for all runs, whatever they have trained.
SETTINGS += [f"rewards.{name}.weight=0" for name in ("empathy", "coherence", "mutual_information")]
TIMEOUT_S = 500.0

# --- the run folder ---------------------------------------------------------------------------------------------------


class Loader:
    """Stands for the algorithm: it reads a state and keeps no model."""

    def restore_training_state(self, folder: Path) -> int:
        return TrainingState.load(folder).iterations


def restore(run: RunFolder, before: int | None = None) -> int:
    return restore_newest(cast(RewriteAlgorithm, Loader()), run, before)


def saved_run(folder: Path, *steps: int) -> RunFolder:
    run = RunFolder(folder)
    for step in steps:
        TrainingState(step, {}, {}, {}).save(run.checkpoint(step))
    return run


def damage(checkpoint: Path, size: int = 9) -> None:
    (checkpoint / WEIGHTS).write_bytes((checkpoint / WEIGHTS).read_bytes()[:size])


def names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_the_newest_checkpoint_is_taken(tmp_path):
    assert restore(saved_run(tmp_path, 2, 10, 4)) == 10


def test_a_damaged_checkpoint_is_named_once_and_the_one_before_taken(tmp_path, caplog):
    run = saved_run(tmp_path, 2, 4, 6)
    damage(run.checkpoint(6))
    with caplog.at_level(logging.WARNING):
        assert restore(run) == 4
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "iteration-000006" in warning
    assert "instead of" in warning
    assert names(run) == ["iteration-000002", "iteration-000004", "iteration-000006.discarded"]
    # The damaged one goes when the run has got as far again.
    TrainingState(6, {}, {}, {}).save(run.checkpoint(6))
    run.drop_old_checkpoints(keep=2)
    assert names(run) == ["iteration-000004", "iteration-000006"]


def test_a_run_never_starts_anew_when_no_checkpoint_can_be_read(tmp_path):
    run = saved_run(tmp_path, 2, 4)
    for path in run.saved_checkpoints():
        damage(path)
    with pytest.raises(PartnerError, match="none of the 2 checkpoints") as caught:
        restore(run)
    assert "\n" not in str(caught.value)
    assert names(run) == ["iteration-000002", "iteration-000004"]


def test_a_run_without_a_checkpoint_starts_at_the_beginning(tmp_path):
    assert restore(RunFolder(tmp_path)) == 0


def test_going_back_takes_an_earlier_checkpoint_and_no_resume_takes_a_later_one(tmp_path):
    run = saved_run(tmp_path, 2, 4, 6)
    assert restore(run, before=6) == 4
    assert restore(run) == 4
    with pytest.raises(PartnerError, match="no checkpoint before iteration 2"):
        restore(run, before=2)


def test_old_checkpoints_are_dropped_and_multiples_kept(tmp_path):
    run = saved_run(tmp_path, 2, 4, 6, 8, 10)
    run.drop_old_checkpoints(keep=2, keep_every=4)
    assert names(run) == ["iteration-000004", "iteration-000008", "iteration-000010"]


def test_a_checkpoint_that_was_cut_off_does_not_count_as_kept(tmp_path):
    run = saved_run(tmp_path, 2, 4, 6)
    damage(run.checkpoint(4))
    run.drop_old_checkpoints(keep=2)
    assert names(run) == ["iteration-000002", "iteration-000006"]


def test_left_over_temporary_folders_are_removed_at_the_start(tmp_path):
    run = saved_run(tmp_path / "run", 2)
    work = [run.path / ".warm_start.training", run.rewards / "empathy"]
    folders = (run.checkpoints / "iteration-000004", run.path / "export", run.rewards / "coherence")
    leftovers = [path.with_name(f".{path.name}.0123abcd.part") for path in folders]
    for folder in (*work, *leftovers):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    with run.resumable():
        assert not any(path.exists() for path in leftovers)
        assert all(path.exists() for path in work)
    assert names(run) == ["iteration-000002"]


def test_a_second_process_is_refused_and_a_killed_one_does_not_lock(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom launch.run_folder.folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).resumable():\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        with pytest.raises(PartnerError, match="another process is training"), RunFolder(tmp_path).resumable():
            pass
        first.kill()
    with RunFolder(tmp_path).resumable():
        pass


@pytest.mark.reported
@pytest.mark.parametrize("left", [".config.yaml.0123abcd.part", "config.yaml", "run.json", ".lock", "partner_rl.json"])
def test_a_start_that_computed_nothing_does_not_take_the_name(tmp_path, left):
    config = load_config("smoke", [f"runs_dir={tmp_path}", "name=a"])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / left).touch()
    run = RunFolder.create(config, "x")
    assert RunFolder.open(run.path)[1] == config
    (run.path / "rewards").mkdir()
    with pytest.raises(PartnerError, match="resume it with"):
        RunFolder.create(config, "x")


@pytest.mark.reported
def test_a_name_is_not_taken_from_a_start_that_is_under_way(tmp_path):
    config = load_config("smoke", [f"runs_dir={tmp_path}", "name=a"])
    run = RunFolder.create(config, "x")
    with run.resumable(), pytest.raises(PartnerError, match="another process is training"):
        RunFolder.create(config, "x")


@pytest.mark.reported
def test_a_folder_or_file_of_somebody_elses_is_no_run(tmp_path):
    config = load_config("smoke", [f"runs_dir={tmp_path}", "name=a"])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    with pytest.raises(PartnerError, match="none of our runs"):
        RunFolder.create(config, "x")
    (tmp_path / "b").touch()
    with pytest.raises(PartnerError, match="cannot be made"):
        RunFolder.create(config.model_copy(update={"name": "b"}), "x")


@pytest.mark.reported
@pytest.mark.parametrize("name", ["my run", "it's", "a;b", "$HOME", "[red]x", "*"])
def test_the_command_to_go_on_with_survives_a_shell(tmp_path, name):
    run = RunFolder(tmp_path / name)
    assert shlex.split(run.resume_command) == ["partner-rl", "train", "--resume", str(run.path)]
    with pytest.raises(KeyboardInterrupt) as caught, interrupted(run):
        pass
    assert str(caught.value).endswith(run.resume_command)


@contextmanager
def interrupted(run: RunFolder) -> Iterator[None]:
    run.path.mkdir()
    with run.resumable():
        yield
        raise KeyboardInterrupt


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "export"
    with folder_when_whole(target) as folder:
        (folder / "a").write_text("old")

    def fail_halfway() -> None:
        with folder_when_whole(target) as folder:
            (folder / "a").write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_halfway()
    assert (target / "a").read_text() == "old"
    with folder_when_whole(target) as folder:
        (folder / "a").write_text("new")
    assert (target / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


# --- figures ----------------------------------------------------------------------------------------------------------

# U+2028 ends a line to `str.splitlines`; the emoji takes four bytes.
ROW = SampleRow("I am\u2028 so low 😭", "Go out.", "I am sorry 😭", {"total": 0.1})


def log(run_dir: Path, first: int, last: int, resume_step: int | None) -> None:
    config = load_config("smoke", ["tracking.wandb=disabled"])
    with Tracker(run_dir, config, config.tracking, resume_step=resume_step) as tracker:
        for step in range(first, last + 1):
            tracker.log(step, {"reward/total": step / 3}, [ROW, ROW])
        tracker.sync()


def test_figures_after_a_resume_are_those_of_an_undisturbed_run(tmp_path):
    log(tmp_path / "whole", 1, 6, None)
    log(tmp_path / "killed", 1, 5, None)
    log(tmp_path / "killed", 4, 6, 3)
    for name in (METRICS_FILE, SAMPLES_FILE):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("name", [METRICS_FILE, SAMPLES_FILE])
def test_a_last_line_that_was_cut_off_anywhere_is_repaired(tmp_path, name):
    log(tmp_path / "whole", 1, 3, None)
    path = tmp_path / "whole" / name
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    before = b"\n".join(lines[:-2]) + b"\n"
    for size in range(len(lines[-2]) + 1):
        path.write_bytes(before + lines[-2][:size])
        log(tmp_path / "whole", 1, 0, 3)
        assert path.read_bytes() == (whole if size == len(lines[-2]) else before)


def tensorboard_points(folder: Path) -> list[tuple[int, float]]:
    """The points of `reward/total` as TensorBoard shows them: a session's start hides what came from its step on."""
    points: list[tuple[int, float]] = []
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place + 12 <= len(content):
            (size,) = struct.unpack("<Q", content[place : place + 8])
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += size + 16
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                points = [point for point in points if point[0] < event.step]
            points += [(event.step, v.simple_value) for v in event.summary.value if v.tag == "reward/total"]
    return points


def test_tensorboard_shows_each_step_once(tmp_path):
    log(tmp_path, 1, 5, None)
    time.sleep(1.1)  # Event files are named by the second.
    log(tmp_path, 4, 6, 3)
    points = tensorboard_points(tmp_path / "tensorboard")
    assert points == [(step, pytest.approx(step / 3)) for step in range(1, 7)]


# --- the command ------------------------------------------------------------------------------------------------------


def finish(run: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    result = partner("train", "--resume", run.name, *overrides, folder=run.parent)
    assert result.returncode == 0, result.stderr
    return result


def kill_when(run: Path, ready: Callable[[], bool], delay_s: float, last: Callable[[], bool]) -> None:
    """Resumes a run and kills its whole process group a while after a condition holds.

    Args:
        run: The run.
        ready: The condition.
        delay_s: Seconds to wait after it.
        last: Cuts that wait short. The run's pace is that of the machine at this moment: it may be over before.
    """
    process = subprocess.Popen(
        [*COMMAND, "train", "--resume", run.name],
        cwd=run.parent,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(ready, "the run does not come so far", process=process)
        deadline = time.monotonic() + delay_s
        while time.monotonic() < deadline and not last():
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rows(run: Path, name: str = METRICS_FILE) -> list[dict[str, Any]]:
    """The logged rows without the columns that hold times."""
    lines = (run / name).read_text(encoding="utf-8").split("\n")[:-1]
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(OF_THE_MACHINE)} for line in lines]


def steps_logged(run: Path) -> int:
    path = run / METRICS_FILE
    return path.read_bytes().count(b"\n") if path.exists() else 0


def assert_same_training(found: Path, expected: Path) -> None:
    assert rows(found) == rows(expected)
    assert rows(found, SAMPLES_FILE) == rows(expected, SAMPLES_FILE)
    for checkpoint in ("iteration-000004", "iteration-000006"):
        manifests = [(run / "checkpoints" / checkpoint / MANIFEST).read_bytes() for run in (found, expected)]
        assert manifests[0] == manifests[1], checkpoint
    exports = [(run / "export" / "model.safetensors").read_bytes() for run in (found, expected)]
    assert exports[0] == exports[1]
    assert not [path for path in (*found.iterdir(), *(found / "checkpoints").iterdir()) if ".part" in path.name]


@pytest.fixture(scope="module")
def undisturbed(commands_share_ray, tmp_path_factory) -> Path:
    """Six iterations in one go, with real reward actors."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = partner("train", "--preset", "smoke", "name=run", "runs_dir=.", *SETTINGS, folder=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def phases_done(undisturbed: Path, folder: Path) -> Path:
    """A run that was stopped when RL was about to begin."""
    run = folder / "run"
    for name in ("rewards", "warm_start"):
        shutil.copytree(undisturbed / name, run / name)
    shutil.copy(undisturbed / "config.yaml", run)
    return run


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_before_its_first_checkpoint_and_in_iteration_4_equals_an_undisturbed_one(undisturbed, tmp_path):
    run = phases_done(undisturbed, tmp_path)
    kill_when(run, lambda: steps_logged(run) >= 1, 0.0, lambda: True)
    assert not RunFolder(run).saved_checkpoints() or steps_logged(run) >= 2
    seconds = [json.loads(line)["time/iteration"] for line in (undisturbed / METRICS_FILE).read_text().splitlines()]
    kill_when(run, lambda: steps_logged(run) >= 3, random.uniform(0, min(seconds)), lambda: steps_logged(run) >= 4)
    assert not (run / "export").exists()
    finish(run)
    assert_same_training(run, undisturbed)


@pytest.mark.slow
@pytest.mark.reported
@pytest.mark.timeout(1800)
def test_sigterm_leaves_a_run_that_resumes_to_the_same_figures(undisturbed, tmp_path):
    run = phases_done(undisturbed, tmp_path)
    command = [*COMMAND, "train", "--resume", run.name]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: steps_logged(run) > 0, "no iteration is logged", process=process)
    # To all of its processes, as a service manager or `timeout` sends it.
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130, stderr
    assert "go on with: partner-rl train --resume" in stderr
    assert "***" not in stderr, "the native dump of Ray's core"
    assert (read_record(run)["state"], read_record(run)["reason"]) == ("interrupted", "SIGTERM")
    assert not (run / "export").exists()
    finish(run)
    assert_same_training(run, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_truncated_checkpoint_costs_the_iterations_since_the_one_before(undisturbed, tmp_path):
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    shutil.rmtree(run / "export")
    damage(RunFolder(run).checkpoint(6), 1000)
    (run / "checkpoints" / ".iteration-000008.0123abcd.part").mkdir()
    result = finish(run)
    printed = " ".join(result.stderr.split())
    assert printed.count("trying the one before") == 1
    assert "iteration-000006" in printed
    assert_same_training(run, undisturbed)
    assert names(RunFolder(run)) == ["iteration-000002", "iteration-000004", "iteration-000006"]


@pytest.mark.slow
@pytest.mark.reported
@pytest.mark.timeout(1800)
def test_a_run_that_was_extended_equals_one_that_was_planned_as_long(undisturbed, tmp_path):
    run = phases_done(undisturbed, tmp_path)
    save_config(load_config(str(run / "config.yaml"), ["algorithm.iterations=3"]), run / "config.yaml")
    finish(run)
    assert steps_logged(run) == 3
    finish(run, "algorithm.iterations=6")
    assert_same_training(run, undisturbed)
    assert load_config(str(run / "config.yaml")).algorithm.iterations == 6
