"""A stage: one transformation of a folder of Parquet files, unit by unit, in actors of Ray Data.

Ray Data hands units to actors and starts an actor again that dies. The rows themselves stay out of Ray's object store:
an actor streams a unit's batches from the input file through the transform into the output file, and only the unit's
marker travels back. So memory does not depend on the size of files, row groups or units.

A unit's file is written under a temporary name and renamed when it is whole; then its marker is written
(`done_markers.py`). Run again, a stage does what has no marker yet.

Example:
    stage = Stage("shout", Shout, columns_of(TEXT), TEXT, settings={})
    with local_ray(resources):
        report = run_stage(stage, Path("posts"), Path("loud"), resources)
"""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.data.folders import DONE
from partner_rl.data.parquet import READ_ERRORS, READ_OPTIONS
from partner_rl.pipelines.done_markers import (
    ATTEMPTS,
    DoneMarker,
    fingerprint,
    finished,
    locked,
    open_output,
    refuse_input_folder,
    remove_leftovers,
    remove_results,
    run_record,
    write_marker,
)
from partner_rl.pipelines.ray_data import local_ray, map_units
from partner_rl.pipelines.resources import Resources
from partner_rl.pipelines.units import Unit, plan_units
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.atomic import file_when_whole
from partner_rl.types import PartnerError, first_line

ROW_GROUP_ROWS: Final = 2048
"""Rows that are collected before a row group is written."""

MAX_ATTEMPTS: Final = 3
"""How often a unit is begun in a run: after as many deaths of its worker, the run stops."""


class Transform(Protocol):
    """What a stage does with rows. Lives in a worker, and keeps models there."""

    def __call__(self, batch: pa.Table) -> tuple[pa.Table, Counter[str]]:
        """Transforms some neighbouring rows of one file.

        Args:
            batch: At most `Resources.batch_rows` rows with the stage's input columns.

        Returns:
            The rows to write, with the stage's output schema; what to add to the stage's counts.

        Raises:
            RowError: A row is wrong.
            PartnerError: Anything else that the user must mend.
        """
        ...


@runtime_checkable
class FollowsUnits(Protocol):
    """A transform that wants to know which rows it is given: those of a unit come in order after `begin`."""

    def begin(self, unit: Unit) -> None:
        """Called before the first batch of each unit."""
        ...


class RowError(Exception):
    """A row of a batch is wrong; the worker adds the file's name and makes a `PartnerError` of it."""

    def __init__(self, row: int, reason: str) -> None:
        """Names a row by its index in the batch; the reason holds no text of any post."""
        super().__init__(reason)
        self.row = row
        self.reason = reason


