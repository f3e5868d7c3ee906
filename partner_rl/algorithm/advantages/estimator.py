"""The interface of an advantage estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class AdvantageEstimator(Protocol):
    """Turns the rewards of an iteration into advantages."""

    def advantages(self, rewards_GK: Array) -> Array:
        """Advantages, shape `[G, K]`, of the rewards of `K` samples of each of `G` states."""
        ...

    def state(self) -> Mapping[str, list[float]]:
        """What must be saved for an exact resume, as JSON."""
        ...

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Takes back what `state` returned."""
        ...
