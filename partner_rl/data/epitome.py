"""The EPITOME CSV layout: one file a mechanism, joined into labelled pairs (Sharma et al., EMNLP 2020).

Columns: `sp_id`, `rp_id`, `seeker_post`, `response_post`, `level`, `rationales` (separated by `|`). The three public
files spell the same posts differently (white space, words that were cut out), and some pairs were annotated twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Final

from partner_rl.data.delimited import csv_records
from partner_rl.data.records import Record, Reject, Remark
from partner_rl.data.rows import (
    BadRowError,
    checked_id,
    checked_level,
    checked_post,
    checked_rationales,
    make_label,
    response_hash,
    seeker_hash,
)
from partner_rl.progress import Progress, no_progress, part_of
from partner_rl.types import MECHANISMS, Example, PartnerError

EPITOME_FILES: Final = tuple(f"{mechanism.replace('_', '-')}-reddit.csv" for mechanism in MECHANISMS)
"""File names in the order of `MECHANISMS`."""

EPITOME_COLUMNS: Final = ("sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales")
"""Columns of each file."""

REPEATED: Final = "pair annotated before: the first annotation is kept"
"""Remark on a row whose pair stands further up with the same text."""

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Annotation:
    """One checked row of one file."""

    line: int
    seeker_post: str
    response_post: str
    level: int
    rationales: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _MechanismFile:
    """What one file holds: annotations by pair, the ids of rejected rows, and what to tell the user."""

    name: str
    annotations: dict[_Key, _Annotation] = field(default_factory=dict)
    rejected: set[_Key] = field(default_factory=set)
    messages: list[Reject | Remark] = field(default_factory=list)


def epitome_folder(folder: Traversable) -> Traversable:
    """The folder that holds the three files: this one, or its `dataset` folder.

    Raises:
        PartnerError: One of the files is missing.
    """
    for candidate in (folder, folder.joinpath("dataset")):
        if all(candidate.joinpath(name).is_file() for name in EPITOME_FILES):
            return candidate
    raise PartnerError(
        f"{folder} holds no corpus in the EPITOME layout ({', '.join(EPITOME_FILES)}, there or in its folder dataset) "
        "and no other files of pairs; `partner-rl data pull epitome` fetches the public corpus"
    )


def is_epitome(folder: Traversable) -> bool:
    """Whether `epitome_folder` finds the three files."""
    try:
        epitome_folder(folder)
    except PartnerError:
        return False
    return True


def read_epitome(
    folder: Traversable, max_characters: int, progress: Progress = no_progress
) -> Iterator[Example | Reject | Remark]:
    """The labelled pairs of a folder, in the order of the first file; each joined from its row in all three files.

    Of the three spellings of a post the longest is kept, and rationales are looked up in it.

    Raises:
        PartnerError: A file is missing, cannot be read or lacks columns.
    """
    place = epitome_folder(folder)
    files = [
        _read_file(place.joinpath(name), max_characters, part_of(progress, index, len(EPITOME_FILES)))
        for index, name in enumerate(EPITOME_FILES)
    ]
    for file in files:
        yield from file.messages
    for key in dict.fromkeys(key for file in files for key in file.annotations):
        yield from _join(key, files)


def _read_file(path: Traversable, max_characters: int, progress: Progress) -> _MechanismFile:
    file = _MechanismFile(path.name)

    def read_header(found: Sequence[str]) -> list[str]:
        names = [name.strip().lower() for name in found]
        missing = [name for name in EPITOME_COLUMNS if name not in names]
        if missing or len(set(names)) != len(names):
            raise PartnerError(
                f"{path.name}: the header lacks or repeats columns; expected {','.join(EPITOME_COLUMNS)}"
            )
        return names

    for record in csv_records(path, read_header, progress):
        if isinstance(record, Reject):
            file.messages.append(record)
        else:
            _add(record, file, max_characters)
    return file


def _add(record: Record, file: _MechanismFile, max_characters: int) -> None:
    key: _Key | None = None
    try:
        ids = checked_id(record.values, ("sp_id",)), checked_id(record.values, ("rp_id",))
        if ids[0] and ids[1]:
            key = (ids[0], ids[1])
        seeker = checked_post(record.values, "seeker_post", max_characters)
        response = checked_post(record.values, "response_post", max_characters)
        key = (ids[0] or seeker_hash(seeker), ids[1] or response_hash(seeker, response))
        annotation = _Annotation(
            record.line,
            seeker,
            response,
            checked_level(record.values["level"], "level"),
            checked_rationales(record.values["rationales"], "rationales"),
        )
        earlier = file.annotations.get(key)
        if earlier is None:
            file.annotations[key] = annotation
        elif (earlier.seeker_post, earlier.response_post) == (seeker, response):
            file.messages.append(Remark(record.line, REPEATED, file.name))
        else:
            raise BadRowError(f"same ids as line {earlier.line} with another text")
    except BadRowError as error:
        file.messages.append(Reject(record.line, str(error), file.name))
        if key is not None:
            file.rejected.add(key)


def _join(key: _Key, files: Sequence[_MechanismFile]) -> Iterator[Example | Reject | Remark]:
    found = [(file, file.annotations[key]) for file in files if key in file.annotations]
    absent = [file for file in files if key not in file.annotations]
    if absent:
        # A row that was rejected in its own file is reported there already.
        unexplained = [file.name for file in absent if key not in file.rejected]
        if unexplained:
            file, annotation = found[0]
            yield Reject(annotation.line, f"no row with these ids in {', '.join(unexplained)}", file.name)
        return
    response = max((annotation.response_post for _, annotation in found), key=len)
    labels = []
    for file, annotation in found:
        label, remarks = make_label(annotation.level, annotation.rationales, response)
        labels.append(label)
        yield from (Remark(annotation.line, remark, file.name) for remark in remarks)
    first, second, third = labels
    yield Example(
        seeker_id=key[0],
        response_id=key[1],
        seeker_post=max((annotation.seeker_post for _, annotation in found), key=len),
        response_post=response,
        labels=(first, second, third),
    )
