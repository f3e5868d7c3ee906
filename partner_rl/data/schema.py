"""The Parquet layout of pairs: the project's internal format.

One row a pair. The level of each mechanism is null for an unlabelled pair, and its rationales are exact substrings of
the response. Files are read and written a record batch at a time, so a corpus need not fit in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.types import MAX_LEVEL, MECHANISMS, Example, MechanismLabel, PartnerError

TEXT_COLUMNS: Final = ("seeker_id", "response_id", "seeker_post", "response_post")
"""Columns that every pair has."""

BATCH_ROWS: Final = 1024
"""Rows of a record batch and of a row group."""


def level_column(mechanism: str) -> str:
    """Name of the column that holds a mechanism's level."""
    return f"{mechanism}_level"


def rationales_column(mechanism: str) -> str:
    """Name of the column that holds a mechanism's rationales."""
    return f"{mechanism}_rationales"


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


def examples_from_batch(batch: pa.RecordBatch) -> list[Example]:
    """The examples of a record batch of `PAIR_SCHEMA`; the inverse of `batch_from_examples`.

    Raises:
        PartnerError: A level is out of range, or a pair has labels for some mechanisms only.
    """
    return [_example_from_row(row) for row in batch.to_pylist()]


def write_parquet(examples: Iterable[Example], path: Path) -> int:
    """Write pairs to a Parquet file; the file appears complete or not at all.

    Returns:
        The number of rows written.

    Raises:
        PartnerError: The file cannot be written. What the iterable raises passes through; no file is left then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.tmp-", dir=path.parent)
    except OSError as error:
        raise PartnerError(f"cannot write {path}: {error.strerror}; choose another file") from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            rows = _write_batches(examples, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise PartnerError(f"cannot write {path}: {error.strerror or error}; is there room?") from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def read_parquet(path: Path, progress: Callable[[int, int], None] | None = None) -> Iterator[Example]:
    """The pairs of a Parquet file, read a record batch at a time.

    Args:
        path: The file.
        progress: Called with (rows read, rows in the file) after each batch.

    Raises:
        PartnerError: The file is missing, truncated or no Parquet file, or its columns are not those of `PAIR_SCHEMA`.
            The columns are checked at the first row.
    """
    if not path.is_file():
        raise PartnerError(f"no file {path}; `partner-rl data convert` makes Parquet files of pairs")
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow, path)
            done = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=PAIR_SCHEMA.names):
                yield from examples_from_batch(batch.select(PAIR_SCHEMA.names))
                done += batch.num_rows
                if progress is not None:
                    progress(done, file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PartnerError(f"{path} is truncated or no Parquet file: {reason}; convert it again") from error


def _write_batches(examples: Iterable[Example], file: Any) -> int:
    rows = 0
    iterator = iter(examples)
    with pq.ParquetWriter(file, PAIR_SCHEMA, compression="zstd") as writer:
        while chunk := list(islice(iterator, BATCH_ROWS)):
            writer.write_batch(batch_from_examples(chunk))
            rows += len(chunk)
    return rows


def _check_schema(found: pa.Schema, path: Path) -> None:
    missing = [name for name in PAIR_SCHEMA.names if name not in found.names]
    if missing:
        raise PartnerError(f"{path} is no file of pairs: it lacks the columns {', '.join(missing)}; convert it again")
    for field in PAIR_SCHEMA:
        other = found.field(field.name)
        # The names of a list's items differ between writers and mean nothing.
        if other.type != field.type and not (pa.types.is_list(other.type) and other.type.value_type == pa.string()):
            raise PartnerError(f"{path}: column {field.name} is {other.type}, expected {field.type}; convert it again")


def _example_from_row(row: dict[str, Any]) -> Example:
    levels = [row[level_column(mechanism)] for mechanism in MECHANISMS]
    texts = [row[name] for name in TEXT_COLUMNS]
    if any(text is None for text in texts):
        raise PartnerError(f"pair {texts[0]}/{texts[1]} has an empty id or post; convert the file again")
    if all(level is None for level in levels):
        return Example(*texts)
    if any(level is None or not 0 <= level <= MAX_LEVEL for level in levels):
        raise PartnerError(
            f"pair {texts[0]}/{texts[1]} has the levels {levels}: expected 0…{MAX_LEVEL} for every mechanism, "
            "or null for all; convert the file again"
        )
    first, second, third = (
        MechanismLabel(level, tuple(row[rationales_column(mechanism)] or ()))
        for mechanism, level in zip(MECHANISMS, levels, strict=True)
    )
    seeker_id, response_id, seeker_post, response_post = texts
    return Example(seeker_id, response_id, seeker_post, response_post, (first, second, third))
