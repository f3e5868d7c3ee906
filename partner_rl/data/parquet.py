"""Parquet files of any writer → raw records, a batch at a time, so that a file need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.data.delimited import ReadHeader
from partner_rl.data.records import Record
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.atomic import file_when_whole
from partner_rl.types import PartnerError, first_line

BATCH_ROWS: Final = 1024
"""Rows of a record batch and of a row group."""

READ_OPTIONS: Final = {"pre_buffer": False, "buffer_size": 1 << 20}
"""Without pre-buffering and with a small buffer, a huge row group is read page by page."""

READ_ERRORS: Final = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What Arrow raises when a file is damaged; the last by names of columns."""


def parquet_records(path: Path, read_header: ReadHeader, progress: Progress = no_progress) -> Iterator[Record]:
    """The rows of a Parquet file, whatever Arrow types its columns have.

    Columns to which `read_header` gives no name are not read.

    Raises:
        PartnerError: The file is truncated, damaged or no Parquet file, lacks columns, or has some of other types.
    """
    row = 0
    try:
        with pq.ParquetFile(path, **READ_OPTIONS) as file:
            found = file.schema_arrow.names
            names = {name: ours for name, ours in zip(found, read_header(found), strict=True) if ours}
            check_types(file.schema_arrow, names, path)
            for batch in file.iter_batches(BATCH_ROWS, columns=list(names)):
                for values in batch_rows(batch, names):
                    row += 1
                    yield Record(row, values)
                progress(row, file.metadata.num_rows)
    except READ_ERRORS as error:
        raise damaged(path, error) from error


def write_tables(path: Path, schema: pa.Schema, tables: Iterable[pa.Table | pa.RecordBatch]) -> int:
    """Writes tables or batches to one Parquet file as they come; it appears complete or not at all.

    Returns:
        The number of rows written.

    Raises:
        WriteError: The file cannot be written. What the iterable raises passes through; no file is left then.
    """
    rows = 0
    with file_when_whole(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write(table)
            rows += table.num_rows
    return rows


def damaged(path: Path, error: Exception) -> PartnerError:
    """The error for a file that cannot be read."""
    if isinstance(error, OSError) and error.errno is not None:
        return PartnerError(f"cannot read {path}: {error.strerror}")
    reason = first_line(error)
    return PartnerError(f"{path} is truncated or no Parquet file: {reason}; write it again")


def check_types(schema: pa.Schema, names: Iterable[str], path: Path) -> None:
    """Checks that columns hold text, numbers or lists of these.

    Nothing else is made a Python value: that would run the code of an extension type, such as Ray's, which unpickles.

    Raises:
        PartnerError: One holds something else.
    """
    for name in names:
        kind = schema.field(name).type
        if not _is_plain(kind):
            raise PartnerError(f"{path}: column {name} is {kind}, expected text, numbers or lists of texts; convert it")


def batch_rows(batch: pa.RecordBatch | pa.Table, names: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of a batch as Python values; columns that hold nothing but nulls are left out.

    `names` gives each column to read its name in the rows.
    """
    columns = {ours: batch.column(batch.schema.get_field_index(name)) for name, ours in names.items()}
    values = {ours: plain_values(column) for ours, column in columns.items() if column.null_count < len(column)}
    if not values:
        return iter([{}] * batch.num_rows)
    return (dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))


def plain_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column that passes `check_types`: text, numbers or lists, however Arrow encodes them.

    Bytes are text; those that are not UTF-8 become lone surrogates (PEP 383), for the caller to reject.
    """
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in plain_values(chunk)]
    if isinstance(column.type, pa.UuidType):
        return [None if value is None else str(UUID(bytes=value)) for value in column.storage.to_pylist()]
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    try:
        if not _holds_bytes(column.type):
            return list(column.to_pylist())
    except UnicodeDecodeError:
        pass
    if _is_list(column.type):
        return [None if one.values is None else plain_values(one.values) for one in column]
    raw = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]


def _is_plain(kind: pa.DataType) -> bool:
    if _is_list(kind) or pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return is_text or is_number or _holds_bytes(kind) or pa.types.is_null(kind) or isinstance(kind, pa.UuidType)


def _holds_bytes(kind: pa.DataType) -> bool:
    if _is_list(kind):
        return _holds_bytes(kind.value_type)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )
