"""Running mean and standard deviation of a reward component."""

from __future__ import annotations

import math
from collections.abc import Mapping

from partner_rl.algorithm.advantages.estimator import EPSILON, Array


class RunningMoments:
    """Mean and standard deviation of all values so far, updated by batches (Welford, 1962; Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    @property
    def std(self) -> float:
        """Standard deviation over all values (divided by their number); 0 before the first."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def update(self, values: Array) -> None:
        """Takes values of any shape into the moments."""
        if values.size == 0:
            return
        count = self.count + values.size
        mean = float(values.mean())
        shift = mean - self.mean
        self._squares += float(((values - mean) ** 2).sum()) + shift**2 * self.count * values.size / count
        self.mean += shift * values.size / count
        self.count = count

    def standardise(self, values: Array) -> Array:
        """`(values − mean) / (std + ε)`."""
        return (values - self.mean) / (self.std + EPSILON)

    def state(self) -> Mapping[str, float]:
        """What must be saved for an exact resume, as JSON."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def restore(self, state: Mapping[str, float]) -> None:
        """Takes back what `state` returned."""
        self.count = int(state["count"])
        self.mean = state["mean"]
        self._squares = state["squares"]


def clipped(values: Array, limit: float | None) -> Array:
    """The values held within ±`limit`; as they are when it is None."""
    return values if limit is None else values.clip(-limit, limit)


def whitened(values: Array) -> Array:
    """The values with mean 0 and standard deviation 1 (0 throughout when all are alike)."""
    result: Array = (values - values.mean()) / (values.std() + EPSILON)
    return result
