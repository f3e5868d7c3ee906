"""REINFORCE leave-one-out (Kool et al., 2019; Ahmadian et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping

from partner_rl.algorithm.advantages.estimator import Array


class LeaveOneOut:
    """`A_k = r_k − mean of the other samples of the same state`.

    The baseline of a sample does not depend on that sample, so that the policy gradient stays unbiased.
    """

    def advantages(self, rewards_GK: Array) -> Array:
        """See `AdvantageEstimator`; `K` must be at least 2."""
        samples = rewards_GK.shape[1]
        others_GK: Array = (rewards_GK.sum(1, keepdims=True) - rewards_GK) / (samples - 1)
        return rewards_GK - others_GK

    def state(self) -> Mapping[str, list[float]]:
        """Nothing is carried from one iteration to the next."""
        return {}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Nothing is carried from one iteration to the next."""
