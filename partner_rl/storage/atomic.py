"""Files and folders that are whole or absent: written under a hidden name beside, forced to the disk, renamed.

An error or Ctrl-C leaves nothing behind; what a kill leaves, the next writer of the name removes (`temporary`).
Symbolic links are followed: the link stays, what it leads to is replaced. What is neither file nor folder, such as
`/dev/stdout` or a named pipe, is written in place. Permissions are those that a plain `open` gives.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from partner_rl.storage.artefact import FORMAT, MARK, refuse_foreign, seal
from partner_rl.storage.full_disk import FULL_DISK, error_number
from partner_rl.storage.temporary import locked, name_of_replaced, new_file, new_folder
from partner_rl.types import PartnerError

_MAX_LINKS: Final = 40
_MOMENT_S: Final = 0.01
_OF_WRITING: Final = (*FULL_DISK, errno.EFBIG, errno.EIO, errno.EROFS)


class WriteError(PartnerError):
    """A file or folder that cannot be written; nothing of it is left."""

    def __init__(self, path: Path, number: int) -> None:
        """Says what cannot be written and why."""
        reason = os.strerror(number)
        if number in FULL_DISK:
            text = f"the disk of {path} is full ({reason}): make room, and start or resume the command"
        else:
            text = f"cannot write {path}: {reason}; name another place, or change its permissions"
        super().__init__(text)
        self.errno = number


@contextmanager
def file_when_whole(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write to, which has its name once the block has ended well; an older one is replaced.

    Folders on the way to it are made. If the block fails, nothing has changed.

    Raises:
        WriteError: It cannot be written.
    """
    with _write_errors(path):
        if is_written_in_place(path):
            with _in_place(path) as file:
                yield file
            return
        target = real_path(path)
        with _parents_of(target):
            temporary, descriptor = new_file(target)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file
                    file.flush()
                    with contextlib.suppress(FileNotFoundError):
                        os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
                    os.fsync(descriptor)
                    temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            sync(target.parent)


@contextmanager
def text_when_whole(path: Path) -> Iterator[IO[str]]:
    """As `file_when_whole`, for UTF-8 text; what cannot be encoded, half a surrogate pair, becomes a question mark."""
    with file_when_whole(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="", write_through=True)
        try:
            yield text
            text.flush()
        finally:
            # Closing it would close the file, which is not whole yet.
            text.detach()


def write_text(path: Path, text: str) -> Path:
    """Writes a UTF-8 file that appears whole or not at all; returns its path.

    Raises:
        WriteError: It cannot be written.
    """
    with text_when_whole(path) as file:
        file.write(text)
    return path


def write_json(
    path: Path, content: Any, indent: int | None = 2, *, sort_keys: bool = False, allow_nan: bool = True
) -> Path:
    """Writes JSON that appears whole or not at all; returns its path.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot hold, and `allow_nan` is false.
        WriteError: It cannot be written.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, sort_keys=sort_keys, allow_nan=allow_nan)
    return write_text(path, text + "\n")


@contextmanager
def folder_when_whole(path: Path, kind: str | None = None) -> Iterator[Path]:
    """A temporary folder to write into, which has its final name once the block has ended well.

    An older folder is replaced. A block that fails, or that writes nothing, changes nothing: of several processes under
    `accelerate launch` one writes.

    A folder with a kind is marked so and replaces nothing of another kind; one without is a part of something else.

    Raises:
        WriteError: It cannot be written.
        PartnerError: There is something of another kind.
    """
    with _write_errors(path):
        target = real_path(path)
        with _parents_of(target):
            temporary, descriptor = new_folder(target)
            try:
                yield temporary
                if any(temporary.iterdir()):
                    if kind is not None:
                        seal(temporary, kind)
                    for written in sorted(temporary.rglob("*")):
                        sync(written)
                    sync(temporary)
                    _take_place(temporary, target, kind)
                    sync(target.parent)
            finally:
                # Its place has been taken, or it has failed.
                shutil.rmtree(temporary, ignore_errors=True)
                os.close(descriptor)


def growing_folder(path: Path, kind: str) -> Path:
    """Makes a folder that is written file by file, with its mark, or goes on with one of its kind; returns its path.

    Raises:
        WriteError: It cannot be made.
        PartnerError: There is something of another kind.
    """
    refuse_foreign(path, kind)
    if not (path / MARK).exists():
        write_json(path / MARK, {"kind": kind, "format": FORMAT})
    return path


def real_path(path: Path) -> Path:
    """Where a path leads to, through links; the last part need not be there."""
    return Path(os.path.realpath(path.expanduser()))


def is_written_in_place(path: Path) -> bool:
    """Whether a path is neither file nor folder, or is an open file of this process, such as `/dev/stdout`."""
    path = path.expanduser()
    try:
        if _descriptor_of(path) is not None:
            return True
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_place(temporary: Path, target: Path, kind: str | None, tries: int = 100) -> None:
    """Gives a finished folder its name; what is there is renamed rather than removed first: a kill loses neither."""
    replaced = list[Path]()
    with contextlib.ExitStack() as locks:
        while not _renamed(temporary, target):
            # Another writer may be about to replace it, or have done so a moment ago.
            with contextlib.suppress(FileNotFoundError):
                if not locks.enter_context(locked(target)) and (tries := tries - 1):
                    time.sleep(_MOMENT_S)
                    continue
                if kind is not None:
                    refuse_foreign(target, kind)
                shutil.copymode(target, temporary)
                place = name_of_replaced(target)
                target.rename(place)
                replaced.append(place)
        for path in replaced:
            shutil.rmtree(path, ignore_errors=True)


def _renamed(path: Path, target: Path) -> bool:
    """Renames a folder, unless there is one that is not empty."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


@contextmanager
def _parents_of(target: Path) -> Iterator[None]:
    """Makes the folders on the way to a target; those that a failed block leaves empty go again."""
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):
                # Somebody else may have put something there.
                folder.rmdir()
        raise


@contextmanager
def _in_place(path: Path) -> Iterator[IO[bytes]]:
    descriptor = _descriptor_of(path)
    if descriptor is None:
        with path.open("wb") as file:
            yield file
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    # A copy goes on where the process is in the file; opening it again would begin at its start.
    with os.fdopen(os.dup(descriptor), "wb") as file:
        yield file


def _descriptor_of(path: Path) -> int | None:
    """The descriptor of this process that a path such as `/dev/stdout` or `/dev/fd/3` stands for."""
    own = f"/proc/{os.getpid()}/fd"
    for _ in range(_MAX_LINKS):
        if os.path.realpath(path.parent) == own and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Tells errors of writing from others that a block raises, which pass through."""
    try:
        yield
    except Exception as error:
        number = error_number(error)
        hidden = isinstance(error, OSError) and _is_beside(error.filename, path)
        if isinstance(error, WriteError) or number is None or not (hidden or number in _OF_WRITING):
            raise
        raise WriteError(path, number) from error


def _is_beside(name: Any, path: Path) -> bool:
    """Whether an error is about the target, what is written in its place, or the folders on the way to it."""
    if not isinstance(name, (str, bytes)):
        return False
    found, target = Path(os.fsdecode(name)), real_path(path)
    return found == target or found in target.parents or found.name.startswith(f".{target.name}.")