@dataclass(frozen=True)
class Stage:
    """A transformation of Parquet files.

    Attributes:
        build: Makes the transform, in the worker; must be picklable. Models are loaded here.
        columns: The columns of an input file that the transform reads, in this order; raises a `PartnerError` about a
            file with the wrong ones (see `columns_of`, `parquet_batches.pair_fields`).
        settings: All that changes the output, as JSON values; a folder made with others is refused.
    """

    name: str
    build: Callable[[], Transform]
    columns: Callable[[pa.Schema, Path], tuple[str, ...]]
    output_schema: pa.Schema
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a stage did in all its runs, and the rows and seconds that this run took."""

    counts: Mapping[str, int]
    rows_in: int
    rows_out: int
    new_rows: int
    seconds: float


def run_stage(
    stage: Stage,
    source: Path,
    output: Path,
    resources: Resources,
    progress: Progress = no_progress,
    *,
    overwrite: bool = False,
) -> StageReport:
    """Transforms all rows of a source; continues where an earlier run was stopped.

    Joins the Ray that is running, or starts one for this call (`local_ray`).

    The output folder has one file a unit. `progress` hears first of the rows that were done earlier; `overwrite`
    deletes what a stage wrote into the folder before.

    Raises:
        PartnerError: The input is missing, damaged, of the wrong kind, or changes meanwhile; the output folder holds
            other results; the transform fails. No file that is not whole is left under its final name.
    """
    started = time.monotonic()
    units = plan_units(source, resources.rows_per_unit, stage.columns)
    refuse_input_folder(output, source)
    record = run_record(stage.name, stage.settings, resources.rows_per_unit, units)
    with locked(output):
        if overwrite:
            remove_results(output)
        open_output(output, record)
        markers = finished(output, units, record)
        done_before = _rows_in(markers)
        total = sum(unit.rows for unit in units)
        progress(done_before, total)
        remaining = [unit for unit in units if unit.name not in markers]
        if remaining:
            worker = UnitWorker(stage, record, output, resources.batch_rows)
            with local_ray(resources):
                for marker in _markers(worker, remaining, resources):
                    markers[marker.name] = marker
                    progress(_rows_in(markers), total)
            # What workers left that died.
            remove_leftovers(output)
    counts: Counter[str] = Counter()
    for marker in markers.values():
        counts.update(marker.counts)
    rows_out = sum(marker.rows_out for marker in markers.values())
    return StageReport(counts, total, rows_out, total - done_before, time.monotonic() - started)


def columns_of(required: pa.Schema) -> Callable[[pa.Schema, Path], tuple[str, ...]]:
    """The columns of a schema, which a file must have with these types; the names of list items do not matter.

    Returns:
        A picklable function for `Stage.columns`.
    """
    return _RequiredColumns(required)


@dataclass(frozen=True)
class _RequiredColumns:
    required: pa.Schema

    def __call__(self, found: pa.Schema, path: Path) -> tuple[str, ...]:
        missing = [name for name in self.required.names if name not in found.names]
        if missing:
            raise PartnerError(f"{path} lacks the columns {', '.join(missing)}: is it the right file?")
        for field in self.required:
            other = found.field(field.name).type
            if not _same_type(other, field.type):
                raise PartnerError(f"{path}: column {field.name} is {other}, expected {field.type}; make it again")
        return tuple(self.required.names)


def _same_type(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return _same_type(found.value_type, wanted.value_type)
    return bool(found == wanted)


class UnitWorker:
    """Does one unit after the other; runs in an actor. The transform is built with the first unit."""

    def __init__(self, stage: Stage, record: Mapping[str, Any], output: Path, batch_rows: int) -> None:
        self._stage = stage
        self._record = record
        self._output = output
        self._batch_rows = batch_rows
        self._transform: Transform | None = None

    def __call__(self, unit: Unit) -> str:
        """Do a unit.

        Returns:
            Its marker, as JSON. An error is sent in the same way (`{"error": message}`), because Ray would
            wrap an exception in its own and print the text of its rows.
        """
        attempts = self._output / DONE / f"{ATTEMPTS}{unit.name}"
        try:
            _count_attempt(attempts, unit)
            if self._transform is None:
                self._transform = self._stage.build()
            marker = self._do(unit, self._transform)
            attempts.unlink(missing_ok=True)
            return json.dumps(asdict(marker))
        except PartnerError as error:
            return json.dumps({"error": str(error)})
        except OSError as error:
            reason = f"{error.strerror or type(error).__name__}{f' ({error.filename})' if error.filename else ''}"
            return json.dumps({"error": f"{self._stage.name} failed on {unit.file.path}: {reason}; is there room?"})
        except Exception as error:
            # The message may hold text of a post.
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            return json.dumps({"error": f"{self._stage.name} failed on {unit.file.path}: {where}; please report it"})

    def _do(self, unit: Unit, transform: Transform) -> DoneMarker:
        started = time.monotonic()
        unit.file.check_unchanged()
        if isinstance(transform, FollowsUnits):
            transform.begin(unit)
        counts: Counter[str] = Counter()
        with file_when_whole(self._output / f"{unit.name}.parquet") as file:
            rows_out = self._write(unit, transform, file, counts)
            unit.file.check_unchanged()
            output_bytes = file.tell()
        seconds = time.monotonic() - started
        mark = fingerprint(self._record, unit)
        marker = DoneMarker(unit.name, mark, unit.rows, rows_out, dict(counts), output_bytes, seconds)
        write_marker(marker, self._output)
        return marker

    def _write(self, unit: Unit, transform: Transform, file: IO[bytes], counts: Counter[str]) -> int:
        rows = 0
        pending: list[pa.Table] = []
        schema = self._stage.output_schema
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            for table in self._tables(unit, transform, counts):
                rows += table.num_rows
                pending.append(table.select(schema.names).cast(schema))
                if sum(part.num_rows for part in pending) >= ROW_GROUP_ROWS:
                    writer.write_table(pa.concat_tables(pending))
                    pending.clear()
            if pending:
                writer.write_table(pa.concat_tables(pending))
        return rows

    def _tables(self, unit: Unit, transform: Transform, counts: Counter[str]) -> Iterator[pa.Table]:
        for first_row, batch in self._batches(unit):
            try:
                table, found = transform(batch)
            except RowError as error:
                raise _row_error(unit, first_row + error.row, error.reason) from error
            counts.update(found)
            yield table

    def _batches(self, unit: Unit) -> Iterator[tuple[int, pa.Table]]:
        """The index in the file of each batch's first row, and the batch."""
        first_row = unit.first_row
        path = unit.file.path
        try:
            with pq.ParquetFile(path, **READ_OPTIONS, page_checksum_verification=True) as file:
                columns = list(self._stage.columns(file.schema_arrow, path))
                for batch in file.iter_batches(
                    self._batch_rows, row_groups=list(unit.row_groups), columns=columns, use_threads=False
                ):
                    table = pa.Table.from_batches([batch]).select(columns)
                    yield first_row, table
                    first_row += batch.num_rows
        except READ_ERRORS as error:
            unit.file.check_unchanged()
            raise PartnerError(
                f"{path} is damaged after row {first_row}: {first_line(error)}; write it again"
            ) from error


def _count_attempt(path: Path, unit: Unit) -> None:
    """Notes in a file, which outlives the process, that a unit is begun."""
    with path.open("ab") as file:
        file.write(b".")
        begun = file.tell()
    if begun > MAX_ATTEMPTS:
        raise PartnerError(
            f"{MAX_ATTEMPTS} workers died on rows {unit.first_row} to {unit.first_row + unit.rows - 1} of "
            f"{unit.file.path}: is there memory for so many workers? Run again with fewer, or with smaller batches"
        )


def _row_error(unit: Unit, row: int, reason: str) -> PartnerError:
    return PartnerError(f"{unit.file.path}, row {row} (the first is 0): {reason}; mend the row and run again")


def _markers(worker: UnitWorker, units: Sequence[Unit], resources: Resources) -> Iterator[DoneMarker]:
    for answer in map_units(worker, units, resources):
        content = json.loads(answer)
        if "error" in content:
            raise PartnerError(content["error"])
        yield DoneMarker(**content)


def _rows_in(markers: Mapping[str, DoneMarker]) -> int:
    return sum(marker.rows_in for marker in markers.values())
