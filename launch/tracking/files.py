"""`metrics.jsonl`, `samples.jsonl` and TensorBoard's event files."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from tensorboardX import SummaryWriter

from launch.run_folder.reader import Row, read_rows
from launch.run_folder.record import METRICS_FILE, SAMPLES_FILE
from partner_rl import metric_names
from partner_rl.storage.atomic import write_text
from partner_rl.storage.full_disk import disk_of, when_there_is_room
from partner_rl.types import PartnerError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class JsonlSink:
    """`metrics.jsonl` and `samples.jsonl`: one line a step or row, flushed, so that a killed run loses nothing.

    Values that are no finite numbers are written as null, because JSON has no others. `restored_metrics` and
    `restored_samples` are the lines that a resumed run goes on with.

    Args:
        resume_step: The step to go on after; None for a new run.
        wait_s: Seconds to wait for room when the disk is full.

    Raises:
        PartnerError: A new run's folder already holds metrics, or the metrics to go on with cannot be read.
    """

    def __init__(self, run_dir: Path, resume_step: int | None, wait_s: float = 0.0) -> None:
        self._wait_s = wait_s
        metrics_path, samples_path = run_dir / METRICS_FILE, run_dir / SAMPLES_FILE
        self.restored_metrics: list[Row] = []
        self.restored_samples: list[Row] = []
        if resume_step is not None:
            self.restored_metrics = _drop_later_steps(metrics_path, resume_step)
            self.restored_samples = _drop_later_steps(samples_path, resume_step)
        elif metrics_path.exists():
            raise PartnerError(f"{metrics_path} exists already: resume that run, or choose another name for this one")
        # Without a buffer of their own, so that it is known how much of a line a full disk has taken.
        self._metrics = metrics_path.open("ab", buffering=0)
        self._samples = samples_path.open("ab", buffering=0)

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends a line to `metrics.jsonl`, and one to `samples.jsonl` for each row.

        Raises:
            PartnerError: They cannot be written.
        """
        self._append(self._metrics, _json_line({metric_names.STEP: step, **metrics}))
        self._append(self._samples, "".join(map(_json_line, rows)))

    def _append(self, file: FileIO, lines: str) -> None:
        left = memoryview(lines.encode())
        while left:
            part = left
            left = left[self._with_room(file, lambda part=part: file.write(part)) :]  # type: ignore[misc]

    def sync(self) -> None:
        """Waits until both files are on the disk.

        Raises:
            PartnerError: They cannot be written.
        """
        for file in (self._metrics, self._samples):
            self._with_room(file, lambda file=file: os.fsync(file.fileno()))  # type: ignore[misc]

    def _with_room(self, file: FileIO, action: Callable[[], T]) -> T:
        path = Path(str(file.name))
        try:
            return when_there_is_room(action, disk_of(path.parent), self._wait_s)
        except OSError as error:
            raise PartnerError(f"{path} cannot be written ({error}): make room, and resume the run") from error

    def close(self, exit_code: int) -> None:
        """Closes both files."""
        self._metrics.close()
        self._samples.close()


def _json_line(record: Mapping[str, Any]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
    return json.dumps(finite, ensure_ascii=False, allow_nan=False, default=float) + "\n"


def _drop_later_steps(path: Path, last_step: int) -> list[Row]:
    """Drops the lines after a step, and a last line that was cut off, in one atomic replacement.

    Returns:
        The records that are left.

    Raises:
        PartnerError: A line that is not the last one is no record of a step.
    """
    if not path.exists():
        return []
    rows = read_rows(path)
    if not all(isinstance(row.get(metric_names.STEP), int) for row in rows):
        raise PartnerError(f"{path}: a line has no {metric_names.STEP}; repair or remove the line to resume")
    kept = [row for row in rows if row[metric_names.STEP] <= last_step]
    write_text(path, "".join(map(_json_line, kept)))
    return kept


class TensorBoardSink:
    """Event files for TensorBoard; metrics only, no texts."""

    def __init__(self, folder: Path, resume_step: int | None, wait_s: float = 0.0) -> None:
        purge_step = None if resume_step is None else resume_step + 1
        self._folder, self._wait_s = folder, wait_s
        self._writer = SummaryWriter(logdir=str(folder), purge_step=purge_step)
        self._is_broken = False

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes one point on each curve; a metric that is not finite leaves a gap."""
        if self._is_broken:
            return
        # Its thread ends at a write error, as on a full disk. Whoever writes on waits for it for ever.
        if not self._writer.file_writer.event_writer._worker.is_alive():
            self._give_up("its thread has ended")
            return
        for key, value in metrics.items():
            if math.isfinite(value):
                self._writer.add_scalar(key, value, step)
        try:
            when_there_is_room(self._writer.flush, disk_of(self._folder), self._wait_s)
        except OSError as error:
            self._give_up(str(error.strerror))

    def _give_up(self, reason: str) -> None:
        self._is_broken = True
        logger.warning("%s cannot be written (%s): the run goes on without TensorBoard", self._folder, reason)

    def close(self, exit_code: int) -> None:
        """Closes the event file."""
        try:
            self._writer.close()
        except OSError as error:
            logger.warning("%s lacks its last points (%s)", self._folder, error.strerror)
