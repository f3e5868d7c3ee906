"""Group-relative advantages (Shao et al., 2024, DeepSeekMath, section 4.1)."""

from __future__ import annotations

from typing import ClassVar

from partner_rl.algorithm.advantages.estimator import Array, Stateless, group_std


class GroupRelative(Stateless):
    """`A_k = (r_k − mean of the group) / (std of the group + ε)`.

    Every state pulls equally hard, however much the rewards of its samples differ. That is a bias: the expected
    gradient is no longer that of the mean reward, because states whose samples are nearly alike count more. Dr. GRPO
    (Liu et al., 2025) leaves out two things: the division by the standard deviation, after which the advantages are
    those of `rloo` times `(K − 1)/K`; and the division of each sample's loss by its length, which our losses do not
    make either.
    """

    needs_greedy: ClassVar[bool] = False
    divides_by_group_std: ClassVar[bool] = True

    def advantages(self, rewards_GK: Array, greedy_G: Array | None = None) -> Array:
        """See `AdvantageEstimator`; with `K` = 1 all advantages are 0."""
        centred_GK: Array = rewards_GK - rewards_GK.mean(axis=1, keepdims=True)
        return centred_GK / group_std(rewards_GK)
