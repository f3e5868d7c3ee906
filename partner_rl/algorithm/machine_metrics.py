"""How the machine fares, for the guards: growth of the host's memory, and steps that take many times their usual time.

Only ratios, so that limits hold on every machine. They are no part of a training state: a resumed run may be elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

MIN_GROWTH: Final = 9
"""Readings that a growth needs: three in each third."""
MIN_SLOWDOWN: Final = 5
"""Readings that a usual time needs."""


@dataclass(frozen=True, slots=True)
class MachineReading:
    """What was read after an iteration; None where it was not.

    Attributes:
        memory: Share of the host's memory in use, 0 to 1.
        seconds: Seconds of the iteration.
    """

    memory: float | None = None
    seconds: float | None = None


def machine_values(readings: Sequence[MachineReading]) -> dict[str, float]:
    """`memory_growth` and `slowdown` over the readings; those that have too few are missing."""
    memory = [reading.memory for reading in readings if reading.memory is not None]
    seconds = [reading.seconds for reading in readings if reading.seconds is not None]
    values = {}
    if len(memory) >= MIN_GROWTH:
        values["memory_growth"] = steady_growth(memory)
    if len(seconds) >= MIN_SLOWDOWN:
        values["slowdown"] = seconds[-1] / median(seconds)
    return values


def steady_growth(values: Sequence[float]) -> float:
    """The smaller of the rises from the first third to the middle one and from there to the last, an iteration.

    What rises once and stays has 0, what rises all the time its slope.

    There are at least three values, oldest first.
    """
    third, middle = len(values) // 3, (len(values) - len(values) // 3) // 2
    first, second, last = (fmean(values[a : a + third]) for a in (0, middle, len(values) - third))
    return min((second - first) / middle, (last - second) / (len(values) - third - middle))
