"""Pairs that may come with a rewriting of the response: the input of scoring.

Every row of the source has one outcome, so that what is written about it can be matched row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.data.readers import iter_rows, pair_columns
from partner_rl.data.records import Progress, Record, Reject, Remark, csv_records, jsonl_records
from partner_rl.data.rows import BadRowError, checked_post, parse_pair
from partner_rl.data.schema import BATCH_ROWS
from partner_rl.types import Example, PartnerError

REWRITTEN = "rewritten_response"
"""Column of the rewriting; rows without a value have none."""


@dataclass(frozen=True, slots=True)
class RewrittenPair:
    """A pair and what was made of its response.

    Attributes:
        example: The pair.
        rewritten_response: The rewriting, or None.
    """

    example: Example
    rewritten_response: str | None


def iter_rewritten(
    source: str, max_characters: int, progress: Progress | None = None
) -> Iterator[RewrittenPair | Reject]:
    """Read a source (see `partner_rl.data.readers.iter_rows`) row by row, with the column `rewritten_response`.

    Args:
        source: .csv, .jsonl or .parquet for rewritings; all other sources hold pairs alone.
        max_characters: A longer post is rejected.
        progress: Called with (done, total) bytes or rows.

    Raises:
        PartnerError: The source does not exist, cannot be read, or lacks columns.
    """
    path = Path(source).expanduser()
    match path.suffix.lower() if path.is_file() else "":
        case ".csv":
            yield from _parsed(_csv(path, progress), path.name, max_characters)
        case ".jsonl":
            yield from _parsed(jsonl_records(path, progress), path.name, max_characters)
        case ".parquet":
            yield from _from_parquet(path, max_characters, progress)
        case _:
            yield from _pairs(source, max_characters, progress)


def _pairs(source: str, max_characters: int, progress: Progress | None) -> Iterator[RewrittenPair | Reject]:
    for row in iter_rows(source, max_characters, progress):
        if isinstance(row, Reject):
            yield row
        elif not isinstance(row, Remark):
            yield RewrittenPair(row, None)


def _csv(path: Path, progress: Progress | None) -> Iterator[Record | Reject]:
    return csv_records(path, lambda found: pair_columns(found, path.name), progress)


def _parsed(records: Iterator[Record | Reject], file: str, max_characters: int) -> Iterator[RewrittenPair | Reject]:
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        try:
            example, _ = parse_pair(record.values, max_characters)
            given = record.values.get(REWRITTEN) not in (None, "")
            rewritten = checked_post(record.values, REWRITTEN, max_characters) if given else None
        except BadRowError as error:
            yield Reject(record.line, str(error), file)
        else:
            yield RewrittenPair(example, rewritten)


def _from_parquet(path: Path, max_characters: int, progress: Progress | None) -> Iterator[RewrittenPair | Reject]:
    rows = _pairs(str(path), max_characters, progress)
    rewritings = _rewritten_column(path)
    for line, row in enumerate(rows, start=1):
        rewritten = next(rewritings, None)
        if isinstance(row, Reject) or not rewritten:
            yield row
            continue
        try:
            checked = checked_post({REWRITTEN: rewritten}, REWRITTEN, max_characters)
        except BadRowError as error:
            yield Reject(line, str(error), path.name)
        else:
            yield RewrittenPair(row.example, checked)


def _rewritten_column(path: Path) -> Iterator[str | None]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if REWRITTEN not in names:
                return
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[REWRITTEN]):
                yield from batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise PartnerError(f"{path} is truncated or no Parquet file; convert it again") from error
