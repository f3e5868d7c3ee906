"""What a trial needs, how many fit beside each other, and what all trials can share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from launch.resources.memory import GIB, ProcessMemory
from launch.resources.plan import DRIVER, Plan, resource_plan, reward_group_name
from launch.sweep.space import ConfigOf
from launch.sweep.spec import METRICS, SweepSpec
from partner_rl.config.reward_schema import RewardSection
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError
from rewards.coherence import NAME as COHERENCE
from rewards.empathy import NAME as EMPATHY
from rewards.fluency import NAME as FLUENCY
from rewards.mutual_information import NAME as MUTUAL_INFORMATION
from rewards.registry import all_components
from rewards.scorer import ScorerBuilder

REWARD_TRAINING_KEYS: Final = ("data", "seed", "device", "models.encoder", "models.cache_dir", "reward_training")
"""Keys, or sections, that the trained reward models depend on."""

SCORER_KEYS: Final = ("rewards", "models")
"""Sections that scorers are made from."""

WARM_START_KEYS: Final = (
    *("data", "seed", "device", "models.policy", "models.cache_dir", "env", "warmstart"),
    *("policy.max_seeker_tokens", "policy.max_sentence_tokens", "policy.max_new_tokens", "policy.lora", "policy.dtype"),
)
"""Keys, or sections, that the warm start depends on."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What is made once for all trials."""

    reward_models: bool
    warm_start: bool
    pools: bool


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


def shares(spec: SweepSpec) -> Shares:
    """What a sweep's keys leave alone.

    Raises:
        PartnerError: `share_rewards` is asked for, and a key changes a scorer.
    """
    reward_key = first_inside(spec.space, REWARD_TRAINING_KEYS) or next(
        (key for key in spec.space if key in ("rewards.empathy.checkpoint", "rewards.coherence.checkpoint")), None
    )
    warm_key = first_inside(spec.space, WARM_START_KEYS)
    if spec.share_rewards and reward_key is not None:
        raise PartnerError(
            f"share_rewards: the reward models depend on {reward_key}, which is swept: set share_rewards to false"
        )
    return Shares(reward_key is None, warm_key is None, spec.share_rewards)


def check_scorers(spec: SweepSpec, config_of: ConfigOf) -> None:
    """Checks that no swept key changes what the reward actors compute.

    Raises:
        PartnerError: One does.
    """
    expected = scorers(spec, config_of({}))
    for key, values in spec.space.items():
        for value in values.examples if first_inside([key], SCORER_KEYS) else ():
            found = scorers(spec, config_of({key: value}))
            different = [name for name, builder in found.items() if builder != expected.get(name)]
            if different:
                raise PartnerError(
                    f"share_rewards: {key} changes the scorer {different[0]}: set share_rewards to false"
                )


def check_reservations(configs: Iterable[tuple[str, RunConfig]], base: RunConfig) -> None:
    """Checks that every trial reserves what the sweep's base does: Tune places all of them alike.

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


def scorers(spec: SweepSpec, config: RunConfig) -> dict[str, ScorerBuilder]:
    """Component → how its scorer is built, with both directions of the mutual information where λ is swept."""
    components = all_components(pooled_config(spec, config), Path("shared"))
    return {name: component.builder for name, component in components.items()}


def pooled_config(spec: SweepSpec, config: RunConfig) -> RunConfig:
    """The configuration that a shared pool is made of: every number that a trial may ask for is computed."""
    if f"rewards.{MUTUAL_INFORMATION}.lambda_mi" not in spec.space:
        return config
    both = config.rewards.mutual_information.model_copy(update={"lambda_mi": 0.5})
    return config.model_copy(update={"rewards": config.rewards.model_copy(update={MUTUAL_INFORMATION: both})})


def on_gpus(spec: SweepSpec, config: RunConfig, machine_gpus: int) -> RunConfig:
    """Puts a trial's own process and its reward actors on fractions of a GPU when nothing is placed on one.

    A trial is left as it is on a cluster, with `device=cpu`, or when it names GPUs itself.
    """
    sections = {name: s for name, s in config.rewards.components().items() if isinstance(s, RewardSection)}
    named = [config.algorithm.num_gpus_per_env_runner, config.algorithm.num_gpus_per_learner]
    named += [section.num_gpus for section in sections.values()]
    if machine_gpus == 0 or config.device == "cpu" or config.resources.address is not None or any(named):
        return config
    rewards = {name: s.model_copy(update={"num_gpus": spec.reward_gpus}) for name, s in sections.items()}
    # Without remote learners this reserves nothing by itself: it puts the trial's own learner on a GPU.
    local = {"num_gpus_per_learner": spec.trial_gpus} if config.algorithm.num_learners == 0 else {}
    return config.model_copy(
        update={
            "rewards": config.rewards.model_copy(update=rewards),
            "algorithm": config.algorithm.model_copy(update=local),
        }
    )


def trials_in_memory(spec: SweepSpec, plan: Plan, needs: Iterable[ProcessMemory], free: int) -> int:
    """Trials that a machine has the memory for, by the same estimate as in `partner-rl doctor`; at least one.

    `free` is in bytes.
    """
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


def first_inside(keys: Iterable[str], sections: Sequence[str]) -> str | None:
    """The first key that is one of those named or inside one of them."""
    return next((key for key in keys if any(key == s or key.startswith(f"{s}.") for s in sections)), None)


PAIR_KEYS: Final = ("data", "evaluation.max_pairs")
"""Keys, or sections, that decide which pairs trials are evaluated on."""

OTHER_DATA_KEYS: Final = ("data.max_train_pairs",)
"""Keys of those sections that do not."""

LEARNED: Final = (EMPATHY, COHERENCE)
"""Rewards whose models are trained unless the configuration names a checkpoint."""

METRIC_OF: Final = {
    EMPATHY: "change_in_empathy",
    FLUENCY: "perplexity",
    COHERENCE: "coherence",
    MUTUAL_INFORMATION: "mutual_information",
}
"""Reward → the metric that its scorer measures."""


def incomparable_objectives(spec: SweepSpec, config_of: ConfigOf) -> dict[str, list[str]]:
    """Objectives that are not measured alike in all trials, so that trials do not compare in them.

    Returns:
        Swept key → objectives that are measured with what it changes.
    """
    base = config_of({})
    found = {key: _metrics_measured_with(spec, config_of, base, key) & set(spec.goals) for key in spec.space}
    return {key: sorted(metrics) for key, metrics in found.items() if metrics}


def _metrics_measured_with(spec: SweepSpec, config_of: ConfigOf, base: RunConfig, key: str) -> set[str]:
    """Metrics that are measured with what a key changes."""
    if first_inside([key], PAIR_KEYS) and key not in OTHER_DATA_KEYS:
        return set(METRICS)
    learned = {name for name in LEARNED if getattr(base.rewards, name).checkpoint is None}
    found = {METRIC_OF[name] for name in learned} if first_inside([key], REWARD_TRAINING_KEYS) else set()
    if first_inside([key], ("models.encoder",)):
        found.add("specificity")
    before = all_components(base, Path("run"))
    for value in spec.space[key].examples if first_inside([key], SCORER_KEYS) else ():
        after = all_components(config_of({key: value}), Path("run"))
        found |= {metric for name, metric in METRIC_OF.items() if before[name].builder != after[name].builder}
        if before[MUTUAL_INFORMATION].definition != after[MUTUAL_INFORMATION].definition:
            found.add(METRIC_OF[MUTUAL_INFORMATION])
    return found
