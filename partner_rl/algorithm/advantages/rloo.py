"""REINFORCE leave-one-out (Kool et al., 2019; Ahmadian et al., 2024)."""

from __future__ import annotations

from typing import ClassVar

from partner_rl.algorithm.advantages.estimator import Array, Stateless


class LeaveOneOut(Stateless):
    """`A_k = r_k − mean of the other samples of the same state`.

    The baseline of a sample does not depend on that sample, so that the policy gradient stays unbiased.
    """

    needs_greedy: ClassVar[bool] = False
    divides_by_group_std: ClassVar[bool] = False

    def advantages(self, rewards_GK: Array, greedy_G: Array | None = None) -> Array:
        """See `AdvantageEstimator`; `K` must be at least 2."""
        samples = rewards_GK.shape[1]
        others_GK: Array = (rewards_GK.sum(1, keepdims=True) - rewards_GK) / (samples - 1)
        return rewards_GK - others_GK
