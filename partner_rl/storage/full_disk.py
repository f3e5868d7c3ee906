"""Room to write: whether there may be any, and waiting for it instead of losing what is to be written."""

from __future__ import annotations

import errno
import logging
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S: Final = 1.0
"""Seconds between two tries."""

_TOLD_S: Final = 60.0
FULL_DISK: Final = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of a full disk or quota."""
_RUST_ERROR: Final = re.compile(r"\(os error (\d+)\)")


def error_number(error: BaseException) -> int | None:
    """The operating system's number of an error, which what is written in Rust has in its text alone."""
    if (number := getattr(error, "errno", None)) is not None:
        return int(number)
    match = _RUST_ERROR.search(str(error))
    return None if match is None else int(match[1])


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full."""
    return error_number(error) in FULL_DISK


def existing_folder(folder: Path) -> Path:
    """The folder or, where there is none yet, the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder or, where there is none yet, the folder itself; nothing is left there."""
    try:
        with tempfile.TemporaryFile(dir=existing_folder(folder)):
            return True
    except OSError:
        return False


def when_there_is_room(
    action: Callable[[], T], what: str, wait_s: float, is_full: Callable[[BaseException], bool] = is_full_disk
) -> T:
    """Does something that needs room, again and again while there is none; says so at once and then every minute.

    Args:
        action: What to do; may be repeated after an error that `is_full` knows.
        what: What is full, for the message: `the disk of runs/first`.
        wait_s: Seconds to wait at most; then the last error is raised.
        is_full: Tells errors that more room would help from others, which are raised at once.
    """
    started = time.monotonic()
    told: float | None = None
    while True:
        try:
            result = action()
        except Exception as error:
            waited = time.monotonic() - started
            if not is_full(error) or waited >= wait_s:
                raise
            if told is None or waited - told >= _TOLD_S:
                told = waited
                logger.warning(
                    "%s is full: the run waits for room since %.0f s, and ends after %.0f s", what, waited, wait_s
                )
            time.sleep(min(RETRY_S, wait_s - waited))
            continue
        if told is not None:
            logger.info("%s has room again, after %.0f s", what, time.monotonic() - started)
        return result


def disk_of(path: Path) -> str:
    """How messages call the disk that a path is on."""
    return f"the disk of {path}"
