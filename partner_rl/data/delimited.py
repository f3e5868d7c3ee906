"""CSV and TSV files → raw records. A line that cannot be read costs that line, never the rest of the file."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources.abc import Traversable
from typing import Final

from partner_rl.data.records import Record, Reject
from partner_rl.data.text_files import open_text
from partner_rl.progress import Progress, no_progress
from partner_rl.types import PartnerError

MAX_RECORD_CHARACTERS: Final = 1_000_000
"""A longer record counts as a quotation mark that was never closed; also the longest field that is read."""

ReadHeader = Callable[[Sequence[str]], list[str]]
"""Names of the columns as found → names of the columns in `Record.values`; raises a `PartnerError` when some lack."""

_SEPARATORS: Final = (",", ";", "\t", "|")
_SEPARATOR_LINE: Final = re.compile(r'"?sep=')
"""The line above the header by which spreadsheets tell each other the separator."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_ENOUGH_EVIDENCE: Final = 1000
"""Records with quotation marks that are looked at to tell whether a file is quoted."""


def csv_records(
    path: Traversable, read_header: ReadHeader, progress: Progress = no_progress
) -> Iterator[Record | Reject]:
    """The records of a file with a header line, whose columns commas separate, or semicolons, tabs or bars.

    Bytes that are not UTF-8 arrive as lone surrogates (PEP 383), for the caller to reject. After a record with the
    wrong number of columns, or with a quotation mark that never closes, reading goes on at the next physical line.

    Raises:
        PartnerError: The file cannot be opened, has no header line, or lacks columns.
    """
    separator = _separator(_first_line(path), read_header, _SEPARATORS) or ","
    return _records(path, separator, read_header, None, progress)


def tsv_records(
    path: Traversable, read_header: ReadHeader, names: Sequence[str], progress: Progress = no_progress
) -> Iterator[Record | Reject]:
    """The records of a tab-separated file, with a header line or, such as PARTNER's own, without.

    Quotation marks are those of a spreadsheet or of pandas, or belong to the text, as in PARTNER's file; which it is,
    the file's records tell.

    Args:
        path: The file.
        read_header: Names the columns; a first line that it refuses is a pair, unless it consists of names.
        names: The columns of a file without header.
        progress: Called with bytes.

    Raises:
        PartnerError: The file cannot be opened, or its header lacks columns.
    """
    header = _first_line(path)
    separator = _separator(header, read_header, ("\t", *_SEPARATORS))
    if separator is not None:
        return _records(path, separator, read_header, None, progress)
    fields = header.split("\t")
    if any("_" in field for field in fields) and all(map(_NAME.fullmatch, fields)):
        read_header(fields)
    return _records(path, "\t", read_header, names, progress)


def _first_line(path: Traversable) -> str:
    """The line that would be the header; empty in an empty file."""
    with open_text(path) as file:
        lines = (line.rstrip("\r\n") for line in file.text)
        return next((line for line in lines if line and not _SEPARATOR_LINE.match(line)), "")


def _separator(header: str, read_header: ReadHeader, candidates: Iterable[str]) -> str | None:
    """The separator by which the line is a header with the columns that are needed; None where there is none."""
    for separator in candidates:
        try:
            read_header(next(csv.reader([header], delimiter=separator, strict=True), []))
        except (csv.Error, PartnerError):
            continue
        return separator
    return None


