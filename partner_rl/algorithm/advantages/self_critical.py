"""Self-critical sequence training (Rennie et al., 2017)."""

from __future__ import annotations

from typing import ClassVar

from partner_rl.algorithm.advantages.estimator import Array, Stateless


class SelfCritical(Stateless):
    """`A_k = r_k − reward of the greedy rollout of the same state`.

    The greedy rollout does not depend on the samples, so that the policy gradient stays unbiased. What is learnt is to
    beat the likeliest edit; it costs one further rollout and its scores a state.
    """

    needs_greedy: ClassVar[bool] = True
    divides_by_group_std: ClassVar[bool] = False

    def advantages(self, rewards_GK: Array, greedy_G: Array | None = None) -> Array:
        """See `AdvantageEstimator`.

        Raises:
            ValueError: There are no greedy rewards.
        """
        if greedy_G is None:
            raise ValueError("self-critical advantages need the rewards of the greedy rollouts")
        return rewards_GK - greedy_G[:, None]
