"""Reward actors that the commands of a test file share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from partner_rl.config.reward_schema import RewardsConfig
from rewards.pool import RewardPools, create_pools
from rewards.scorer import RewardComponent


class SharedPools:
    """Takes the place of `create_pools`: equal scorers are started once, and end with the block."""

    def __init__(self) -> None:
        self._known: list[tuple[object, RewardPools]] = []

    def create(
        self,
        components: Mapping[str, RewardComponent],
        settings: RewardsConfig,
        run_id: str,
        *more: Any,
        **named: Any,
    ) -> RewardPools:
        wanted = (dict(components), settings)
        for known, pools in self._known:
            if known == wanted:
                return RewardPools(pools.spec, [])
        # A run of the same name may have had other scorers.
        pools = create_pools(components, settings, f"{run_id}-{len(self._known)}", *more, **named)
        self._known.append((wanted, pools))
        return RewardPools(pools.spec, [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for _, pools in self._known:
            pools.shutdown()
