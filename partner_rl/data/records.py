"""Files → raw records with line numbers. A line that cannot be read costs that line, never the rest of the file."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import IO, Any, Final, TypeVar

from partner_rl.types import PartnerError

Progress = Callable[[int, int], None]
"""Called with (bytes or rows read, bytes or rows in the file)."""

MAX_RECORD_CHARACTERS: Final = 1_000_000
"""A longer CSV record counts as a quotation mark that was never closed; also the longest field that is read."""

_PROGRESS_EVERY: Final = 256
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Record:
    """One row as read, nothing checked but its shape.

    Attributes:
        line: The line on which it starts, from 1.
        values: Column → value; text in CSV and TSV files, any JSON value in JSONL files.
    """

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot be used. Holds no text of any post.

    Attributes:
        line: The line on which the row starts, from 1 (the row number in a Parquet file).
        reason: What is wrong with it.
        file: Name of the file.
    """

    line: int
    reason: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a row that was mended or left out while the pair was kept. Holds no text of any post.

    Attributes:
        line: The line on which the row starts, from 1.
        reason: What was done; the same words for the same kind of remark.
        file: Name of the file.
    """

    line: int
    reason: str
    file: str = ""


def csv_records(
    path: Traversable, read_header: Callable[[list[str]], list[str]], progress: Progress | None = None
) -> Iterator[Record | Reject]:
    """The records of a CSV file with a header line.

    Bytes that are not UTF-8 arrive as lone surrogates (PEP 383), for the caller to reject. After a record with the
    wrong number of columns, or with a quotation mark that never closes, reading goes on at the next physical line.

    Args:
        path: The file.
        read_header: Names of the columns as found → names of the columns in `Record.values`; raises when some lack.
        progress: Called with bytes.

    Raises:
        PartnerError: The file cannot be opened or has no header line.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_CHARACTERS))
    with open_binary(path) as binary:
        size = _size(binary)
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
        lines = _Lines(text)
        reader = csv.reader(lines, strict=True)
        header = next(_rows(lines, reader, None, path.name), None)
        if header is None or isinstance(header, Reject):
            raise PartnerError(f"{path.name} has no header line with the names of its columns")
        names = read_header(header[1])
        for row in _reporting(_rows(lines, reader, len(names), path.name), binary, size, progress):
            yield row if isinstance(row, Reject) else Record(row[0], dict(zip(names, row[1], strict=True)))


def tsv_records(
    path: Traversable, names: tuple[str, ...], progress: Progress | None = None
) -> Iterator[Record | Reject]:
    """The lines of a tab-separated file without header and without quoting, such as PARTNER's own.

    Raises:
        PartnerError: The file cannot be opened.
    """
    with open_binary(path) as binary:
        size = _size(binary)
        for number, raw in enumerate(_reporting(binary, binary, size, progress), start=1):
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape").rstrip("\r\n")
            fields = line.split("\t")
            if not line or tuple(fields) == names:
                continue
            if len(fields) == len(names):
                yield Record(number, dict(zip(names, fields, strict=True)))
            else:
                yield Reject(number, f"{len(fields)} columns instead of {len(names)}", path.name)


def jsonl_records(path: Traversable, progress: Progress | None = None) -> Iterator[Record | Reject]:
    """The lines of a file with one JSON object on each.

    Raises:
        PartnerError: The file cannot be opened.
    """
    with open_binary(path) as binary:
        size = _size(binary)
        for number, raw in enumerate(_reporting(binary, binary, size, progress), start=1):
            if not raw.strip():
                continue
            try:
                value = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                yield Reject(number, "not UTF-8", path.name)
            except (ValueError, RecursionError):
                yield Reject(number, "not JSON", path.name)
            else:
                is_object = isinstance(value, dict)
                yield Record(number, value) if is_object else Reject(number, "not a JSON object", path.name)


def open_binary(path: Traversable) -> IO[bytes]:
    """Open a file for reading bytes.

    Raises:
        PartnerError: The file cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise PartnerError(f"cannot read {path}: {error.strerror or error}") from error


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


def _size(binary: IO[bytes]) -> int:
    size = binary.seek(0, io.SEEK_END)
    binary.seek(0)
    return size


def _reporting(rows: Iterable[_T], binary: IO[bytes], size: int, progress: Progress | None) -> Iterator[_T]:
    for number, row in enumerate(rows):
        if progress is not None and number % _PROGRESS_EVERY == 0:
            progress(binary.tell(), size)
        yield row
    if progress is not None:
        progress(size, size)
