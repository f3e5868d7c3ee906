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

from partner_rl.data.columns import level_column, rationales_column
from partner_rl.data.parquet import BATCH_ROWS, write_tables
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
    """Writes pairs to a Parquet file as they come, as `write_tables`; returns their number."""
    rows = iter(examples)
    chunks = iter(lambda: list(islice(rows, BATCH_ROWS)), [])
    return write_tables(path, PAIR_SCHEMA, map(batch_from_examples, chunks))
