"""What a client needs to know of the pools: plain data, to be sent to any process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rewards.scorer import RewardDefinition

NAMESPACE = "partner-rl"
"""Ray namespace of the actors' names."""


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a client needs to know of one component's pool.

    Attributes:
        is_active: Whether it is scored with every request; other pools are scored only when asked for.
    """

    definition: RewardDefinition
    actors: tuple[str, ...]
    micro_batch: int
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """What a client needs to know.

    Attributes:
        timeout_s: Time limit of a micro-batch, seconds (kept by the actors; named in messages).
        max_retries: Attempts after the first before a micro-batch whose actor dies ends the run.
    """

    pools: Mapping[str, PoolSpec]
    timeout_s: float
    max_retries: int
    cache_size: int
