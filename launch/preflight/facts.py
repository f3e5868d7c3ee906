"""What several checks look at: the machine, the cluster, the processes of the command, its models and their memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from launch.preflight.check_request import CheckRequest, model_facts
from launch.preflight.cluster import ClusterState, cluster_state
from launch.preflight.inputs import ModelFact, input_fact
from launch.preflight.machine import Machine, local_machine
from launch.resources.memory import ENCODER, POLICY, REWARD_LM, ProcessMemory, Shapes, run_memory
from launch.resources.plan import Plan, resource_plan, share_local_gpu
from partner_rl.cluster.placement import Placement, place
from partner_rl.config.inputs import named_inputs
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError

EstimateMemory = Callable[[RunConfig, Plan, Shapes], Sequence[ProcessMemory]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What several checks look at.

    Attributes:
        config: The configuration, with this machine's GPUs shared out.
        request: What the command is about.
        plan: The plan of its processes; None when it was refused, see `plan_problem`.
        models: Models and checkpoints that it loads.
        shapes: Their sizes, those of a warm-started policy in the place of its base model's.
        memory: What each process needs.
    """

    config: RunConfig
    request: CheckRequest
    machine: Machine
    cluster: ClusterState
    plan: Plan | None
    plan_problem: str
    models: tuple[ModelFact, ...]
    shapes: Shapes
    memory: tuple[ProcessMemory, ...]

    @property
    def placement(self) -> Placement:
        """Which node each process finds room on; nothing where there is no plan."""
        return Placement((), (), {}) if self.plan is None else place(self.plan.groups, self.cluster.nodes)


def gather(
    config: RunConfig, request: CheckRequest, plan: Plan | None = None, memory: EstimateMemory = run_memory
) -> Facts:
    """The facts of a command.

    Args:
        config: The run as it was asked for.
        request: What the command is about.
        plan: Its processes; None for those of the run.
        memory: Estimates what they need.
    """
    machine = local_machine()
    config = share_local_gpu(config, len(machine.gpus))
    plan, problem = (plan, "") if plan is not None else _plan(config, machine, scores_all=request.scores_all)
    models = model_facts(config, request)
    shapes = _shapes(config, models)
    return Facts(
        config=config,
        request=request,
        machine=machine,
        cluster=cluster_state(config, plan),
        plan=plan,
        plan_problem=problem,
        models=models,
        shapes=shapes,
        memory=() if plan is None else tuple(memory(config, plan, shapes)),
    )


def _plan(config: RunConfig, machine: Machine, *, scores_all: bool) -> tuple[Plan | None, str]:
    try:
        return resource_plan(config, machine.cores, len(machine.gpus), scores_all=scores_all), ""
    except PartnerError as error:
        return None, str(error)


def _shapes(config: RunConfig, models: Sequence[ModelFact]) -> Shapes:
    """The sizes of a command's models, and of those that the reward models were trained from.

    A warm-started policy has the sizes of the model that it was made from, and takes its place.
    """
    found = {fact.key: fact.shape for fact in models}
    others = [one for one in named_inputs(config) if one.key in (REWARD_LM, ENCODER) and one.key not in found]
    shapes = {**found, **{one.key: input_fact(one, config).shape for one in others}}
    checkpoint = shapes.get("warmstart.checkpoint")
    return shapes if checkpoint is None else {**shapes, POLICY: checkpoint}
