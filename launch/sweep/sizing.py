"""What a trial reserves, and how many trials fit beside each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from launch.resources.memory import GIB, ProcessMemory
from launch.resources.plan import DRIVER, Plan, place_on_gpus, resource_plan, reward_group_name
from launch.sweep.spec import SweepSpec
from partner_rl.config.reward_schema import RewardSection
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError


@dataclass(frozen=True, slots=True)
class Sizing:
    """The resources of a sweep.

    Attributes:
        plan: The processes of one trial, with threads for as many trials as run at a time.
        bundles: What Ray reserves for one trial: its own process first, then one bundle an actor.
        concurrent: Trials at a time that this machine has room for; on a cluster Ray finds out, and it is 1.
        shared_pools: Whether the reward actors stand outside of the trials.
    """

    plan: Plan
    bundles: tuple[dict[str, float], ...]
    concurrent: int
    shared_pools: bool
    machine_cores: int

    @property
    def trial_cpus(self) -> float:
        """Logical CPUs of a trial."""
        return sum(bundle.get("CPU", 0.0) for bundle in self.bundles)

    @property
    def trial_gpus(self) -> float:
        """GPUs of a trial."""
        return sum(bundle.get("GPU", 0.0) for bundle in self.bundles)

    @property
    def session(self) -> Plan:
        """The processes of the whole sweep, as many trials as run at a time; `driver` is a trial's own process."""
        head = self.bundles[0]
        groups = []
        for group in self.plan.groups:
            if group.name == DRIVER:
                cpus, gpus = head.get("CPU", 0.0), head.get("GPU", 0.0)
                groups.append(replace(group, count=self.concurrent, cpus=cpus, gpus=gpus))
            else:
                times = 1 if self.shared_pools and _is_pool(group.name) else self.concurrent
                groups.append(replace(group, count=group.count * times))
        return replace(self.plan, groups=tuple(groups), machine_cores=self.machine_cores)


def check_reservations(configs: Iterable[tuple[str, RunConfig]], base: RunConfig) -> None:
    """Checks that every trial, given with its name, reserves what the sweep's base does: Tune places all alike.

    Raises:
        PartnerError: A trial has other processes; it would wait in silence for room that nobody has set aside.
    """
    expected = _processes(base)
    for name, config in configs:
        if _processes(config) != expected:
            raise PartnerError(
                f"{name} has other processes, CPUs or GPUs than the sweep's base, and all trials reserve the same: set "
                "such keys in overrides, and run a sweep for each value"
            )


def _processes(config: RunConfig) -> object:
    sections = config.rewards.components().values()
    pools = [(s.is_scored, s.replicas, s.num_gpus) for s in sections if isinstance(s, RewardSection)]
    algorithm = config.algorithm
    workers = (algorithm.num_env_runners, algorithm.num_learners)
    gpus = (algorithm.num_gpus_per_env_runner, algorithm.num_gpus_per_learner)
    return config.device, config.resources, config.rewards.replicas, config.rewards.num_cpus, pools, workers, gpus


def on_gpus(spec: SweepSpec, config: RunConfig, machine_gpus: int) -> RunConfig:
    """Puts a trial's own process and its reward actors on the spec's fractions of a GPU.

    The configuration is left as it is on a cluster, with `device=cpu`, or when it names GPUs itself.
    """
    sections = {name: s for name, s in config.rewards.components().items() if isinstance(s, RewardSection)}
    return place_on_gpus(config, sections, machine_gpus, spec.reward_gpus, spec.trial_gpus)


def trials_in_memory(spec: SweepSpec, plan: Plan, needs: Iterable[ProcessMemory], free: int) -> int:
    """Trials that `free` bytes are enough for, by the same estimate as in `partner-rl doctor`; at least one."""
    counts = {group.name: group.count for group in plan.groups}
    shared = each = 0
    for process in needs:
        needed = counts[process.group] * (GIB if process.on_gpu else process.total)
        if spec.share_rewards and _is_pool(process.group):
            shared += needed
        else:
            each += needed
    return max(1, (free - shared) // each) if each else 2**30


def sizing(
    spec: SweepSpec, config: RunConfig, trials: int, machine_cores: int, machine_gpus: int, in_memory: int | None = None
) -> Sizing:
    """Sizes a trial and says how many run at a time.

    `in_memory` counts the trials that there is memory for, where the spec does not say how many to run at a time.

    Raises:
        PartnerError: A single trial asks for more GPUs than this machine has, and no cluster is joined.
    """
    plan = resource_plan(config, machine_cores, machine_gpus)
    bundles = tuple(_bundles(spec, config, plan))
    size = Sizing(plan, bundles, 1, spec.share_rewards, machine_cores)
    if config.resources.address is None:
        outside = size.session
        pools = [g for g in outside.groups if spec.share_rewards and _is_pool(g.name)]
        free_cpus = max(machine_cores, outside.local_ray_cpus) - sum(g.count * g.cpus for g in pools)
        free_gpus = machine_gpus - sum(g.count * g.gpus for g in pools)
        if size.trial_gpus > free_gpus + 1e-9:
            raise PartnerError(
                f"a trial asks for {size.trial_gpus:g} GPUs, and this machine has {free_gpus:g} for trials: lower "
                "trial_gpus, reward_gpus or the configuration's num_gpus, or join a cluster with resources.address=auto"
            )
        fit = min(_times(size.trial_cpus, free_cpus), _times(size.trial_gpus, free_gpus))
        size = replace(size, concurrent=max(1, min(fit, trials, spec.max_concurrent or in_memory or trials)))
    return replace(size, plan=_with_threads(size, config))


def _with_threads(size: Sizing, config: RunConfig) -> Plan:
    """The plan of one trial of several that compute at the same time: each gets its share of the cores."""
    share = resource_plan(config, max(1, size.machine_cores // size.concurrent), size.plan.machine_gpus)
    if not size.shared_pools:
        return share
    pools = {group.name: group for group in size.plan.groups if _is_pool(group.name)}
    return replace(share, groups=tuple(pools.get(group.name, group) for group in share.groups))


def _bundles(spec: SweepSpec, config: RunConfig, plan: Plan) -> Iterable[dict[str, float]]:
    local_learner = config.algorithm.num_gpus_per_learner if config.algorithm.num_learners == 0 else 0.0
    yield {"CPU": spec.trial_cpus} | ({"GPU": local_learner} if local_learner else {})
    for group in plan.groups:
        if group.name == DRIVER or (spec.share_rewards and _is_pool(group.name)):
            continue
        yield from ([group.bundle] * group.count if group.bundle else [])


def _is_pool(group: str) -> bool:
    return group.startswith(reward_group_name(""))


def _times(each: float, room: float) -> int:
    """How often `each` fits into `room`."""
    return math.floor(room / each + 1e-9) if each else 2**30
