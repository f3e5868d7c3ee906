"""Sending what W&B wrote into the run folder: while the run goes on, at its end, or later.

Each start of a run leaves one segment, a folder `wandb/offline-run-TIME-ID`. W&B's own `sync` sends them in the order
of their times, joins those of one id to one run, and leaves a marker beside each that it has sent whole.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from launch.console import typed_command
from launch.tracking.upload_process import COMMAND
from partner_rl.types import PartnerError

_logger = logging.getLogger(__name__)

LOG_FILE: Final = "upload.log"
_SEGMENTS: Final = "*run-*"
_STOP_S: Final = 10.0
_REACH_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Segment:
    """What one start of a run left for W&B, in a folder of its own."""

    folder: Path

    @property
    def is_sent(self) -> bool:
        """Whether W&B has all of it."""
        logs = list(self.folder.glob("*.wandb"))
        return all(path.with_name(f"{path.name}.synced").exists() for path in logs)


def segments(run_dir: Path) -> list[Segment]:
    """What a run left for W&B, oldest first."""
    folders = (run_dir / "wandb").glob(_SEGMENTS)
    real = [path for path in folders if path.is_dir() and not path.is_symlink()]
    return [Segment(path) for path in sorted(real, key=lambda path: path.name.partition("run-")[2])]


def unsent(run_dir: Path) -> list[Segment]:
    """What W&B has not got, or not whole."""
    return [segment for segment in segments(run_dir) if not segment.is_sent]


class Uploader:
    """A process that sends a segment while it grows, and before it what earlier starts left; ends with this process."""

    def __init__(self, run_dir: Path, current: Path) -> None:
        self._run_dir = run_dir
        self._current = Segment(current)
        earlier = [segment.folder for segment in unsent(run_dir) if segment.folder.name != current.name]
        self._log = (run_dir / "wandb" / LOG_FILE).open("a", encoding="utf-8")
        self._process = _start(earlier, current, self._log)
        self._is_told = False

    def check(self) -> None:
        """Says once when the process has ended before its time."""
        if self._process.poll() is not None and not self._current.is_sent:
            self._tell("the upload to W&B has ended early")

    def close(self, wait_s: float) -> None:
        """Waits for so many seconds until all is sent, and says so when it is not."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            _end(self._process)
        self._log.close()
        if unsent(self._run_dir):
            self._tell(f"W&B has not got all of the run after {wait_s:g} s")

    def _tell(self, what: str) -> None:
        if not self._is_told:
            self._is_told = True
            log = self._run_dir / "wandb" / LOG_FILE
            sync = typed_command("runs", "sync", self._run_dir)
            _logger.warning("%s (see %s); nothing is lost: %s", what, log, sync)


def send_all(run_dir: Path, timeout_s: float | None) -> list[Segment]:
    """Sends what W&B has not got yet of a run that nobody trains; without `timeout_s` it may take any time.

    Returns:
        What was to be sent.

    Raises:
        PartnerError: Some of it could not be sent.
    """
    waiting = unsent(run_dir)
    if not waiting:
        return []
    log = run_dir / "wandb" / LOG_FILE
    with log.open("a", encoding="utf-8") as file:
        process = _start([segment.folder for segment in waiting], None, file)
        try:
            process.wait(timeout_s)
        except BaseException as error:
            _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
    left = unsent(run_dir)
    if left:
        raise PartnerError(
            f"W&B took {len(waiting) - len(left)} of {len(waiting)} parts of {run_dir}: see {log}, check "
            "WANDB_API_KEY and WANDB_BASE_URL, then try again"
        )
    return waiting


def check_server(url: str) -> None:
    """Looks whether W&B's server, such as `https://api.wandb.ai`, answers; W&B itself would try again for hours.

    Raises:
        PartnerError: Nobody answers there.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_REACH_S).close()
    except OSError as error:
        raise PartnerError(
            f"the W&B server {url} does not answer ({error.strerror or error}): check WANDB_BASE_URL and the network"
        ) from error


def _start(folders: list[Path], live: Path | None, log: IO[str]) -> subprocess.Popen[str]:
    """Starts the process; with `live`, a segment that grows comes last."""
    arguments = [*COMMAND, "--parent", str(os.getpid()), *(["--live", str(live.absolute())] if live else [])]
    return subprocess.Popen(
        [sys.executable, *arguments, *(str(folder.absolute()) for folder in folders)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        # Ctrl-C is for the training, which then ends in good order.
        start_new_session=True,
        text=True,
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    deadline = time.monotonic() + _STOP_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.05)
