"""What is made once for all trials: reward models, warm start and, if asked for, the reward actors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from pydantic import JsonValue

from launch import pipeline
from launch.console import progress
from launch.plan import Plan
from launch.run_folder import RunFolder
from launch.sweep.ledger import SweepFolder
from launch.sweep.sizing import Shares, pooled_config
from launch.sweep.spec import SweepSpec
from partner_rl.config.schema import RunConfig
from rewards.pool import ClientSpec, create_pools
from rewards.registry import all_components


@dataclass(frozen=True, slots=True)
class SharedPool:
    """The reward actors that all trials use.

    Attributes:
        client: What a trial needs to know of them.
        actors: How many there are.
        seconds: Seconds until their models were loaded.
    """

    client: ClientSpec
    actors: int
    seconds: float


def make_shared(config: RunConfig, sweep: SweepFolder, share: Shares) -> dict[str, JsonValue]:
    """Trains what no swept key changes and the configuration names no checkpoint of, unless it is there.

    Args:
        config: The configuration that trials change.
        sweep: The sweep's folder.
        share: What is shared.

    Returns:
        Configuration key → value, for all trials.
    """
    found = shared_keys(config, sweep, share)
    if not found:
        return found
    run = sweep.shared
    if not run.config_file.is_file():
        own = config.model_copy(update={"name": run.path.name, "runs_dir": str(sweep.path)})
        RunFolder.create(own, default_name=run.path.name)
    with run.resumable():
        splits = pipeline.load_splits(config)
        examples = pipeline.warm_start_examples(config, run, splits) if share.warm_start else None
        if share.reward_models:
            pipeline.train_reward_models(config, run, splits)
        if share.warm_start:
            pipeline.warm_start(config, run, examples)
    return found


def shared_keys(config: RunConfig, sweep: SweepFolder, share: Shares) -> dict[str, JsonValue]:
    """Configuration key → the checkpoint that all trials use, where the configuration names none."""
    folder, keys = sweep.shared.path.absolute(), dict[str, JsonValue]()
    if share.reward_models:
        for name in ("empathy", "coherence"):
            if getattr(config.rewards, name).checkpoint is None:
                keys[f"rewards.{name}.checkpoint"] = str(folder / "rewards" / name)
    if share.warm_start and config.warmstart.checkpoint is None:
        keys["warmstart.checkpoint"] = str(folder / "warm_start")
    return keys


@contextmanager
def shared_pool(spec: SweepSpec, config: RunConfig, sweep: SweepFolder, plan: Plan) -> Iterator[SharedPool]:
    """The shared reward actors, for the time of a block.

    Args:
        spec: The sweep.
        config: The configuration that trials change, with the shared checkpoints.
        sweep: The sweep's folder.
        plan: Says the actors' threads.
    """
    group = next(group for group in plan.groups if group.name.startswith("reward "))
    run_id = f"{sweep.path.name}-{ray.get_runtime_context().get_job_id()}"
    components = all_components(pooled_config(spec, config), sweep.shared.path)
    placed, began = config.resources.placement.share("rewards"), time.perf_counter()
    with progress("Starting the shared reward actors") as report:
        pools = create_pools(components, config.rewards, run_id, group.threads, report, resources=placed)
    with pools:
        actors = sum(len(pool.actors) for pool in pools.spec.pools.values())
        yield SharedPool(pools.spec, actors, time.perf_counter() - began)
