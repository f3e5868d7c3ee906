"""One source → its pairs, its rejected rows and remarks, whatever the format."""

from __future__ import annotations

import importlib.resources
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from partner_rl.config.paths import SAMPLE
from partner_rl.data.epitome import read_epitome
from partner_rl.data.records import Progress, Record, Reject, Remark, csv_records, jsonl_records, tsv_records
from partner_rl.data.rows import BadRowError, checked_level, checked_post, parse_pair
from partner_rl.data.schema import TEXT_COLUMNS, read_parquet
from partner_rl.types import Example, PartnerError

ONE_MECHANISM: Final = (
    "levels left out: one mechanism alone does not make a label; read the folder with all three files"
)
"""Remark on a file that labels one mechanism only."""

DEFAULT_MAX_CHARACTERS: Final = 20_000
"""A longer post is rejected, unless the caller says otherwise (`DataConfig.max_post_characters`)."""

_POSTS: Final = ("seeker_post", "response_post")
_SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Everything that a source holds.

    Attributes:
        examples: The pairs that can be used, in the source's order.
        rejects: Rows that cannot be used.
        remarks: What was mended or left out in rows that are used.
    """

    examples: tuple[Example, ...]
    rejects: tuple[Reject, ...]
    remarks: tuple[Remark, ...]


def read_examples(
    source: str, max_post_characters: int = DEFAULT_MAX_CHARACTERS, progress: Progress | None = None
) -> ReadResult:
    """Read a whole source (see `iter_rows`).

    Raises:
        PartnerError: The source cannot be read, or holds not one pair that can be used.
    """
    examples: list[Example] = []
    rejects: list[Reject] = []
    remarks: list[Remark] = []
    for row in iter_rows(source, max_post_characters, progress):
        if isinstance(row, Example):
            examples.append(row)
        elif isinstance(row, Reject):
            rejects.append(row)
        else:
            remarks.append(row)
    if not examples:
        raise PartnerError(no_pairs_message(source, rejects))
    return ReadResult(tuple(examples), tuple(rejects), tuple(remarks))


def iter_rows(
    source: str, max_post_characters: int = DEFAULT_MAX_CHARACTERS, progress: Progress | None = None
) -> Iterator[Example | Reject | Remark]:
    """Read a source row by row; only the EPITOME layout, whose files are joined, is held in memory.

    Args:
        source: `sample`, a folder in the EPITOME CSV layout (or one that holds it in `dataset`), or a file: .csv (of
            one mechanism in that layout, or any with the columns `seeker_post` and `response_post`), .tsv (two columns
            without header), .jsonl or .parquet. Pairs without ids get hashes of their texts.
        max_post_characters: A longer post is rejected.
        progress: Called with (done, total) bytes or rows.

    Raises:
        PartnerError: The source does not exist, cannot be read, or lacks columns.
    """
    if source == SAMPLE:
        folder = importlib.resources.files("partner_rl.data").joinpath("sample")
        return read_epitome(folder, max_post_characters, progress)
    path = Path(source).expanduser()
    if path.is_dir():
        return read_epitome(path, max_post_characters, progress)
    if not path.is_file():
        raise PartnerError(f"no data at {source}: give {SAMPLE!r}, a folder in the EPITOME layout or a file")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _checked(path, max_post_characters, progress)
    if suffix == ".csv":
        return _read_csv(path, max_post_characters, progress)
    if suffix == ".tsv":
        return _pairs(tsv_records(path, _POSTS, progress), path.name, max_post_characters)
    if suffix == ".jsonl":
        return _pairs(jsonl_records(path, progress), path.name, max_post_characters)
    raise PartnerError(f"cannot tell the format of {source}: expected a file that ends in {', '.join(_SUFFIXES)}")


def write_rejects(rejects: Iterable[Reject], path: Path) -> None:
    """Write rejected rows as JSONL with `file`, `line` and `reason`; the file appears complete or not at all.

    Raises:
        PartnerError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(reject)) + "\n" for reject in rejects)
            temporary.replace(path)
    except OSError as error:
        raise PartnerError(f"cannot write rejects file {path}: {error.strerror or error}; choose another") from error


def no_pairs_message(source: str, rejects: list[Reject]) -> str:
    """The error message for a source without a usable pair."""
    if not rejects:
        return f"{source} holds no pairs"
    first = rejects[0]
    return f"{source} holds no usable pair: {len(rejects)} rows rejected, the first at {describe(first)}"


def describe(reject: Reject) -> str:
    """A rejected row in one line."""
    return f"{reject.file} line {reject.line}: {reject.reason}"


def pair_columns(found: list[str], file: str) -> list[str]:
    """Names of a CSV file's columns in our spelling.

    Args:
        found: Names as in the file's header.
        file: Name of the file.

    Raises:
        PartnerError: The column of one of the two posts is missing, or a name occurs twice.
    """
    header = [name.strip().lower().replace("-", "_").replace(" ", "_") for name in found]
    missing = [name for name in _POSTS if name not in header]
    if missing:
        raise PartnerError(f"{file}: the header lacks the columns {', '.join(missing)}")
    if len(set(header)) != len(header):
        raise PartnerError(f"{file}: the header names a column twice")
    return header


def _read_csv(path: Traversable, max_characters: int, progress: Progress | None) -> Iterator[Example | Reject | Remark]:
    records = csv_records(path, lambda found: pair_columns(found, path.name), progress)
    return _pairs(records, path.name, max_characters)


def _pairs(records: Iterator[Record | Reject], file: str, max_characters: int) -> Iterator[Example | Reject | Remark]:
    told = False
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        try:
            example, remarks = parse_pair(record.values, max_characters)
            if example.labels is None and record.values.get("level") not in (None, ""):
                checked_level(record.values["level"], "level")
                if not told:
                    remarks.append(ONE_MECHANISM)
                told = True
        except BadRowError as error:
            yield Reject(record.line, str(error), file)
            continue
        yield from (Remark(record.line, remark, file) for remark in remarks)
        yield example


def _checked(path: Path, max_characters: int, progress: Progress | None) -> Iterator[Example | Reject | Remark]:
    for row, example in enumerate(read_parquet(path, progress), start=1):
        values = {name: getattr(example, name) for name in TEXT_COLUMNS}
        try:
            for name in _POSTS:
                checked_post(values, name, max_characters)
        except BadRowError as error:
            yield Reject(row, str(error), path.name)
        else:
            yield example
