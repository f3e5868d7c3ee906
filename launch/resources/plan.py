"""Who gets which CPUs, GPUs and threads: the resource plan of a run.

Two torch processes that each start a thread per core slow each other down several times over, and an actor that asks
for a GPU which is not there waits in silence. So the plan is made, checked and shown before Ray starts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.table import Table

from partner_rl.cluster.placement import ActorGroup, Node, take_gpus
from partner_rl.config.reward_schema import RewardSection
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError

THIS_MACHINE: Final = "this machine"
"""Name of the only node of a Ray that a run starts for itself."""
DRIVER: Final = "driver"
ENV_RUNNERS: Final = "env runners"
LEARNERS: Final = "learners"
_WORKER_CPUS: Final = 1.0
_CPU_QUOTA_FILE: Final = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes of a run.

    Attributes:
        groups: The driver first, then env runners, learners (where there are remote ones) and the reward pools.
    """

    groups: tuple[ActorGroup, ...]
    machine_cores: int
    machine_gpus: int

    @property
    def total_cpus(self) -> float:
        """Logical CPUs that all actors reserve together."""
        return sum(group.count * group.cpus for group in self.groups)

    @property
    def total_gpus(self) -> float:
        """GPUs that all actors reserve together."""
        return sum(group.count * group.gpus for group in self.groups)

    @property
    def local_ray_cpus(self) -> int:
        """The `num_cpus` to start a local Ray with: at least the machine's cores, and room for every actor."""
        return max(self.machine_cores, math.ceil(self.total_cpus))

    @property
    def local_node(self) -> Node:
        """The node of the Ray that a run starts for itself; it is of every kind that actors ask for."""
        kinds = {name: 1.0 for group in self.groups for name, _ in group.custom}
        resources = {"CPU": float(self.local_ray_cpus), "GPU": float(self.machine_gpus), **kinds}
        return Node("", THIS_MACHINE, resources, resources)

    def group(self, name: str) -> ActorGroup | None:
        """The group of a name, or None when the run has no such actors."""
        return next((group for group in self.groups if group.name == name), None)

    def reward_group(self, component: str) -> ActorGroup | None:
        """The actor pool of a reward component, such as `empathy`, or None when the run has none."""
        return self.group(reward_group_name(component))

    def for_scoring(self) -> Plan:
        """The driver and the reward pools alone: what an evaluation starts."""
        groups = tuple(group for group in self.groups if group.name not in (ENV_RUNNERS, LEARNERS))
        return Plan(groups, self.machine_cores, self.machine_gpus)

    def table(self) -> Table:
        """The plan as a table to print."""
        table = Table(title=f"Resources ({self.machine_cores} cores, {self.machine_gpus} GPUs on this machine)")
        table.add_column("actors")
        for column in ("count", "CPUs each", "GPUs each", "threads each"):
            table.add_column(column, justify="right")
        for group in self.groups:
            table.add_row(group.name, str(group.count), f"{group.cpus:g}", f"{group.gpus:g}", str(group.threads))
        table.add_section()
        processes = sum(group.count for group in self.groups)
        table.add_row("together", str(processes), f"{self.total_cpus:g}", f"{self.total_gpus:g}", "")
        return table


def reward_group_name(component: str) -> str:
    """The name in a plan of a reward component's actor pool."""
    return f"reward {component}"


