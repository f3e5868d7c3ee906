"""The Pareto front of several objectives, and one point of it to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def losses(metrics: Sequence[Mapping[str, float]], objectives: Mapping[str, str]) -> Floats:
    """Metrics as numbers of which less is better, shape `[N, M]` for `N` trials and `M` objectives."""
    signs = {metric: -1.0 if direction == "max" else 1.0 for metric, direction in objectives.items()}
    rows = [[signs[metric] * row[metric] for metric in objectives] for row in metrics]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))


def pareto_front(losses_NM: Floats) -> list[int]:
    """The rows that no other row dominates, in their order; equal rows stand or fall together.

    A row dominates another when it is nowhere higher and somewhere lower. A row with a number that is not finite is
    never on the front.
    """
    finite = np.isfinite(losses_NM).all(axis=1)
    front = []
    for index in np.flatnonzero(finite):
        others = losses_NM[finite]
        dominated = (others <= losses_NM[index]).all(axis=1) & (others < losses_NM[index]).any(axis=1)
        if not dominated.any():
            front.append(int(index))
    return front


def scaled(losses_NM: Floats, front: Sequence[int]) -> Floats:
    """How good each row of the front is in each objective: 1 the front's best, 0 its worst, shape `[F, M]`.

    An objective in which all of them are equal decides nothing: it is 1 throughout.
    """
    chosen_FM = losses_NM[list(front)]
    low_M, high_M = chosen_FM.min(axis=0), chosen_FM.max(axis=0)
    spread_M = np.where(high_M > low_M, high_M - low_M, 1.0)
    return np.asarray((high_M - chosen_FM) / spread_M + (high_M == low_M), dtype=np.float64)


def choose(
    losses_NM: Floats, front: Sequence[int], objectives: Sequence[str], how: Literal["knee"] | Mapping[str, float]
) -> int:
    """The row of the front to take.

    Scale each objective over the front so that its best value is 1 and its worst 0. The *knee* is the row that lies
    farthest, towards the ideal (1, …, 1), from the hyperplane through the points that have 1 in one objective and 0 in
    the others: its distance is (sum − 1) / √M, so it is the row with the greatest sum (Das, 1999, with the extremes
    taken as ideal). With weights it is the greatest weighted sum. Of equal ones the first is taken.

    Args:
        losses_NM: Metrics of all rows, less is better.
        front: The rows to choose from, at least one.
        objectives: Names of the columns.
        how: `knee`, or objective → weight; one that is left out weighs nothing.
    """
    weights_M = np.array([1.0 if how == "knee" else how.get(name, 0.0) for name in objectives])
    value_F = scaled(losses_NM, front) @ weights_M
    # Sums that differ in rounding alone are equal.
    return front[int(np.flatnonzero(value_F >= value_F.max() - 1e-12)[0])]