def _records(
    path: Traversable,
    separator: str,
    read_header: ReadHeader,
    names: Sequence[str] | None,
    progress: Progress,
) -> Iterator[Record | Reject]:
    """The records; where no names are given, the first row is the header."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_CHARACTERS))
    # Posts hold commas, so that files with commas are quoted; hardly one holds a tab.
    is_quoted = separator != "\t" or _is_quoted(path, has_header=names is None)
    with open_text(path, newline="" if is_quoted else "\n") as file:
        lines = _Lines(file.text)
        reader = csv.reader(lines, delimiter=separator, strict=True) if is_quoted else _split(lines, separator)
        header = list(names or _header(_rows(lines, reader, None, path.name), path.name))
        columns = names or read_header(header)
        for row in file.reporting(_rows(lines, reader, len(header), path.name), progress):
            if isinstance(row, Reject):
                yield row
            elif row[1] == header:
                # Files that were put together keep their headers.
                yield Reject(row[0], "the header again", path.name)
            else:
                yield Record(row[0], dict(zip(columns, row[1], strict=True)))


def _header(rows: Iterable[tuple[int, list[str]] | Reject], file: str) -> list[str]:
    for row in rows:
        if isinstance(row, Reject):
            break
        if not _SEPARATOR_LINE.match(row[1][0]):
            return row[1]
    raise PartnerError(f"{file} has no header line with the names of its columns")


def _split(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """The fields of each line, in which quotation marks are text."""
    for line in lines:
        text = line.rstrip("\r\n")
        yield text.split(separator) if text else []


def _is_quoted(path: Traversable, *, has_header: bool) -> bool:
    """Whether the quotation marks of a tab-separated file are a writer's; otherwise they belong to the text.

    For it speak fields that a writer had to quote, because they hold a tab, a line break or a quotation mark, which is
    doubled. Against it speak records that no writer makes. Files with a header are a writer's unless more speaks
    against it. Those without, such as PARTNER's own, only if more speaks for it or every field is quoted; there, a
    field with tabs and line breaks may be whole rows, from a mark that is never closed to the next one.
    """
    speaks_for = speaks_against = 0
    is_all_quoted = True
    with open_text(path) as file:
        lines = _Lines(file.text)
        reader = csv.reader(lines, delimiter="\t", strict=True)
        for row in _rows(lines, reader, None, path.name):
            fields = [] if isinstance(row, Reject) else row[1]
            quoted = _quoted_fields(lines.record, fields)
            may_be_rows = not has_header and any("\t" in field and "\n" in field for field in fields)
            is_all_quoted &= quoted == fields and not may_be_rows
            if quoted is None or may_be_rows:
                speaks_against += 1
            else:
                speaks_for += any(character in field for field in quoted for character in '"\t\r\n')
            if speaks_for + speaks_against >= _ENOUGH_EVIDENCE:
                break
    return speaks_for >= speaks_against if has_header else is_all_quoted or speaks_for > speaks_against


def _quoted_fields(record: str, fields: Sequence[str]) -> list[str] | None:
    """Those of a record's fields that are quoted as a writer quotes; None if no writer makes such a record."""
    at, found = 0, list[str]()
    if fields and '"' not in record:
        return found
    for field in fields:
        quoted = '"' + field.replace('"', '""') + '"'
        is_quoted = record.startswith(quoted, at)
        if not is_quoted and ('"' in field or not record.startswith(field, at)):
            return None
        at += len(quoted if is_quoted else field) + 1
        found += [field] if is_quoted else []
    return found if fields else None


class _RunawayRecordError(Exception):
    """A record goes on for so long that a quotation mark must be missing."""


class _Lines(Iterator[str]):
    """The physical lines of a file; those of a broken record can be read once more, from its second line."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._pending: deque[str] = deque()
        self._record: list[str] = []
        self._characters = 0
        self.start = 1

    def __next__(self) -> str:
        if self._characters >= MAX_RECORD_CHARACTERS:
            raise _RunawayRecordError
        line = self._pending.popleft() if self._pending else next(self._lines)
        self._record.append(line)
        self._characters += len(line)
        return line

    @property
    def record(self) -> str:
        """The lines of the current record, as they stand in the file."""
        return "".join(self._record)

    def begin_record(self) -> None:
        """The lines from here on belong to the next record, which starts on line `start`."""
        self.start += len(self._record)
        self._record.clear()
        self._characters = 0

    def give_back(self) -> None:
        """Read the current record's lines again, except the first."""
        self._pending.extendleft(reversed(self._record[1:]))
        del self._record[1:]


def _rows(
    lines: _Lines, reader: Iterator[list[str]], width: int | None, file: str
) -> Iterator[tuple[int, list[str]] | Reject]:
    while True:
        lines.begin_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _RunawayRecordError:
            reason = "a quotation mark is never closed"
        except csv.Error as error:
            reason = f"not CSV: {error}"
        else:
            if not fields:
                continue
            if width is None or len(fields) == width:
                yield lines.start, fields
                continue
            reason = f"{len(fields)} columns instead of {width}"
        yield Reject(lines.start, reason, file)
        lines.give_back()
