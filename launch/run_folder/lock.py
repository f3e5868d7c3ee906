"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from partner_rl.types import PartnerError

LOCK_FILE: Final = ".lock"


@contextmanager
def alone(folder: Path, work: str) -> Iterator[None]:
    """Keeps other processes out of a folder for the time of a block.

    Messages say that another process is at this work there, such as "training".

    Raises:
        PartnerError: Another process is at work there, or nothing can be written there.
    """
    # The kernel lets go of the lock when the process ends, however it ends.
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise PartnerError(f"another process is {work} in {folder}: wait for it, or stop it first") from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "its file system knows no locks"
        raise PartnerError(f"{folder} cannot be written to ({reason}): change its permissions, or copy it") from error
    try:
        yield
    finally:
        lock.release()
