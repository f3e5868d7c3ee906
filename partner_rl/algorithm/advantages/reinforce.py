"""REINFORCE with a moving-average baseline (Williams, 1992; PARTNER, section 4.5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import ClassVar

from partner_rl.algorithm.advantages.estimator import Array


class MovingAverageBaseline:
    """`A = r − mean reward of the last iterations`.

    The baseline is made of earlier iterations alone (of the current one in the very first), so that from the second
    iteration on it does not depend on the samples that it is subtracted from.

    Args:
        window: Iterations in the average (PARTNER's code: 20).
    """

    needs_greedy: ClassVar[bool] = False
    divides_by_group_std: ClassVar[bool] = False

    def __init__(self, window: int) -> None:
        self._means: deque[float] = deque(maxlen=window)

    def advantages(self, rewards_GK: Array, greedy_G: Array | None = None) -> Array:
        """See `AdvantageEstimator`; also takes this iteration's mean into the average."""
        mean = float(rewards_GK.mean())
        baseline = sum(self._means) / len(self._means) if self._means else mean
        self._means.append(mean)
        return rewards_GK - baseline

    def state(self) -> Mapping[str, list[float]]:
        """The mean rewards in the window."""
        return {"means": list(self._means)}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Takes the mean rewards back."""
        self._means.clear()
        self._means.extend(state["means"])
