"""A folder's own list of sizes and checksums, by which a file that was cut off, changed or lost later is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from partner_rl.storage.file_names import is_plain_name
from partner_rl.types import PartnerError

MANIFEST: Final = "manifest.json"
"""Name of the file with the sizes and checksums of the others."""


def write_manifest(folder: Path) -> None:
    """Notes size and checksum of every file that is directly in a folder that is being made."""
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
