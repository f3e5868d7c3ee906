"""`run.json`: whether a run is at work, where, since when, and what it was started from; names of the files beside it.

Whoever trains in a run folder writes it (`recorded`, inside of the folder's lock); everybody else only reads.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from launch.interrupt import received
from launch.run_folder.lock import LOCK_FILE
from launch.run_folder.provenance import provenance
from partner_rl.storage.artefact import MARK
from partner_rl.storage.atomic import WriteError, write_json
from partner_rl.storage.temporary import is_temporary
from partner_rl.types import PartnerError

logger = logging.getLogger(__name__)

CONFIG_FILE: Final = "config.yaml"
RUN_FILE: Final = "run.json"
FINGERPRINTS_FILE: Final = "fingerprints.json"
METRICS_FILE: Final = "metrics.jsonl"
SAMPLES_FILE: Final = "samples.jsonl"
STALL_FILE: Final = "stall.json"
LEFT_BY_A_START: Final = frozenset({LOCK_FILE, MARK, CONFIG_FILE, RUN_FILE, FINGERPRINTS_FILE})
"""Files of a training that has computed nothing yet."""
TEXT_COLUMNS: Final = ("seeker_post", "response_post", "rewritten_response")
"""The texts of a line of `samples.jsonl`; its other columns are metrics."""

RunState = Literal["new", "running", "finished", "interrupted", "failed", "killed"]
"""`new`: nobody has trained there. `killed`: the process is gone without having said how it ended."""


def has_begun(folder: Path) -> bool:
    """Whether a training's folder holds something to go on with, more than a start that has computed nothing leaves."""
    return folder.is_dir() and any(
        path.name not in LEFT_BY_A_START and not is_temporary(path.name) for path in folder.iterdir()
    )


def read_record(run_dir: Path) -> dict[str, Any]:
    """What `run.json` says; empty where there is none.

    Raises:
        PartnerError: The file is damaged.
    """
    path = run_dir / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise PartnerError(f"{path} is damaged: remove it; the run's metrics and checkpoints do not need it")
    return record


def update_record(run_dir: Path, values: Mapping[str, Any]) -> None:
    """Sets some of the record's values; the file is replaced whole."""
    write_json(run_dir / RUN_FILE, read_record(run_dir) | dict(values))


@contextmanager
def recorded(run_dir: Path) -> Iterator[None]:
    """Notes that this process works on the run for the time of a block, and how the block ended."""
    process = psutil.Process()
    _warn_of_other_versions(read_record(run_dir).get("provenance"))
    update_record(
        run_dir,
        {
            "state": "running",
            "host": socket.gethostname(),
            "pid": process.pid,
            "process_started": process.create_time(),
            "started": now(),
            "ended": None,
            "reason": None,
            "provenance": provenance().as_json(),
        },
    )
    try:
        yield
    except KeyboardInterrupt:
        _end(run_dir, "interrupted", received())
        raise
    except BaseException as error:
        # The message of an error that is not meant for users may quote a post.
        _end(run_dir, "failed", str(error) if isinstance(error, PartnerError) else type(error).__name__)
        raise
    _end(run_dir, "finished", None)


def _warn_of_other_versions(earlier: Any) -> None:
    """Says which packages are of another version than when the run was last at work: its last digits may differ."""
    before = earlier.get("packages") if isinstance(earlier, dict) else None
    if not isinstance(before, dict):
        return
    packages = provenance().packages
    changed = [name for name in packages if before.get(name) != packages[name]]
    if changed:
        versions = ", ".join(f"{name} {packages[name]} instead of {before.get(name, 'none')}" for name in changed)
        logger.warning("going on with other versions, with which sums may round differently: %s", versions)


def _end(run_dir: Path, state: RunState, reason: str | None) -> None:
    try:
        update_record(run_dir, {"state": state, "ended": now(), "reason": reason})
    except WriteError as error:
        # On a full disk, what ended the run matters more; without the note it counts as killed.
        logger.warning("%s is not up to date: %s", run_dir / RUN_FILE, error)


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_state(record: Mapping[str, Any]) -> RunState:
    """The state that a record stands for.

    A run of another machine counts as running as long as it has not said otherwise, because nobody here can know.
    """
    state: RunState = record.get("state", "new")
    here = record.get("host") == socket.gethostname()
    pid, started = record.get("pid"), record.get("process_started")
    is_alive = isinstance(pid, int) and isinstance(started, int | float) and _is_alive(pid, started)
    if state == "running" and here and not is_alive:
        return "killed"
    return state


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        # Another process may have got the number since.
        same = abs(float(process.create_time()) - started) < 1.0
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
