"""The interface of an advantage estimator.

Axes: `G` group, `K` sample of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt


class Stateless:
    """Base of the estimators that look at one iteration alone."""

    def state(self) -> Mapping[str, list[float]]:
        """Nothing is carried from one iteration to the next."""
        return {}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Nothing is carried from one iteration to the next."""


Array = npt.NDArray[np.float64]

EPSILON: Final = 1e-4
"""Added to a standard deviation that rewards are divided by, so that rewards which are all but equal say nothing."""


class AdvantageEstimator(Protocol):
    """Turns the rewards of an iteration into advantages.

    Attributes:
        needs_greedy: Whether `advantages` needs the rewards of the greedy rollouts.
        divides_by_group_std: Whether the advantages come divided by the standard deviation of their group.
    """

    needs_greedy: ClassVar[bool]
    divides_by_group_std: ClassVar[bool]

    def advantages(self, rewards_GK: Array, greedy_G: Array | None = None) -> Array:
        """Advantages, shape `[G, K]`.

        Args:
            rewards_GK: Rewards of `K` samples of each of `G` states.
            greedy_G: Reward of each state's greedy rollout, for the estimators that need it.
        """
        ...

    def state(self) -> Mapping[str, list[float]]:
        """What must be saved for an exact resume, as JSON."""
        ...

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Takes back what `state` returned."""
        ...


def group_std(rewards_GK: Array) -> Array:
    """Standard deviation of each group (over its `K` samples, not `K − 1`), plus `EPSILON`; shape `[G, 1]`."""
    std_G1: Array = rewards_GK.std(axis=1, keepdims=True) + EPSILON
    return std_G1
