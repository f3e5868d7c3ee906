"""What a command would read, compute with and write: shown by `--dry-run`, and checked before anything starts.

A command is decorated by `launch.options.with_dry_run`. Once its options are checked, it calls `begin`:

    begin(stage_plan({output: "curated pairs"}, source=source, resources=resources))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from launch.console import out
from launch.options import dry_run_options
from launch.preflight.check_request import DATA, EXPORT, CheckRequest, run_request
from launch.preflight.check_result import CheckResult, has_problem
from launch.preflight.show import print_processes, print_results
from launch.resources.memory import (
    ENCODER,
    POLICY,
    ProcessMemory,
    Shapes,
    checkpoint_bytes,
    export_bytes,
    run_memory,
    scoring_memory,
)
from launch.resources.plan import DRIVER, Plan, machine_cores
from launch.run_folder.folder import RunFolder
from partner_rl.cluster.placement import ActorGroup
from partner_rl.config.load import config_yaml
from partner_rl.config.schema import ResourcesConfig, RunConfig
from partner_rl.config.yaml_text import dump_yaml
from partner_rl.pipelines.resources import Resources
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from launch.preflight.facts import EstimateMemory
    from launch.preflight.inputs import ModelFact

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Write:
    """A file or folder that a command would write: what it is, and its bytes where they are known.

    With `must_be_new` the command refuses to start when it is there.
    """

    path: Path
    what: str
    size: int | None = None
    must_be_new: bool = False


@dataclass(frozen=True, slots=True)
class CommandPlan:
    """What a command would do.

    Attributes:
        config: The configuration that it is checked against.
        writes: What it would write; or a function of the models' sizes that tells.
        processes: Makes the plan of its processes; None for those of a run.
        memory: Estimates what they need.
        source: Texts that the command itself reads and refuses; shown as `data.source`.
        has_options_alone: Whether it takes no configuration: its options are shown instead.
    """

    config: RunConfig
    request: CheckRequest
    writes: Mapping[Path, str] | Sequence[Write] | Callable[[Shapes], Sequence[Write]]
    processes: Callable[[], Plan] | None = None
    memory: EstimateMemory = run_memory
    source: str | None = None
    has_options_alone: bool = False


def begin(plan: CommandPlan) -> None:
    """Refuses a command that its inputs would fail, or a run without room. With `--dry-run`, shows the plan and exits.

    Raises:
        PartnerError: Something would make the command fail.
        typer.Exit: It is a dry run.
    """
    show_dry_run(plan)
    if plan.has_options_alone and not plan.request.files:
        return
    # What loads models takes seconds and memory, which a command without any is spared.
    from launch.preflight.requirements import check_capacity, require_files, require_inputs

    if plan.has_options_alone:
        require_files(plan.request.files)
        return
    if plan.request.is_run:
        check_capacity(plan.config, scores_all=plan.request.scores_all)
    require_inputs(plan.config, plan.request)


def show_dry_run(plan: CommandPlan) -> None:
    """With `--dry-run`, shows the plan and ends the command; else does nothing.

    Raises:
        PartnerError: Something would make the command fail.
        typer.Exit: It is a dry run.
    """
    options = dry_run_options()
    if options is not None:
        _show(plan, options)
        raise typer.Exit


def _show(plan: CommandPlan, options: Mapping[str, Any]) -> None:
    from launch.preflight.checks import check_all
    from launch.preflight.facts import gather

    config, request = plan.config, plan.request
    if plan.source is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": plan.source})})
        request = replace(request, keys=request.keys | {DATA})
    facts = gather(config, request, None if plan.processes is None else plan.processes(), plan.memory)
    typer.echo(dump_yaml(dict(options)) if plan.has_options_alone else config_yaml(facts.config), nl=False)
    out.print()
    print_processes(out, facts)
    writes = _writes(plan, {model.key: model.shape for model in facts.models})
    out.print("Would write:")
    for write in writes:
        size = "" if write.size is None else f", about {max(1, round(write.size / MIB))} MiB"
        out.print(f"  {write.path}  ({write.what}{size})", soft_wrap=True)
    taken = [write.path for write in writes if write.must_be_new and write.path.exists()]
    results = [result for result in check_all(facts) if result.status != "ok"]
    results += [CheckResult("files", "problem", f"{path} exists", "choose another name") for path in taken]
    print_results(out, results)
    if has_problem(results):
        raise PartnerError("dry run: the command would fail (see above); nothing was started or written")
    out.print("Dry run: nothing was started or written.")


def _writes(plan: CommandPlan, shapes: Shapes) -> Sequence[Write]:
    if isinstance(plan.writes, Mapping):
        return [Write(path, what) for path, what in plan.writes.items()]
    return plan.writes(shapes) if callable(plan.writes) else plan.writes


def stage_plan(
    outputs: Mapping[Path, str],
    *,
    source: str | None = None,
    resources: Resources | None = None,
    address: str | None = None,
    files: Sequence[ModelFact] = (),
) -> CommandPlan:
    """A command that has options alone.

    Without workers it works in this process; without an address they are on this machine.
    """
    config = RunConfig(resources=ResourcesConfig(address=address))
    request = CheckRequest(files=tuple(files), needs_labels=False, tracks=False, is_run=False)
    processes = partial(_driver_plan, config) if resources is None else partial(_workers_plan, resources)
    request = _with_output(request, outputs)
    return CommandPlan(config, request, outputs, processes, source=source, has_options_alone=True)


def training_plan(
    config: RunConfig, request: CheckRequest, outputs: Mapping[Path, str], memory: EstimateMemory
) -> CommandPlan:
    """A command that trains one model in its own process, whatever warm start the configuration names."""
    config = config.model_copy(update={"warmstart": config.warmstart.model_copy(update={"checkpoint": None})})
    return CommandPlan(config, _with_output(request, outputs), outputs, partial(_driver_plan, config), memory)


def scoring_plan(
    config: RunConfig,
    request: CheckRequest,
    outputs: Mapping[Path, str],
    source: str,
    processes: Callable[[], Plan] | None = None,
) -> CommandPlan:
    """A command that scores texts with the reward models.

    `processes` makes the plan of its processes; None for those that score in its own process.
    """
    processes = processes or partial(_driver_plan, config)
    return CommandPlan(config, _with_output(request, outputs), outputs, processes, source=source)


def evaluation_plan(config: RunConfig, request: CheckRequest, outputs: Mapping[Path, str]) -> CommandPlan:
    """An evaluation of finished runs.

    The configuration is the first run's, whose pairs and reward models are used for all.
    """

    def processes() -> Plan:
        from launch.resources.session import place_on_this_machine

        return place_on_this_machine(config)[1].for_scoring()

    def memory(placed: RunConfig, plan: Plan, shapes: Shapes) -> Sequence[ProcessMemory]:
        return scoring_memory(placed, plan, {**shapes, POLICY: shapes.get(EXPORT)})

    return CommandPlan(config, _with_output(request, outputs), outputs, processes, memory)


def new_run_plan(
    config: RunConfig, default_name: str, also: Mapping[str, str] | None = None, *, evaluates: bool = False
) -> CommandPlan:
    """A training run that is yet to be started.

    `default_name` names the folder, with the time, when the configuration does not; `also` is what the command writes
    besides, by file name in the run folder.
    """
    folder = Path(config.runs_dir) / (config.name or f"{default_name}-DATE-TIME")
    others = [Write(folder / name, what) for name, what in (also or {}).items()]
    request = run_request(config, evaluates=evaluates)
    return CommandPlan(config, request, lambda shapes: [*_run_writes(config, folder, shapes, is_new=True), *others])


def resumed_run_plan(config: RunConfig, run: RunFolder) -> CommandPlan:
    """A training run that goes on in its folder, with the run's own configuration."""
    request = run_request(config, resumed=run)
    return CommandPlan(config, request, lambda shapes: _run_writes(config, run.path, shapes, is_new=False))


