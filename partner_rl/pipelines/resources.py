"""What a stage may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from partner_rl.types import PartnerError

MODEL_UNIT_ROWS: Final = 2048
"""Rows of a unit in a stage with a model: a minute or two on one core, so that progress shows and little is lost."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Workers and sizes of a stage. Of these, only `rows_per_unit` shows in the output: it cuts the files.

    Attributes:
        num_cpus: CPUs that each reserves in Ray, and its threads.
        num_gpus: GPUs, or a fraction of one, that each reserves in Ray.
        batch_rows: Rows that a transform gets at once.
        rows_per_unit: Rows of a unit, about; what an interruption loses is at most a unit a worker.
    """

    workers: int = 1
    num_cpus: float = 1
    num_gpus: float = 0
    batch_rows: int = 512
    rows_per_unit: int = 50_000

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            PartnerError: One of them is too small.
        """
        for name in ("workers", "batch_rows", "rows_per_unit"):
            if getattr(self, name) < 1:
                raise PartnerError(f"{name}={getattr(self, name)}: give at least 1")
        for name in ("num_cpus", "num_gpus"):
            if getattr(self, name) < 0:
                raise PartnerError(f"{name}={getattr(self, name)}: give 0 or more")
