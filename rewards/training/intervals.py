"""Bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

RESAMPLES: Final = 500
"""Resamples of an interval."""
LEVEL: Final = 0.95
"""Share of the resampled values inside an interval."""

IntArray = npt.NDArray[np.int64]


def bootstrap_interval(
    statistic: Callable[[IntArray], float], clusters: IntArray, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile interval of a statistic, rows of one cluster resampled together (Efron and Tibshirani, 1993).

    Args:
        statistic: Its value on some rows, given as indices with repeats.
        clusters: Per row, its cluster, such as the response that a pair comes from; rows of one cluster depend on
            each other.
        seed: Seed of the resampling.
        resamples: How many.

    Returns:
        Lower and upper end.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(clusters, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1)
    values = []
    for _ in range(resamples):
        drawn = rng.integers(len(members), size=len(members))
        values.append(statistic(np.concatenate([members[i] for i in drawn])))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
