"""How the input is cut: Parquet files → units of some row groups each, checked from their footers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.data.folders import data_files
from partner_rl.data.parquet import READ_ERRORS, damaged
from partner_rl.types import PartnerError


@dataclass(frozen=True, slots=True)
class InputFile:
    """A Parquet file as it was when the run was planned."""

    path: Path
    size: int
    mtime_ns: int
    row_group_rows: tuple[int, ...]

    def check_unchanged(self) -> None:
        """Compares with the file as it is now.

        Raises:
            PartnerError: The file is gone or was changed.
        """
        try:
            found = self.path.stat()
        except OSError as error:
            raise PartnerError(f"{self.path} went away while it was read: restore it and run again") from error
        if (found.st_size, found.st_mtime_ns) != (self.size, self.mtime_ns):
            raise PartnerError(f"{self.path} changed while it was read: wait until it is whole and run again")


@dataclass(frozen=True, slots=True)
class Unit:
    """Neighbouring row groups of one file: what is done, and done again after an interruption, as a whole.

    Attributes:
        name: Stem of the output file, `<stem of the input file>-00003`.
        first_row: Index of the unit's first row in the file; the file's first row is 0.
    """

    name: str
    file: InputFile
    row_groups: tuple[int, ...]
    first_row: int
    rows: int


def parquet_files(source: Path) -> tuple[Path, ...]:
    """The Parquet files of a source in the order of their names; in a folder, hidden names and `_…` do not count.

    Raises:
        PartnerError: There is no such file or folder, or the folder is unfinished or holds no Parquet file.
    """
    if source.is_file():
        return (source,)
    if not source.is_dir():
        raise PartnerError(f"no data at {source}: give a .parquet file or a folder of them")
    found = data_files(source, (".parquet",))
    if not found:
        raise PartnerError(f"the folder {source} holds no .parquet file")
    return found


def plan_units(source: Path, rows_per_unit: int, columns: Callable[[pa.Schema, Path], object]) -> tuple[Unit, ...]:
    """Cuts all files of a source into units. Only footers are read.

    A unit ends with the row group that reaches `rows_per_unit`; `columns` raises a `PartnerError` about a file with
    other columns than needed.

    Raises:
        PartnerError: A file is missing, truncated, no Parquet file or has a wrong schema, or there is no row at all.
    """
    units: list[Unit] = []
    for path in parquet_files(source):
        file, schema = _read_footer(path)
        columns(schema, path)
        units.extend(_cut(file, rows_per_unit))
    if not units:
        raise PartnerError(f"{source} holds no rows")
    return tuple(units)


def _read_footer(path: Path) -> tuple[InputFile, pa.Schema]:
    try:
        # Taken before reading: a file that grows meanwhile then counts as changed.
        stat = path.stat()
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            rows = tuple(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
            return InputFile(path, stat.st_size, stat.st_mtime_ns, rows), file.schema_arrow
    except READ_ERRORS as error:
        raise damaged(path, error) from error


def _cut(file: InputFile, rows_per_unit: int) -> Iterator[Unit]:
    groups: list[int] = []
    number = first_row = rows = 0
    for index, group_rows in enumerate(file.row_group_rows):
        groups.append(index)
        rows += group_rows
        if rows >= rows_per_unit or (rows and index == len(file.row_group_rows) - 1):
            yield Unit(f"{file.path.stem}-{number:05d}", file, tuple(groups), first_row, rows)
            number, first_row, rows, groups = number + 1, first_row + rows, 0, []
