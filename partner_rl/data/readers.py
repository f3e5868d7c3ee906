"""One source → its pairs, its rejected rows and remarks, whatever the format."""

from __future__ import annotations

import importlib.resources
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, TypeVar

from partner_rl.config.paths import SAMPLE, absolute_path
from partner_rl.data.columns import POSTS, pair_column, pair_columns
from partner_rl.data.delimited import csv_records, tsv_records
from partner_rl.data.epitome import EPITOME_FILES, epitome_folder, is_epitome, read_epitome
from partner_rl.data.folders import data_files
from partner_rl.data.jsonl import jsonl_records
from partner_rl.data.parquet import parquet_records
from partner_rl.data.records import Record, Reject, Remark
from partner_rl.data.rows import BadRowError, parse_pair
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.atomic import text_when_whole
from partner_rl.types import Example, PartnerError

DEFAULT_MAX_CHARACTERS: Final = 20_000
"""A longer post is rejected, unless the caller says otherwise (`DataConfig.max_post_characters`)."""

FORMATS: Final = (".csv", ".tsv", ".jsonl", ".parquet")
"""How the names of files of pairs end."""

Parse = Callable[[Mapping[str, Any], int], tuple["_T", list[str]]]
"""A raw row and the longest post → what it holds, and remarks on what was left out; or a `BadRowError`."""