def _run_writes(config: RunConfig, folder: Path, shapes: Shapes, *, is_new: bool) -> list[Write]:
    """What a training run writes into its folder."""
    encoder, window = shapes.get(ENCODER), config.env.window
    policy = shapes.get("warmstart.checkpoint") or shapes.get(POLICY)
    export = None if policy is None else export_bytes(policy, window)
    state = None if policy is None else checkpoint_bytes(policy, config.policy, window)
    found = [Write(folder, "run folder, with config.yaml and run.json", must_be_new=is_new)]
    for name, encoders in (("empathy", 2 * config.reward_training.empathy_members), ("coherence", 1)):
        if getattr(config.rewards, name).checkpoint is None:
            size = None if encoder is None else 4 * encoders * encoder.parameters
            found.append(Write(folder / "rewards" / name, f"{name} classifier", size))
    if config.warmstart.checkpoint is None:
        found.append(Write(folder / "warm_start", "warm-started policy", export))
    kept = f"the newest {config.checkpoint.keep} of every {config.checkpoint.every} iterations, each"
    return [
        *found,
        Write(folder / "checkpoints", kept, state),
        Write(folder / "metrics.jsonl", f"metrics of {config.algorithm.iterations} iterations, and curves/"),
        Write(folder / "export", "trained policy", export),
    ]


def _with_output(request: CheckRequest, outputs: Mapping[Path, str]) -> CheckRequest:
    """With the folder of the first output, on whose disk there must be space."""
    return replace(request, output=next((path.parent for path in outputs), None))


def _driver_plan(config: RunConfig) -> Plan:
    """A command that works in its own process."""
    cores = machine_cores()
    return Plan((ActorGroup(DRIVER, 1, 0.0, 0.0, config.resources.driver_threads or cores),), cores, _machine_gpus())


def _workers_plan(resources: Resources) -> Plan:
    """A driver that waits for the workers of a stage of the data pipeline."""
    cpus, gpus = resources.num_cpus, resources.num_gpus
    workers = ActorGroup("workers", resources.workers, cpus, gpus, max(1, int(cpus)))
    return Plan((ActorGroup(DRIVER, 1, 0.0, 0.0, 1), workers), machine_cores(), _machine_gpus())


def _machine_gpus() -> int:
    import torch

    return torch.cuda.device_count()
