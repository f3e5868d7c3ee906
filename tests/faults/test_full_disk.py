"""What is written while the disk is full: it waits for room, and nothing is lost or cut off."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from partner_rl.storage.full_disk import is_full_disk, when_there_is_room
from tests.faults.full_disk import command_on_small_disk, run_on_small_disk
from tests.helpers.command_line import environment

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

SCRIPT = """
import json, logging, sys, threading, time
from pathlib import Path
import torch
from launch.run_folder.record import METRICS_FILE, SAMPLES_FILE
from launch.tracking.sink import SampleRow
from launch.tracking.tracker import Tracker
from partner_rl.algorithm.state import TrainingState
from partner_rl.config.load import load_config
from partner_rl.types import PartnerError

disk = Path(sys.argv[1])
ballast = disk / "ballast"


def fill():
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass


def state(iterations):
    return TrainingState(iterations, {}, {"a": torch.full((50_000,), float(iterations))}, {})


def log(tracker, step):
    row = SampleRow("a post " * 500, "a response", "a rewrite", {"total": step / 10})
    tracker.log(step, {"reward/total": step / 10}, [row, row])
    tracker.sync()


class Said(logging.Handler):
    # What is said. Room is made some seconds after it is said that there is none: of a slow process as of a fast one,
    # it is known that it has waited.

    def __init__(self):
        super().__init__()
        self.texts, self.room_after_s, self.timers = [], None, []

    def emit(self, record):
        self.texts.append(record.getMessage())
        if self.room_after_s is not None and "is full: the run waits" in self.texts[-1]:
            self.timers.append(threading.Timer(self.room_after_s, ballast.unlink, (True,)))
            self.timers[-1].start()


def what_happens(what, said, room_after_s):
    fill()
    said.room_after_s = room_after_s
    started = time.monotonic()
    try:
        what()
        error = None
    except PartnerError as raised:
        error = str(raised)
    seconds = time.monotonic() - started
    for timer in said.timers:
        timer.join()
    ballast.unlink(missing_ok=True)
    return {"seconds": seconds, "error": error}


def run(name, wait_s, room_after_s):
    said = Said()
    logging.getLogger().addHandler(said)
    logging.getLogger().setLevel(logging.INFO)
    folder = disk / name
    config = load_config("smoke", [f"faults.room_wait_s={wait_s}"])
    with Tracker(folder, config, config.tracking) as tracker:
        log(tracker, 1)
        state(1).save(folder / "iteration-000001")
        figures = what_happens(lambda: log(tracker, 2), said, room_after_s)
        checkpoint = what_happens(lambda: state(2).save(folder / "iteration-000002", wait_s), said, room_after_s)
    logging.getLogger().removeHandler(said)
    lines = {
        file: [json.loads(line)["step"] for line in (folder / file).read_text().splitlines() if line.endswith("}")]
        for file in (METRICS_FILE, SAMPLES_FILE)
    }
    TrainingState.load(folder / "iteration-000001")
    saved = sorted(path.name for path in folder.glob("*iteration*"))
    return {"figures": figures, "checkpoint": checkpoint, "lines": lines, "saved": saved, "said": said.texts}


# For the hurried one, room is made when it has given up.
print(json.dumps([run("patient", 60.0, 2.0), run("hurried", 1.5, None)]))
"""


@pytest.mark.slow
def test_figures_and_checkpoints_wait_for_room_on_a_full_disk_or_end_the_run_with_one_line(tmp_path):
    result = run_on_small_disk(tmp_path / "disk", "8m", SCRIPT)
    assert result.returncode == 0, result.stderr
    patient, hurried = json.loads(result.stdout)

    for write in (patient["figures"], patient["checkpoint"]):
        assert write["error"] is None
        assert 2.0 < write["seconds"] < 60.0
    assert patient["lines"] == {"metrics.jsonl": [1, 2], "samples.jsonl": [1, 1, 2, 2]}
    assert patient["saved"] == ["iteration-000001", "iteration-000002"]
    said = "\n".join(patient["said"])
    # The first try may itself take a while.
    assert len(re.findall(r"is full: the run waits for room since \d s, and ends after 60 s", said)) == 2
    assert said.count("has room again, after") == 2

    no_figures, no_checkpoint = hurried["figures"]["error"], hurried["checkpoint"]["error"]
    assert "s.jsonl cannot be written ([Errno 28] No space left on device): make room, and resume" in no_figures
    assert "iteration-000002 cannot be written" in no_checkpoint
    assert "No space left on device" in no_checkpoint
    assert hurried["saved"] == ["iteration-000001"]


@pytest.mark.slow
def test_a_command_whose_disk_is_full_from_the_start_says_so_in_one_line(tmp_path):
    folder = tmp_path / "disk"
    arguments = [sys.executable, "-m", "launch.cli", "train", "--preset", "smoke", f"runs_dir={folder}", "name=first"]
    command = command_on_small_disk(folder, "4k", arguments)
    result = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: the disk")
    assert "is full (No space left on device): make room, and start or resume the command" in result.stderr
    assert "Traceback" not in result.stderr


def test_only_a_lack_of_room_is_waited_for(caplog, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(
        "partner_rl.storage.full_disk.time", SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    )

    def fails_with(error):
        def action():
            raise error

        return action

    with pytest.raises(OSError, match="Permission"):
        when_there_is_room(fails_with(PermissionError(errno.EACCES, "Permission denied")), "the disk of x", 60.0)
    assert slept == []
    with pytest.raises(OSError, match="No space"):
        when_there_is_room(fails_with(NO_SPACE), "the disk of x", 0.0)
    assert slept == []
    assert "is full" not in caplog.text
    assert is_full_disk(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert is_full_disk(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full_disk(RuntimeError("I/O error: File too large (os error 27)"))


def test_room_that_comes_late_is_used(caplog):
    caplog.set_level(logging.INFO)
    errors = [NO_SPACE, NO_SPACE]

    def action() -> int:
        if errors:
            raise errors.pop()
        return 7

    assert when_there_is_room(action, "the disk of x", 60.0) == 7
    assert caplog.text.count("is full: the run waits") == 1
    assert "the disk of x has room again" in caplog.text


def test_a_small_disk_is_really_small(tmp_path):
    result = run_on_small_disk(
        tmp_path / "disk", "1m", "import shutil, sys; print(shutil.disk_usage(sys.argv[1]).total)"
    )
    assert result.stdout.strip() == str(2**20)
    assert shutil.disk_usage(tmp_path / "disk").total > 2**20
