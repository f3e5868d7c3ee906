"""The Parquet layout of pairs: the project's internal format.

One row a pair. The level of each mechanism is null for an unlabelled pair, and its rationales are exact substrings of
the response. Files are written a record batch at a time, so a corpus need not fit in memory; any reader of pairs
(`readers.py`) reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.data.columns import level_column, rationales_column
from partner_rl.data.parquet import BATCH_ROWS
from partner_rl.storage.atomic import file_when_whole
from partner_rl.types import MECHANISMS, Example

TEXT_COLUMNS: Final = ("seeker_id", "response_id", "seeker_post", "response_post")
"""Columns that every pair has."""

PAIR_SCHEMA: Final = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in TEXT_COLUMNS),
        *(
            field
            for mechanism in MECHANISMS
            for field in (
                pa.field(level_column(mechanism), pa.int8()),
                pa.field(rationales_column(mechanism), pa.list_(pa.string())),
            )
        ),
    ]
)
"""The columns and types of a file of pairs."""


def batch_from_examples(examples: Sequence[Example]) -> pa.RecordBatch:
    """A record batch of `PAIR_SCHEMA` with one row an example, in order."""
    columns: list[list[Any]] = [[getattr(example, name) for example in examples] for name in TEXT_COLUMNS]
    for index in range(len(MECHANISMS)):
        labels = [None if example.labels is None else example.labels[index] for example in examples]
        columns.append([None if label is None else label.level for label in labels])
        columns.append([None if label is None else list(label.rationales) for label in labels])
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, PAIR_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PAIR_SCHEMA)


def write_parquet(examples: Iterable[Example], path: Path) -> int:
    """Write pairs to a Parquet file; the file appears complete or not at all.

    Returns:
        The number of rows written.

    Raises:
        WriteError: The file cannot be written. What the iterable raises passes through; no file is left then.
    """
    with file_when_whole(path) as file:
        return _write_batches(examples, file)


def _write_batches(examples: Iterable[Example], file: Any) -> int:
    rows = 0
    iterator = iter(examples)
    with pq.ParquetWriter(file, PAIR_SCHEMA, compression="zstd") as writer:
        while chunk := list(islice(iterator, BATCH_ROWS)):
            writer.write_batch(batch_from_examples(chunk))
            rows += len(chunk)
    return rows
