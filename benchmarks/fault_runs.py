"""Trainings that something is done to: the real command in a process of its own, watched from outside."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.command import ROOT
from launch.run_folder.reader import JsonlTail
from launch.run_folder.record import METRICS_FILE
from partner_rl.config.load import load_config, save_config
from partner_rl.types import PartnerError

TIMEOUT_S: Final = 300.0
"""Seconds that anything may take here."""

_TRAIN: Final = (sys.executable, "-m", "launch.cli", "train")
_COMMON: Final = (
    "algorithm.iterations=1000000",
    "checkpoint.every=4",
    "resources.driver_threads=1",
    "resources.actor_threads=1",
    "resources.object_store_mb=100",
    "rewards.num_cpus=0.25",
    "policy.lora.rank=2",
    "tracking.tensorboard=false",
)
_POLL_S: Final = 0.02
_MESSAGE: Final = re.compile(r"(?:WARNING|^error:)\s+(?P<text>.*?)\s*$")
_WENT_BACK: Final = re.compile(r"(?:resuming|going on) after iteration (\d+)")
_PATHS: Final = re.compile(r"(?:/\S+/)?runs/")
_MOUNT: Final = 'mount -t tmpfs -o size="$1" tmpfs "$2" && cp -r "$3"/. "$2" && shift 3 && exec "$@"'


def wait_for(true: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Waits for a condition.

    Raises:
        PartnerError: It did not come true in time.
    """
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise PartnerError(f"waited {timeout_s:.0f} s for {what}: see the log beside the run")
        time.sleep(_POLL_S)


@dataclass
class Training:
    """A training at work.

    Attributes:
        folder: Its run folder, as this process sees it.
        log: What it has printed.
        process: Its driver.
    """

    folder: Path
    log: Path
    process: subprocess.Popen[bytes]
    _printed: int = field(default=0, init=False)
    _iterations: int = field(default=0, init=False)

    def iterations(self) -> int:
        """The last iteration that it has logged."""
        rows = JsonlTail(self.folder / METRICS_FILE).rows()
        return int(rows[-1]["step"]) if rows else 0

    def _metrics(self) -> tuple[int, int]:
        """Identity and lines of the file of figures; a run that goes back writes it anew."""
        try:
            path = self.folder / METRICS_FILE
            return path.stat().st_ino, len(JsonlTail(path).rows())
        except FileNotFoundError:
            return 0, 0

    def await_iterations(self, count: int) -> None:
        """Waits until it has logged so many."""
        wait_for(lambda: self.iterations() >= count or self._ended(), f"iteration {count}")
        if self._ended():
            raise PartnerError(f"the training ended too early: {self.log.read_text()[-1000:]}")

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def mark(self) -> float:
        """Remembers how things stand; what is asked for below is counted from here. Returns the time."""
        self._printed, self._iterations = len(self.log.read_text()), self.iterations()
        return time.monotonic()

    def await_next(self, since: float) -> float:
        """Seconds from a moment until the next iteration is logged."""
        identity, count = self._metrics()
        while True:
            found, lines = self._metrics()
            if found != identity:
                # What is there again at once was there before.
                identity, count = found, lines
            if lines > count:
                return time.monotonic() - since
            if self._ended() or time.monotonic() - since > TIMEOUT_S:
                raise PartnerError(f"no iteration follows: {self.log.read_text()[-1000:]}")
            time.sleep(_POLL_S)

    def lost(self) -> int:
        """Finished iterations that had to be done again since the mark."""
        back = [int(number) for number in _WENT_BACK.findall(self._since())]
        return max((self._iterations - number for number in back), default=0)

    def _since(self) -> str:
        return self.log.read_text()[self._printed :]

    def messages(self) -> list[str]:
        """Warnings and the error since the mark."""
        found = [_MESSAGE.search(line) for line in self._since().splitlines()]
        return list(dict.fromkeys(_PATHS.sub("runs/", match["text"]) for match in found if match))

    def says(self, text: str) -> bool:
        """Whether it has printed a text since the mark."""
        return text in self._since()

    def workers(self, kind: str) -> list[psutil.Process]:
        """Its local processes of a class of actors."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if _title(child).startswith(f"ray::{kind}")]

    def end(self) -> None:
        """Ends it with all its processes."""
        with suppress(psutil.NoSuchProcess):
            driver = psutil.Process(self.process.pid)
            for process in [*driver.children(recursive=True), driver]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


@dataclass(frozen=True)
class Lab:
    """A folder with what every training begins with: reward models and a warm start of tiny models.

    Attributes:
        folder: Where runs are made.
    """

    folder: Path

    @property
    def _base(self) -> Path:
        return self.folder / "runs" / "base"

    def prepare(self) -> None:
        """Makes it, with one iteration.

        Raises:
            PartnerError: The command failed.
        """
        arguments = ["--preset", "smoke", "name=base", f"runs_dir={self.folder / 'runs'}", "policy.lora.rank=2"]
        result = subprocess.run(
            [*_TRAIN, *arguments, "algorithm.iterations=1"], cwd=ROOT, env=_environment({}), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if result.returncode:
            raise PartnerError(f"the first training failed: {result.stderr[-1000:]}")

    def run_folder(self, name: str, settings: Sequence[str]) -> Path:
        """A run folder whose RL phase is about to begin."""
        run = self.folder / "runs" / name
        for part in ("rewards", "warm_start"):
            shutil.copytree(self._base / part, run / part)
        config = load_config(str(self._base / "config.yaml"), [*_COMMON, f"name={name}", *settings])
        save_config(config, run / "config.yaml")
        return run

    @contextmanager
    def training(
        self, run: Path, environment: Mapping[str, str] | None = None, small_disk: str | None = None
    ) -> Iterator[Training]:
        """The command at work on a run folder, for the time of a block.

        Args:
            run: The run folder.
            environment: Further variables.
            small_disk: Size of a file system of its own that the folder is moved to, such as `64m`.
        """
        command: list[Any] = [*_TRAIN, "--resume", run]
        if small_disk is not None:
            place = Path(f"{run}-disk")
            place.mkdir()
            command = [*_TRAIN, "--resume", place]
            command = [
                "unshare",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                _MOUNT,
                "sh",
                small_disk,
                place,
                run,
                *command,
            ]
        log = self.folder / f"{run.name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=_environment(environment or {}), stdout=output, stderr=output
            )
        seen = run if small_disk is None else Path(f"/proc/{process.pid}/root{place}")
        running = Training(seen, log, process)
        running.mark()
        try:
            yield running
        finally:
            running.end()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    # Messages are read line by line.
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "1000", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **own, **more}


def kill(process: psutil.Process) -> None:
    """SIGKILL."""
    process.send_signal(signal.SIGKILL)
