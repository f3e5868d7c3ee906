"""What a folder of ours is, in its own words: `partner_rl.json` with `kind` and `format`.

Every folder that a command writes has this mark. A command replaces or goes on with a folder of its own kind only, so
that it never removes what another one, or the user, has put there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from partner_rl.storage.temporary import is_temporary
from partner_rl.types import PartnerError

MARK: Final = "partner_rl.json"
"""File that says what a folder is."""

FORMAT: Final = 1
_FILES: Final = "files"
_LOCK: Final = ".lock"
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Mark:
    """What a folder says of itself: its kind, such as `judge`, the version of its layout, and all else in its mark."""

    kind: str
    format: int
    content: Mapping[str, Any]


def write_mark(folder: Path, kind: str, format: int = FORMAT, **content: Any) -> None:
    """Marks a folder that is being made."""
    text = json.dumps({"kind": kind, "format": format, **content}, indent=2) + "\n"
    (folder / MARK).write_text(text, encoding="utf-8")


def read_mark(folder: Path) -> Mark | None:
    """The mark of a folder; None where there is none that can be read."""
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return Mark(str(content["kind"]), int(content["format"]), content)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def seal(folder: Path, kind: str) -> None:
    """Adds to the mark of a finished folder, which may be missing, the names of all that belongs to it."""
    mark = read_mark(folder)
    content = {} if mark is None else {key: mark.content[key] for key in mark.content if key not in ("kind", "format")}
    names = sorted({MARK, *(path.name for path in folder.iterdir())})
    write_mark(folder, kind, FORMAT if mark is None else mark.format, **{**content, _FILES: names})


def refuse_foreign(folder: Path, kind: str, name: str = "") -> None:
    """Checks that a folder is absent, empty, or of a kind and without anything that was put there since.

    `name` is what the folder was named with, for the message: `--output`.

    Raises:
        PartnerError: It holds something else; says what.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [one for one in names if one != _LOCK and not is_temporary(one)]
    if not found:
        return
    mark, shown = read_mark(folder), f"{name} {folder}".strip()
    if mark is None:
        raise PartnerError(f"{shown} holds something else ({_some(found)}): name a new folder")
    if mark.kind != kind:
        raise PartnerError(f"{shown} holds something else (kind {mark.kind!r}, not {kind!r}): name a new folder")
    others = [one for one in found if one not in mark.content.get(_FILES, found)]
    if others:
        raise PartnerError(f"{shown} holds something else too ({_some(others)}): move it, or name a new folder")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
