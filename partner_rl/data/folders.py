"""The data files of a folder; folders that are not finished, or mix several corpora, are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from partner_rl.types import PartnerError

DONE: Final = "_done"
"""Folder of the done markers in an output folder of a command, one for each file that is whole."""

RUN: Final = "run.json"
"""File among the done markers that says what the folder is made of, and how many files it will have (`units`)."""

REJECTS_SUFFIX: Final = ".rejects.jsonl"
"""How the names of lists of rejected rows end, which stand beside the pairs."""

_ENDS: Final = {f"_work/{DONE}": f"{DONE}/curate.json", f"_candidates/{DONE}": "report.json"}
"""Done markers of what a command's passes leave for each other → the file that the command writes at its end."""


def data_files(folder: Path, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    """The data files of a folder in the order of their names, all of one format.

    Hidden files, those whose names begin with `_`, subfolders, and lists of rejected rows do not count.

    Returns:
        The files; empty if there are none.

    Raises:
        PartnerError: The folder cannot be read, is an unfinished output of a command, or holds several formats.
    """
    refuse_unfinished(folder)
    try:
        found = sorted(path for path in folder.iterdir() if path.name[0] not in "._" and path.is_file())
    except OSError as error:
        raise PartnerError(f"cannot read {folder}: {error.strerror or error}") from error
    files = tuple(path for path in found if path.suffix.lower() in suffixes and not path.name.endswith(REJECTS_SUFFIX))
    formats = sorted({path.suffix.lower() for path in files})
    if len(formats) > 1:
        raise PartnerError(
            f"the folder {folder} holds files of several formats ({', '.join(formats)}), which may be the same pairs: "
            "name one file, or a folder with one format"
        )
    return files


def refuse_unfinished(folder: Path) -> None:
    """Checks that a folder is not what a data command was stopped at.

    Raises:
        PartnerError: Fewer of its files are done than it will have.
    """
    unfinished = PartnerError(
        f"{folder} is unfinished: run the command that makes it again, which continues where it was stopped"
    )
    if any((folder / work).is_dir() and not (folder / end).exists() for work, end in _ENDS.items()):
        raise unfinished
    path = folder / DONE / RUN
    try:
        units = json.loads(path.read_text(encoding="utf-8")).get("units", 0)
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError) as error:
        raise PartnerError(f"{path} cannot be read: make the folder {folder} again") from error
    if sum((folder / f"{marker.stem}.parquet").is_file() for marker in path.parent.glob("*.json")) < units:
        raise unfinished
