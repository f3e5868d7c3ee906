"""Batches of a Parquet file of any writer → pairs, by the same rules as every other table."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa

from partner_rl.data.columns import pair_column, pair_columns
from partner_rl.data.parquet import batch_rows, check_types
from partner_rl.data.rows import BadRowError, parse_pair
from partner_rl.types import Example, PartnerError

REJECTED: Final = "rejected/"
"""Prefix of the counts of rows that cannot be used; the reason follows."""

REMARKED: Final = "remarks/"
"""Prefix of the counts of what was left out of rows that are used."""


def pair_fields(schema: pa.Schema, path: Path) -> tuple[str, ...]:
    """The columns of a file that `parse_batch` needs, as the file spells them.

    Raises:
        PartnerError: The file lacks the column of a post, has a column twice, or one of another type.
    """
    names = pair_columns(schema.names, str(path))
    fields = tuple(found for found, ours in zip(schema.names, names, strict=True) if ours)
    check_types(schema, fields, path)
    return fields


def parse_batch(batch: pa.Table) -> tuple[list[Example], Counter[str]]:
    """The pairs of a batch with the columns `pair_fields`, in order, and counts of what could not be used, and why."""
    examples: list[Example] = []
    counts: Counter[str] = Counter()
    for values in batch_rows(batch, {name: pair_column(name) for name in batch.column_names}):
        try:
            example, remarks = parse_pair(values, sys.maxsize)
        except BadRowError as error:
            counts[f"{REJECTED}{error}"] += 1
            continue
        examples.append(example)
        counts.update(f"{REMARKED}{remark}" for remark in remarks)
    return examples, counts


def none_usable(source: Path, rows: int, counts: Mapping[str, int]) -> PartnerError:
    """The error for a source of which `parse_batch` has rejected every row."""
    why = ", ".join(f"{count} × {reason}" for reason, count in counts_under(counts, REJECTED).items())
    return PartnerError(f"{source}: not one of {rows} rows can be used ({why})")


def counts_under(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    """The counts whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): counts[name] for name in sorted(counts) if name.startswith(prefix)}