_T = TypeVar("_T")
_MOST_REASONS: Final = 3


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Everything that a source holds, in its order."""

    examples: tuple[Example, ...]
    rejects: tuple[Reject, ...]
    remarks: tuple[Remark, ...]


@dataclass(slots=True)
class Sieve:
    """Lets the pairs through and keeps the rest."""

    rejects: list[Reject] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def pairs(self, rows: Iterable[Example | Reject | Remark]) -> Iterator[Example]:
        """The pairs among the rows, as they come."""
        for row in rows:
            if isinstance(row, Example):
                yield row
            elif isinstance(row, Reject):
                self.rejects.append(row)
            else:
                self.remarks.append(row)


def read_examples(
    source: str, max_post_characters: int = DEFAULT_MAX_CHARACTERS, progress: Progress = no_progress
) -> ReadResult:
    """Read a whole source (see `iter_rows`).

    Raises:
        PartnerError: The source cannot be read, or holds not one pair that can be used.
    """
    sieve = Sieve()
    examples = tuple(sieve.pairs(iter_rows(source, max_post_characters, progress)))
    if not examples:
        raise PartnerError(no_pairs_message(source, sieve.rejects))
    return ReadResult(examples, tuple(sieve.rejects), tuple(sieve.remarks))


def iter_rows(
    source: str, max_post_characters: int = DEFAULT_MAX_CHARACTERS, progress: Progress = no_progress
) -> Iterator[Example | Reject | Remark]:
    """Read a source row by row; only the EPITOME layout, whose files are joined, is held in memory.

    Args:
        source: `sample`, a folder in the EPITOME CSV layout (or one that holds it in `dataset`), a file of pairs, or a
            folder of such files, all of one format: .csv, .tsv, .jsonl or .parquet, with the columns `seeker_post` and
            `response_post` and whatever else `rows.parse_pair` knows, in any order; a .tsv file of two columns needs
            no header. What `data curate` and `data label` write is such a folder.
        max_post_characters: A longer post is rejected.
        progress: Called with (done, total) bytes or rows.

    Raises:
        PartnerError: The source does not exist, cannot be read, is unfinished, or lacks columns.
    """
    folder = epitome_source(source)
    if folder is not None:
        return read_epitome(folder, max_post_characters, progress)
    return iter_files(source_files(source), parse_pair, max_post_characters, progress)


def epitome_source(source: str) -> Traversable | None:
    """The folder with the three files, if the source is the sample or in the EPITOME layout."""
    if source == SAMPLE:
        return importlib.resources.files("partner_rl.data").joinpath("sample")
    folder = _existing(source)
    return epitome_folder(folder) if is_epitome(folder) else None


def source_files(source: str) -> tuple[Path, ...]:
    """The files of pairs that a source names, in the order in which they are read.

    Raises:
        PartnerError: There are none, their format cannot be told, or the folder is unfinished or mixes formats.
    """
    path = _existing(source)
    if path.is_dir():
        files = data_files(path, FORMATS)
        if not files or any(file.name in EPITOME_FILES for file in files):
            epitome_folder(path)
        return files
    if not path.is_file():
        raise PartnerError(f"{source} is no regular file, and is read more than once: write it to a file first")
    if path.suffix.lower() not in FORMATS:
        raise PartnerError(f"cannot tell the format of {source}: expected a file that ends in {', '.join(FORMATS)}")
    return (path,)


def _existing(source: str) -> Path:
    path = absolute_path(source)
    try:
        path.stat()
    except OSError as error:
        raise PartnerError(
            f"no data at {source} ({error.strerror}): give {SAMPLE!r}, a file of pairs ({', '.join(FORMATS)}), "
            "a folder of them, or one in the EPITOME layout"
        ) from error
    return path


def write_rejects(rejects: Iterable[Reject], path: Path) -> None:
    """Write rejected rows as JSONL with `file`, `line` and `reason`; the file appears complete or not at all.

    Raises:
        PartnerError: The file cannot be written.
    """
    with text_when_whole(path) as file:
        file.writelines(json.dumps(asdict(reject)) + "\n" for reject in rejects)


def no_pairs_message(source: str, rejects: Sequence[Reject]) -> str:
    """The error message for a source without a usable pair."""
    if not rejects:
        return f"{source} holds no pairs"
    first = rejects[0]
    return (
        f"{source} holds no usable pair: {len(rejects)} rows rejected ({reasons(rejects)}), the first at "
        f"{first.file} line {first.line}"
    )


def describe(reject: Reject) -> str:
    """A rejected row in one line."""
    return f"{reject.file} line {reject.line}: {reject.reason}"


def reasons(rows: Iterable[Reject | Remark]) -> str:
    """The commonest reasons of rejected rows, or remarks on others, with their numbers, in one line."""
    counts = Counter(row.reason for row in rows)
    shown = [f"{count} × {reason}" for reason, count in counts.most_common(_MOST_REASONS)]
    return ", ".join([*shown, "…"] if len(counts) > _MOST_REASONS else shown)


def iter_files(
    files: Sequence[Path], parse: Parse[_T], max_characters: int, progress: Progress = no_progress
) -> Iterator[_T | Reject | Remark]:
    """Read files of pairs row by row, one after the other.

    Raises:
        PartnerError: A file cannot be read, or lacks columns.
    """
    sizes = [file.stat().st_size for file in files]
    for index, file in enumerate(files):
        yield from _parsed(_records(file, _bytes_of(progress, sizes, index)), file.name, parse, max_characters)


def _bytes_of(progress: Progress, sizes: Sequence[int], index: int) -> Progress:
    """Takes the progress of one of several files, in bytes or rows, and tells that of them all, in bytes."""
    if len(sizes) == 1:
        return progress
    before, size, total = sum(sizes[:index]), sizes[index], sum(sizes)
    return lambda done, whole: progress(before + size * done // max(whole, 1), total)


def _records(path: Path, progress: Progress) -> Iterator[Record | Reject]:
    def read_header(found: Sequence[str]) -> list[str]:
        return pair_columns(found, path.name)

    match path.suffix.lower():
        case ".parquet":
            return parquet_records(path, read_header, progress)
        case ".jsonl":
            return jsonl_records(path, pair_column, progress)
        case ".tsv":
            return tsv_records(path, read_header, POSTS, progress)
        case _:
            return csv_records(path, read_header, progress)


def _parsed(
    records: Iterator[Record | Reject], file: str, parse: Parse[_T], max_characters: int
) -> Iterator[_T | Reject | Remark]:
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        try:
            row, remarks = parse(record.values, max_characters)
        except BadRowError as error:
            yield Reject(record.line, str(error), file)
            continue
        for remark in remarks:
            yield Remark(record.line, remark, file)
        yield row
