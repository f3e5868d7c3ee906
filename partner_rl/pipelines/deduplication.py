"""The second and third pass of curating: which rows are duplicates, and the copy without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.curation import duplicates
from partner_rl.pipelines.cleaning import BAND_COLUMNS, EXACT_COLUMN
from partner_rl.pipelines.stage import Transform
from partner_rl.pipelines.units import Unit, parquet_files
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.atomic import file_when_whole

KEEP: Final = 0
"""Mark of a row that stays."""
EXACT: Final = 1
"""Mark of a row whose words an earlier one has."""
NEAR: Final = 2
"""Mark of a row that resembles an earlier one."""

MARKS: Final = "marks.npy"
"""File of the marks of all rows."""

_END: Final = ""

DUPLICATE_EXACT: Final = "dropped/duplicate_exact"
DUPLICATE_NEAR: Final = "dropped/duplicate_near"


def mark_duplicates(clean: Path, work: Path, threshold: float, progress: Progress = no_progress) -> Path:
    """The second pass.

    The folder `work` holds the signatures, which are deleted at the end, and the result.

    Returns:
        A .npy file with `KEEP`, `EXACT` or `NEAR` for each row of the files in the order of their names; one that is
        there already is taken as it is.
    """
    result = work / MARKS
    if result.exists():
        return result
    starts = offsets(clean)
    total = starts.pop(_END)
    signatures = work / "signatures.npy"
    bands_DN = np.lib.format.open_memmap(signatures, mode="w+", dtype=np.uint64, shape=(duplicates.BANDS, total))
    keys_N = np.empty(total, dtype=np.uint64)
    for name, start in starts.items():
        with pq.ParquetFile(clean / name) as file:
            end = start + file.metadata.num_rows
            keys_N[start:end] = _column(file, EXACT_COLUMN)
            for band, column in enumerate(BAND_COLUMNS):
                bands_DN[band, start:end] = _column(file, column)
    exact_N = duplicates.mark_exact(keys_N)
    del keys_N
    near_N = duplicates.mark_near(bands_DN, ~exact_N, threshold, progress)
    marks_N = np.where(exact_N, EXACT, np.where(near_N, NEAR, KEEP)).astype(np.uint8)
    with file_when_whole(result) as file:
        np.save(file, marks_N)
    signatures.unlink()
    return result


def offsets(clean: Path) -> dict[str, int]:
    """Index of the first row of each file of a folder, when all are put together in the order of their names.

    Returns:
        File name → index; the number of all rows under `""`.
    """
    found: dict[str, int] = {}
    total = 0
    for path in parquet_files(clean):
        found[path.name] = total
        total += pq.read_metadata(path).num_rows
    return found | {_END: total}


@dataclass(frozen=True)
class KeepBuilder:
    """Builds the transform of the third pass.

    Attributes:
        offsets: Name of each cleaned file → index of its first row among the marks.
    """

    marks: Path
    offsets: Mapping[str, int]

    def __call__(self) -> Transform:
        """The transform."""
        return _Keep(np.load(self.marks, mmap_mode="r", allow_pickle=False), self.offsets)


class _Keep:
    """Lets the rows through that are marked so."""

    def __init__(self, marks_N: npt.NDArray[np.uint8], offsets: Mapping[str, int]) -> None:
        self._marks_N = marks_N
        self._offsets = offsets
        self._next = 0

    def begin(self, unit: Unit) -> None:
        self._next = self._offsets[unit.file.path.name] + unit.first_row

    def __call__(self, batch: pa.Table) -> tuple[pa.Table, Counter[str]]:
        marks = np.asarray(self._marks_N[self._next : self._next + batch.num_rows])
        self._next += batch.num_rows
        counts = Counter({DUPLICATE_EXACT: int((marks == EXACT).sum()), DUPLICATE_NEAR: int((marks == NEAR).sum())})
        return batch.filter(pa.array(marks == KEEP)), counts


def _column(file: pq.ParquetFile, name: str) -> npt.NDArray[np.uint64]:
    return np.asarray(file.read([name], use_threads=False)[name].to_numpy(), dtype=np.uint64)
