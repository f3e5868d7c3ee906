"""Hidden files and folders that are being written beside their targets, `.NAME.HEX.part`.

Each is locked for as long as its process lives; the kernel lets go of the lock however the process ends. So leftovers
of killed processes are told from what is being written, on whichever machine, and the next writer of the name removes
them.
`.NAME.HEX.old` is a folder that was just being replaced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<state>part|old)", re.DOTALL)
_MAX_NAME_BYTES: Final = 230
"""Of the 255 that a name may have, less those of the dots and the ending."""


def new_file(target: Path) -> tuple[Path, int]:
    """An empty, locked file beside the target, with the permissions of any new file; its path and open descriptor."""
    return _claimed(target, lambda path: os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))


def new_folder(target: Path) -> tuple[Path, int]:
    """An empty, locked folder beside the target; its path and the descriptor that holds the lock."""

    def make(path: Path) -> int | None:
        path.mkdir()
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        return None

    return _claimed(target, make)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Locks a file or folder, whatever it is called meanwhile, for the time of a block.

    Gives False where another process has locked it; True where the file system has no locks.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        except OSError as error:
            is_ours = error.errno != errno.EWOULDBLOCK
        yield is_ours
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A folder for the time of a block, under a hidden name beside a target that is never made."""
    path, descriptor = new_folder(target)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def name_of_replaced(target: Path) -> Path:
    """A new name beside the target, for what is there until it is replaced."""
    return _beside(target, "old")


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Removes what processes that are gone left unfinished in a folder; what was just being replaced is put back.

    With a name, only what was to become this file or folder.
    """
    wanted = None if name is None else _label(name)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is not None and wanted in (None, match["name"]):
            # What is another user's, say, stays: it is in nobody's way.
            with contextlib.suppress(OSError):
                _settle(path, path.with_name(match["name"]), was_replaced=match["state"] == "old")


def is_temporary(name: str) -> bool:
    """Whether a name is one of those that are given here."""
    return _NAME.fullmatch(name) is not None


def _settle(path: Path, target: Path, *, was_replaced: bool) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # Fails where somebody is writing it, and where there are no locks, so that nobody knows.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if was_replaced and not os.path.lexists(target):
            path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def _claimed(target: Path, make: Callable[[Path], int | None]) -> tuple[Path, int]:
    remove_unfinished(target.parent, target.name)
    while True:
        path = _beside(target, "part")
        descriptor = make(path)
        # Another one that removes what is unfinished may be faster than the lock.
        if descriptor is None:
            continue
        # On a file system without locks, leftovers stay.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(path, descriptor):
            return path, descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _beside(target: Path, state: str) -> Path:
    return target.with_name(f".{_label(target.name)}.{secrets.token_hex(4)}.{state}")


def _label(name: str) -> str:
    encoded = os.fsencode(name)
    return name if len(encoded) <= _MAX_NAME_BYTES else hashlib.sha256(encoded).hexdigest()
