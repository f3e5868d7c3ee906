"""Pools of Ray actors that run the scorers, and the client that asks them.

The driver creates the pools (`create_pools`); any process of the cluster scores with a `RewardClient`, which finds the
actors by name. A client asks all components in parallel, each distinct item once, in micro-batches of similar
length, at most `IN_FLIGHT` to an actor.
"""

from rewards.pool.actors import RewardPools, create_pools
from rewards.pool.client import RewardClient
from rewards.pool.spec import NAMESPACE, ClientSpec, PoolSpec

__all__ = ["NAMESPACE", "ClientSpec", "PoolSpec", "RewardClient", "RewardPools", "create_pools"]