def threads_each(config: RunConfig, machine_cores: int, actors: int) -> int:
    """Torch threads of each of several actors that compute at the same time: the cores shared out evenly."""
    return config.resources.actor_threads or max(1, machine_cores // max(1, actors))


def resource_plan(config: RunConfig, machine_cores: int, machine_gpus: int, *, scores_all: bool = True) -> Plan:
    """Shares a machine out among the processes of a run.

    The driver gets all cores, because it computes while the reward actors wait and waits while they compute. Reward
    actors share the cores among themselves, as do env runners and learners: each kind works in its own phase of an
    iteration.

    Args:
        config: The run.
        machine_cores: Cores of the machine.
        machine_gpus: GPUs of the machine; other machines of a cluster are not looked at.
        scores_all: Whether components that weigh nothing are scored too: an evaluation shows them, and a training
            that only trains needs no actors for them.

    Raises:
        PartnerError: A local run asks for more GPUs than the machine has, or an actor for one and a half.
    """
    groups = [
        ActorGroup(DRIVER, 1, 0.0, 0.0, config.resources.driver_threads or machine_cores),
        *_workers(config, machine_cores),
        *_pools(config, machine_cores, scores_all),
    ]
    _check_shares(groups)
    if config.resources.address is None:
        _check_gpus(groups, machine_gpus)
    return Plan(groups=tuple(groups), machine_cores=machine_cores, machine_gpus=machine_gpus)


def _workers(config: RunConfig, machine_cores: int) -> Iterator[ActorGroup]:
    """Env runners and learners, where they are processes of their own."""
    algorithm, placement = config.algorithm, config.resources.placement
    if algorithm.num_env_runners:
        count, gpus = algorithm.num_env_runners, algorithm.num_gpus_per_env_runner
        threads, marks = threads_each(config, machine_cores, count), tuple(placement.share("env_runners").items())
        yield ActorGroup(ENV_RUNNERS, count, _WORKER_CPUS, gpus, threads, marks)
    if algorithm.num_learners:
        count, gpus = algorithm.num_learners, algorithm.num_gpus_per_learner
        threads, marks = threads_each(config, machine_cores, count), tuple(placement.share("learners").items())
        # RLlib reserves no CPU for a learner that has a GPU.
        yield ActorGroup(LEARNERS, count, 0.0 if gpus else _WORKER_CPUS, gpus, threads, marks)


def _pools(config: RunConfig, machine_cores: int, scores_all: bool) -> list[ActorGroup]:
    """The pool of each reward component that is scored."""
    sections = {name: one for name, one in _scored_sections(config).items() if scores_all or one.is_active}
    replicas = {name: section.replicas or config.rewards.replicas for name, section in sections.items()}
    return [
        ActorGroup(
            name=reward_group_name(name),
            count=replicas[name],
            cpus=config.rewards.num_cpus,
            gpus=section.num_gpus,
            threads=threads_each(config, machine_cores, sum(replicas.values())),
            custom=tuple(config.resources.placement.share("rewards").items()),
        )
        for name, section in sections.items()
    ]


def share_local_gpu(config: RunConfig, machine_gpus: int) -> RunConfig:
    """Puts a local run on the machine's GPU when its configuration places nothing on GPUs.

    The driver's learner and sampler compute there beside the reward actors, which get equal fractions.

    As `place_on_gpus` says of a run that is on a cluster, or names GPUs itself.
    """
    return place_on_gpus(
        config, _scored_sections(config), machine_gpus, gpu_share(reward_actors(config), machine_gpus), 1.0
    )


def reward_actors(config: RunConfig) -> int:
    """How many reward actors an evaluation asks."""
    return sum(section.replicas or config.rewards.replicas for section in _scored_sections(config).values())


def gpu_share(actors: int, machine_gpus: int) -> float:
    """The fraction of one GPU for each of equal actors, such that Ray can put every one on some GPU."""
    return math.floor(100 / math.ceil(actors / machine_gpus)) / 100 if machine_gpus else 0.0


def place_on_gpus(
    config: RunConfig,
    sections: Mapping[str, RewardSection],
    machine_gpus: int,
    reward_gpus: float,
    learner_gpus: float,
) -> RunConfig:
    """Puts a local run on the machine's GPUs, unless it names some itself.

    Args:
        config: The run; left as it is on a cluster, with `device=cpu`, or when it names GPUs.
        sections: The reward components that are placed.
        machine_gpus: GPUs of the machine.
        reward_gpus: GPUs of each of their actors.
        learner_gpus: GPUs of a driver that learns itself.
    """
    named = [config.algorithm.num_gpus_per_env_runner, config.algorithm.num_gpus_per_learner]
    named += [section.num_gpus for section in sections.values()]
    if machine_gpus == 0 or config.device == "cpu" or config.resources.address is not None or any(named):
        return config
    rewards = {name: section.model_copy(update={"num_gpus": reward_gpus}) for name, section in sections.items()}
    # Without remote learners this reserves nothing: it tells RLlib to put the driver's learner on a GPU.
    local = {"num_gpus_per_learner": learner_gpus} if config.algorithm.num_learners == 0 else {}
    return config.model_copy(
        update={
            "rewards": config.rewards.model_copy(update=rewards),
            "algorithm": config.algorithm.model_copy(update=local),
        }
    )


def _scored_sections(config: RunConfig) -> dict[str, RewardSection]:
    """Reward component → its section of the configuration, for the components that an evaluation scores."""
    sections = config.rewards.components().items()
    return {name: section for name, section in sections if isinstance(section, RewardSection) and section.is_scored}


def _check_shares(groups: Sequence[ActorGroup]) -> None:
    """Checks that who asks for more than one GPU asks for whole ones; Ray knows no other share.

    Raises:
        PartnerError: One does not.
    """
    for group in groups:
        if group.gpus > 1 and group.gpus != int(group.gpus):
            raise PartnerError(
                f"{group.name}: {group.gpus:g} GPUs each are no share that Ray can give; take a fraction of one, or a "
                "whole number"
            )


def _check_gpus(groups: Sequence[ActorGroup], machine_gpus: int) -> None:
    """Checks that every actor finds its share of a GPU, the largest first.

    Raises:
        PartnerError: One does not.
    """
    free = [1.0] * machine_gpus
    for group in sorted(groups, key=lambda group: -group.gpus):
        for _ in range(group.count if group.gpus else 0):
            if take_gpus(free, group.gpus) is None:
                asked = ", ".join(f"{group.name} {group.count} × {group.gpus:g}" for group in groups if group.gpus)
                raise PartnerError(
                    f"the run asks for more GPUs than this machine's {machine_gpus} ({asked}): lower "
                    "algorithm.num_gpus_per_env_runner, algorithm.num_gpus_per_learner or rewards.*.num_gpus, "
                    "or join a cluster with resources.address=auto"
                )


def machine_cores() -> int:
    """Cores that this process may use: those it is bound to, within the container's quota."""
    cores = len(os.sched_getaffinity(0))
    if _CPU_QUOTA_FILE.exists():
        quota, period = _CPU_QUOTA_FILE.read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores
