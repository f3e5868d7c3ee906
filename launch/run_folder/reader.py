"""Reading run folders from outside, while somebody trains there: nothing is written and no lock is taken."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from launch.run_folder.record import CONFIG_FILE, METRICS_FILE, RUN_FILE, STALL_FILE, RunState, read_record, run_state
from partner_rl import metric_names
from partner_rl.config.load import load_config
from partner_rl.types import PartnerError

RECENT: Final = 10
"""Logged steps that a recent mean is taken over: one step's metrics depend on its few examples."""
_DEPTH: Final = 3
_CHUNK: Final = 65_536

Row = dict[str, Any]
"""A line of `metrics.jsonl` or `samples.jsonl`."""


def read_rows(path: Path) -> list[Row]:
    """Reads a whole file of JSON lines, oldest first; a last line that was cut off is left out.

    Raises:
        PartnerError: The file is missing, or a line is no JSON object.
    """
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise PartnerError(f"there is no {path}: give the run folder of a run that has trained") from error
    rows = _records(lines, path)
    with suppress(PartnerError):
        rows += _records([last], path)
    return rows


class JsonlTail:
    """Reads a growing file of JSON lines, which may appear later; each call reads only what is new.

    A file that was replaced, as by a resume, is read again from its start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_id: tuple[int, int] | None = None
        self._offset = 0
        self._rows: list[Row] = []

    def rows(self) -> list[Row]:
        """All records that have been written whole.

        Raises:
            PartnerError: A line is no JSON object.
        """
        try:
            with self._path.open("rb") as file:
                status = self._path.stat()
                if (status.st_ino, status.st_dev) != self._file_id or status.st_size < self._offset:
                    self._file_id, self._offset, self._rows = (status.st_ino, status.st_dev), 0, []
                file.seek(self._offset)
                whole, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(end)
        self._rows += _records(whole.split(b"\n"), self._path, len(self._rows) + 1)
        return self._rows


def last_rows(path: Path) -> list[Row]:
    """The records at the end of a file of JSON lines, at least one if there is any; the file may be large."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        size = file.seek(0, 2)
        length = min(size, _CHUNK)
        while True:
            file.seek(size - length)
            lines = file.read(length).rpartition(b"\n")[0].split(b"\n")
            # The first line may have been cut by where the reading began.
            whole = lines if length == size else lines[1:]
            if whole or length == size:
                return _records(whole, path, None)
            length = min(size, 2 * length)


def _records(lines: Sequence[bytes], path: Path, first: int | None = 1) -> list[Row]:
    """The records of whole lines, of which the first has that number in the file, if it is known."""
    # Bytes are split at line feeds: posts may hold what else counts as the end of a line.
    records = []
    for number, line in enumerate(lines, first or 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            place = "a line" if first is None else f"line {number}"
            raise PartnerError(f"{path}: {place} is no JSON object: repair or remove it")
        records.append(record)
    return records


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as its folder shows it: what `run.json` says, and the logged steps, oldest first.

    The configuration has dotted keys; it is empty where this version cannot read it.
    """

    path: Path
    state: RunState
    record: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Sequence[Row]

    @property
    def iterations(self) -> int:
        """The last logged iteration; 0 before the first one."""
        return int(self.metrics[-1][metric_names.STEP]) if self.metrics else 0

    @property
    def planned(self) -> int | None:
        """The iterations that there are to be, if it is known."""
        return self.config.get("algorithm.iterations")


def read_run(path: Path) -> RunInfo:
    """Reads a run folder.

    Raises:
        PartnerError: There is no run, or its record is damaged.
    """
    if not (path / CONFIG_FILE).is_file():
        raise PartnerError(f"{path} is no run folder: it holds no {CONFIG_FILE}")
    try:
        config = dotted(load_config(str(path / CONFIG_FILE)).model_dump(mode="json"))
    except PartnerError:
        # Another version wrote it, with keys that this one does not know; its metrics can be shown all the same.
        config = {}
    record = read_record(path)
    return RunInfo(path, run_state(record), record, config, JsonlTail(path / METRICS_FILE).rows())


def read_stall(run_dir: Path) -> tuple[float, str] | None:
    """When a run was found standing still, in seconds since the epoch, and what was said; None while it moves."""
    try:
        record = json.loads((run_dir / STALL_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return float(record["noticed"]), str(record["message"])


def find_runs(folder: Path) -> list[Path]:
    """The run folders in a folder, also inside of sweeps and ablations; the folder itself if it is one."""
    if _is_run(folder):
        return [folder]
    return sorted(_runs_below(folder, _DEPTH))


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            if _is_run(path):
                yield path
            elif depth > 1:
                yield from _runs_below(path, depth - 1)


def _is_run(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file() and any((path / name).exists() for name in (RUN_FILE, METRICS_FILE))


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under keys with dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def series(rows: Sequence[Row], key: str) -> list[float]:
    """One metric's values, oldest first, NaN where a step has none."""
    return [math.nan if row.get(key) is None else float(row[key]) for row in rows]


def recent_mean(values: Sequence[float]) -> float | None:
    """Mean of the last `RECENT` values that there are."""
    known = [value for value in values if math.isfinite(value)][-RECENT:]
    return fmean(known) if known else None
