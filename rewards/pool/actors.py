"""The driver's side of the pools: start the actors, wait until their models are loaded, end them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import ray
from ray.exceptions import RayTaskError

from partner_rl.cluster.nodes import free_resources
from partner_rl.config.reward_schema import RewardsConfig
from partner_rl.progress import Progress, no_progress
from partner_rl.types import PartnerError
from rewards.actor import ScorerActor
from rewards.pool.actor_errors import DEATHS, cause_of
from rewards.pool.client import RewardClient
from rewards.pool.dispatch import SILENCE_S
from rewards.pool.spec import NAMESPACE, ClientSpec, PoolSpec
from rewards.scorer import RewardComponent

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 900.0
"""Seconds that actors may take to start or to come back, model loading included."""


class RewardPools:
    """The driver's hold on the actors: they end with `shutdown`, or with the driver."""

    def __init__(self, spec: ClientSpec, actors: Sequence[Any]) -> None:
        """Take over the handles of running actors."""
        self.spec = spec
        self._actors = list(actors)

    @property
    def size(self) -> int:
        """Number of actors."""
        return len(self._actors)

    def client(self) -> RewardClient:
        """A client of these pools."""
        return RewardClient(self.spec)

    def shutdown(self) -> None:
        """End every actor."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        self._actors.clear()

    def __enter__(self) -> Self:
        """Return the pools; leaving the block ends them."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End every actor."""
        self.shutdown()


def create_pools(
    components: Mapping[str, RewardComponent],
    settings: RewardsConfig,
    run_id: str,
    actor_threads: int,
    progress: Progress = no_progress,
    start_timeout_s: float = START_TIMEOUT_S,
    resources: Mapping[str, float] | None = None,
) -> RewardPools:
    """Start one pool a component and wait until all models are loaded.

    Args:
        components: The components; each gets a pool, also one that weighs nothing.
        settings: Replicas, CPUs, time limit, retries and cache.
        run_id: Distinguishes the actors of runs that share a cluster.
        actor_threads: Torch threads of each actor.
        progress: Called with (ready actors, all actors).
        start_timeout_s: Seconds to wait for all actors.
        resources: Custom Ray resources that each actor reserves, which choose its nodes (`resources.placement`).

    Raises:
        PartnerError: An actor cannot be placed, its process ends, or its model cannot be loaded; names the pool.
    """
    actors: dict[str, Any] = {}
    owners: dict[str, str] = {}
    pools: dict[str, PoolSpec] = {}
    try:
        for name, component in components.items():
            replicas = component.settings.replicas or settings.replicas
            names = tuple(f"{run_id}-{name}-{i}" for i in range(replicas))
            for actor_name in names:
                actors[actor_name] = _start_actor(actor_name, component, settings, actor_threads, resources or {})
                owners[actor_name] = name
            section = component.settings
            pools[name] = PoolSpec(component.definition, names, section.micro_batch, section.is_active)
        _await_actors(actors, owners, progress, start_timeout_s)
    except BaseException:
        for actor in actors.values():
            ray.kill(actor, no_restart=True)
        raise
    spec = ClientSpec(pools, settings.timeout_s, settings.max_retries, settings.cache_size)
    return RewardPools(spec, list(actors.values()))


def _start_actor(
    actor_name: str,
    component: RewardComponent,
    settings: RewardsConfig,
    threads: int,
    resources: Mapping[str, float],
) -> Any:
    # Torch takes its thread count from here, as the variables are set before the actor's process starts.
    environment = {
        "OMP_NUM_THREADS": str(threads),
        # Idle threads that spin would take the cores of the other actors.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    actor_class = ray.remote(ScorerActor).options(
        name=actor_name,
        namespace=NAMESPACE,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=settings.num_cpus,
        num_gpus=component.settings.num_gpus,
        resources=dict(resources),
        runtime_env={"env_vars": environment},
    )
    try:
        return actor_class.remote(component.builder, settings.timeout_s)
    except ValueError as error:
        raise PartnerError(
            f"reward actor {actor_name!r} exists already: another run uses this name; choose another run name"
        ) from error


def _await_actors(
    actors: Mapping[str, Any],
    owners: Mapping[str, str],
    progress: Progress,
    timeout_s: float,
) -> None:
    deadline = time.monotonic() + timeout_s
    waiting = {actor.ready.remote(): name for name, actor in actors.items()}
    progress(0, len(actors))
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=min(SILENCE_S, max(0.0, deadline - time.monotonic())))
        for ref in done:
            _check_ready(ref, owners[waiting.pop(ref)])
            progress(len(actors) - len(waiting), len(actors))
        pools = sorted({owners[name] for name in waiting.values()})
        if waiting and time.monotonic() >= deadline:
            raise PartnerError(
                f"reward pools {pools} are not ready after {timeout_s:.0f} s: {free_resources()}; "
                "lower rewards.replicas, rewards.num_cpus or num_gpus, or give Ray more resources"
            )
        if waiting and not done:
            logger.warning("still waiting for reward pools %s to load their models", pools)


def _check_ready(ref: Any, pool: str) -> None:
    try:
        ray.get(ref)
    except DEATHS as error:
        raise PartnerError(
            f"reward pool {pool!r} did not start: an actor's process ended while loading its model "
            f"({type(error).__name__}); see its log in Ray's session folder, and check memory"
        ) from error
    except RayTaskError as error:
        raise PartnerError(f"reward pool {pool!r} did not start: {cause_of(error)}") from error
