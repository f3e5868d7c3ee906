"""Folders that are whole or absent, and that say themselves whether they still are.

A folder is written under a temporary name beside its target, forced to the disk and renamed. Its `manifest.json` has
size and SHA-256 of each file, so that a file which was cut off, changed or lost later is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from partner_rl.names import is_plain_name
from partner_rl.types import PartnerError

MANIFEST: Final = "manifest.json"
"""Name of the file with the sizes and checksums of the others."""

_TEMPORARY: Final = re.compile(r"\.(?P<name>.+)\.\d+(?P<old>\.old)?")
"""`.NAME.PROCESS`, and with `.old` a folder that was being replaced."""


def temporary_beside(target: Path) -> Path:
    """The name under which this process writes a file or folder before it takes its final name."""
    return target.with_name(f".{target.name}.{os.getpid()}")


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that are gone left in a folder under temporary names; nobody may be writing there.

    What was just being replaced is put back.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match is None:
            continue
        if match["old"] and not path.with_name(match["name"]).exists():
            path.rename(path.with_name(match["name"]))
        else:
            _remove(path)


@contextmanager
def folder_when_whole(target: Path) -> Iterator[Path]:
    """A temporary folder to write into; at the end of the block it is forced to the disk and takes its final name.

    A folder of the final name is replaced. If the block fails, nothing has changed and the temporary folder is gone.
    """
    temporary = temporary_beside(target)
    _remove(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish(temporary: Path, target: Path) -> None:
    """Forces a finished folder to the disk and gives it its final name, replacing an older one."""
    for path in sorted(temporary.rglob("*")):
        sync(path)
    sync(temporary)
    replaced = temporary.with_name(f"{temporary.name}.old")
    _remove(replaced)
    if target.exists():
        # Renamed rather than removed first: a kill in between loses neither of the two.
        target.rename(replaced)
    temporary.rename(target)
    sync(target.parent)
    _remove(replaced)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(folder: Path) -> None:
    """Notes size and checksum of every file that is directly in the folder."""
    files = {path.name: _entry(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")


def check_manifest(folder: Path) -> None:
    """Compares every file with the manifest.

    Raises:
        PartnerError: The manifest or a file is missing or damaged; says which and how.
    """
    files = _read_manifest(folder)
    _check_sizes(folder, files)
    for name, entry in files.items():
        if _entry(folder / name) != entry:
            raise PartnerError(f"{folder / name} is damaged: its checksum differs from that in {MANIFEST}")


def has_whole_size(folder: Path) -> bool:
    """Whether the folder has all files in the right sizes; quick, and finds whatever was cut off or lost."""
    try:
        _check_sizes(folder, _read_manifest(folder))
    except PartnerError:
        return False
    return True


def _check_sizes(folder: Path, files: dict[str, Any]) -> None:
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise PartnerError(f"{path} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise PartnerError(f"{path} has {path.stat().st_size} bytes instead of {entry['bytes']}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        files: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["files"]
        # A name with a folder in it would lead out of this one.
        if all(is_plain_name(name) and set(entry) == {"bytes", "sha256"} for name, entry in files.items()):
            return files
    except FileNotFoundError as error:
        raise PartnerError(f"{path} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PartnerError(f"{path} is damaged ({type(error).__name__})") from error
    raise PartnerError(f"{path} is damaged")


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
