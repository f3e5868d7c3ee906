"""The mean over responses that several metrics are."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(values_N: Sequence[float], name: str) -> float:
    """The arithmetic mean, summed without rounding error so that the order of the responses does not matter.

    Raises:
        ValueError: There is no value, or one is NaN or infinite; the message names the metric and the row.
    """
    if not values_N:
        raise ValueError(f"{name}: there is no response to average over")
    for row, value in enumerate(values_N):
        if not math.isfinite(value):
            raise ValueError(f"{name}: row {row} is {value}, not a finite number")
    return math.fsum(values_N) / len(values_N)
