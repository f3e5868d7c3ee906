"""What a command is going to write, checked before anything is loaded, computed or made.

    check_outputs([NewFolder(output, "judge")], inputs=[data])

The same call stands before `--dry-run`, so that both say the same. Folders on the way to an output are made when it is
written; nothing is made here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

from partner_rl.storage.artefact import read_mark, refuse_foreign
from partner_rl.storage.atomic import is_written_in_place, real_path
from partner_rl.types import PartnerError

_TABLES: Final = frozenset({".csv", ".tsv", ".jsonl", ".parquet"})
_MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that is replaced; `name` is what the command line calls it."""

    path: Path
    name: str = "--output"


@dataclass(frozen=True, slots=True)
class NewFolder:
    """A folder that is written whole; an older one of its kind is replaced."""

    path: Path
    kind: str
    name: str = "--output"


@dataclass(frozen=True, slots=True)
class GrowingFolder:
    """A folder that is written file by file; one of its kind is gone on with."""

    path: Path
    kind: str
    name: str = "--output"


Output = OutputFile | NewFolder | GrowingFolder


def check_outputs(outputs: Sequence[Output], inputs: Iterable[Path | str | None] = ()) -> None:
    """Refuses outputs that could not be written, or that would destroy something.

    Inputs are all that the command reads; names of something else (`sample`, `pypi:NAME`) count for nothing here.

    Raises:
        PartnerError: An output is of the wrong kind, not writable, an input, a part of something else, or another
            output; one line says which and why.
    """
    read = [real_path(Path(one)) for one in inputs if one is not None and os.path.exists(Path(one).expanduser())]
    for output in outputs:
        if isinstance(output, OutputFile):
            _check_file(output, read)
        else:
            _check_folder(output, read)
    for first, second in combinations(outputs, 2):
        _check_apart(first, second)


def _check_file(output: OutputFile, inputs: Sequence[Path]) -> None:
    target = real_path(output.path)
    if is_written_in_place(output.path):
        if not os.access(output.path.expanduser(), os.W_OK):
            raise PartnerError(f"{_shown(output)} is not writable: name another file")
        return
    _check_place(output, target)
    if target.is_dir():
        raise PartnerError(f"{_shown(output)} is a folder: name a file in it")
    if not target.exists():
        if target.parent in inputs and _is_table(target) and any(map(_is_table, target.parent.iterdir())):
            raise PartnerError(f"{_shown(output)} would be read as a part of {target.parent}: name a file elsewhere")
        return
    if any(_is_same(target, one) for one in inputs):
        raise PartnerError(f"{_shown(output)} is an input of this command: name another file")
    whole = next((folder for folder in target.parents if folder in inputs or read_mark(folder) is not None), None)
    if whole is not None:
        what = "the input" if whole in inputs else f"the {_kind_of(whole)}"
        raise PartnerError(f"{_shown(output)} is a file of {what} {whole}: name another file")
    if not os.access(target, os.W_OK):
        raise PartnerError(f"{_shown(output)} is write-protected: name another file, or change its permissions")


def _check_folder(output: NewFolder | GrowingFolder, inputs: Sequence[Path]) -> None:
    target, is_replaced = real_path(output.path), isinstance(output, NewFolder)
    _check_place(output, target, is_filled=not is_replaced)
    if os.path.lexists(target) and not target.is_dir():
        raise PartnerError(f"{_shown(output)} is a file: name a folder")
    if any(_is_same(target, one) for one in inputs):
        raise PartnerError(f"{_shown(output)} is an input of this command: name another folder")
    inside = next((one for one in inputs if target in one.parents), None)
    if is_replaced and inside is not None:
        raise PartnerError(f"{_shown(output)} holds the input {inside}, which would be lost: name another folder")
    if is_replaced and target.is_dir() and (target == Path.cwd() or target in Path.cwd().parents):
        raise PartnerError(f"{_shown(output)} is the working directory, which is not replaced: name a folder in it")
    refuse_foreign(target, output.kind, output.name)
    whole = next((folder for folder in target.parents if read_mark(folder) is not None), None)
    if is_replaced and whole is not None and target.is_dir() and any(target.iterdir()):
        raise PartnerError(f"{_shown(output)} is a part of the {_kind_of(whole)} {whole}: name another folder")


def _check_place(output: Output, target: Path, *, is_filled: bool = False) -> None:
    """What replaces a name needs a folder that can be written to around it; what is filled, to be writable itself."""
    there = target.parent
    while not os.path.lexists(there):
        there = there.parent
    if any(len(os.fsencode(part)) > os.pathconf(there, "PC_NAME_MAX") for part in target.relative_to(there).parts):
        raise PartnerError(f"{_shown(output)}: the name is too long: name another place")
    if target.is_symlink():
        raise PartnerError(f"{_shown(output)} is a link that leads to itself: name another place")
    if is_filled and target.is_dir():
        there = target
    if not there.is_dir():
        raise PartnerError(f"{_shown(output)}: {there} is a file, so that nothing can be in it: name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PartnerError(f"{_shown(output)}: {there} is not writable: name another place, or change its permissions")
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        raise PartnerError(f"{_shown(output)}: {there} is on a read-only file system: name another place")
    if not is_filled and str(target) in _mount_points():
        raise PartnerError(f"{_shown(output)} is a mount point, which cannot be replaced: name something in it")


def _check_apart(first: Output, second: Output) -> None:
    if is_written_in_place(first.path) or is_written_in_place(second.path):
        return
    one, other = real_path(first.path), real_path(second.path)
    replaced = [target for target, output in ((one, first), (other, second)) if isinstance(output, NewFolder)]
    if _is_same(one, other) or any(target in (*one.parents, *other.parents) for target in replaced):
        raise PartnerError(f"{_shown(second)} and {_shown(first)} are the same place: name two")


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths are one, or names of one file."""
    return path == other or (path.exists() and other.exists() and path.samefile(other))


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in _TABLES


def _kind_of(folder: Path) -> str:
    mark = read_mark(folder)
    assert mark is not None
    return mark.kind


def _shown(output: Output) -> str:
    return f"{output.name} {output.path}"


def _mount_points() -> set[str]:
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    # White space and backslashes in a path are written as octal numbers.
    return {re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), line.split()[4]) for line in lines}
