"""Names out of data and configurations that become file names: each must stay in the folder it is meant for."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath
from typing import Final

MAX_BYTES: Final = 200
"""Longest name; file systems take 255 bytes, and files are written under longer, temporary names first."""


def is_plain_name(name: str) -> bool:
    """Whether a text names something that lies directly in a folder, whatever the folder.

    It may hold neither slash nor backslash, nor characters that steer a terminal, is neither `.` nor `..`, and not
    longer than `MAX_BYTES` in UTF-8.
    """
    if not name or name in {".", ".."} or any(char in "/\\" or _is_control(char) for char in name):
        return False
    return len(name.encode("utf-8")) <= MAX_BYTES


def is_path_inside(path: str) -> bool:
    """Whether a relative path with `/` leads to something below the folder that it is seen from."""
    parts = PurePosixPath(path).parts
    return bool(parts) and all(is_plain_name(part) for part in parts)


def _is_control(char: str) -> bool:
    # Half of a surrogate pair cannot be written as UTF-8, and other formats' marks (Cf) may hide what a name says.
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
