"""`--dry-run`: what a command would compute with, start and write, without doing any of it.

A command takes `launch.options.DryRunOption`. Once its options are checked, it calls `show_stage`, or, when it
has the configuration of a run, a function of `launch.preflight.dry_run`:

    if dry_run:
        from launch.preflight.dry_run import show_stage

        return show_stage({output: "curated pairs"}, source=source, resources=resources)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from launch.console import out
from launch.options import given_options
from launch.preflight.checks import Row, check_all, has_problem
from launch.preflight.facts import Facts, ModelFact
from launch.preflight.gather import EstimateMemory, gather
from launch.preflight.inputs import DATA, EXPORT, CheckRequest, run_request
from launch.preflight.show import print_processes, print_rows
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
from launch.resources.plan import DRIVER, ActorGroup, Plan, machine_cores
from launch.resources.session import place_on_this_machine
from launch.run_folder.folder import RunFolder
from partner_rl.config.load import config_yaml
from partner_rl.config.schema import ResourcesConfig, RunConfig
from partner_rl.config.yaml_text import dump_yaml
from partner_rl.pipelines.resources import Resources
from partner_rl.types import PartnerError

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Write:
    """Something that a command would write.

    Attributes:
        path: File or folder.
        what: What it is, in a few words.
        size: Bytes, where they are known.
        must_be_new: Whether the command refuses to start when it is there.
    """

    path: Path
    what: str
    size: int | None = None
    must_be_new: bool = False


def show_run(
    config: RunConfig,
    request: CheckRequest,
    writes: Sequence[Write] | Callable[[Shapes], Sequence[Write]],
    *,
    plan: Plan | None = None,
    memory: EstimateMemory = run_memory,
) -> None:
    """Shows a command that has the configuration of a run.

    Args:
        config: The run.
        request: What the command is about.
        writes: What it would write; or a function of the models' sizes that tells.
        plan: Its processes; None for those of the run.
        memory: Estimates what they need.

    Raises:
        PartnerError: Something would make the command fail.
    """
    placed, facts = gather(config, request, plan, memory)
    typer.echo(config_yaml(placed), nl=False)
    shapes = {model.key: model.shape for model in facts.models}
    files = writes(shapes) if callable(writes) else writes
    _show(placed, facts, files)


def show_stage(
    outputs: Mapping[Path, str],
    *,
    source: str | None = None,
    resources: Resources | None = None,
    address: str | None = None,
    files: Sequence[ModelFact] = (),
) -> None:
    """Shows a command that has options alone; they are printed as they stand after defaults.

    Args:
        outputs: What it would write, by file or folder.
        source: The corpus that it reads.
        resources: Its workers; None for a command that works in this process.
        address: Ray cluster of the workers; None for this machine.
        files: Models that its options name.

    Raises:
        PartnerError: Something would make the command fail.
    """
    config = RunConfig(resources=ResourcesConfig(address=address))
    if source is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
    request = CheckRequest(
        keys=frozenset() if source is None else frozenset({DATA}),
        files=tuple(files),
        needs_labels=False,
        tracks=False,
        is_run=False,
        output=next((path.parent for path in outputs), None),
    )
    config, facts = gather(config, request, _workers(resources))
    typer.echo(dump_yaml(given_options()), nl=False)
    _show(config, facts, writes_of(outputs))


def writes_of(outputs: Mapping[Path, str]) -> list[Write]:
    """File or folder → what it is, as records."""
    return [Write(path, what) for path, what in outputs.items()]


def driver_plan(config: RunConfig) -> Plan:
    """The plan of a command that works in its own process."""
    cores = machine_cores()
    return Plan((ActorGroup(DRIVER, 1, 0.0, 0.0, config.resources.driver_threads or cores),), cores, _gpus())


def _workers(resources: Resources | None) -> Plan:
    cores = machine_cores()
    if resources is None:
        return Plan((ActorGroup(DRIVER, 1, 0.0, 0.0, cores),), cores, _gpus())
    each = ActorGroup(
        "workers", resources.workers, resources.num_cpus, resources.num_gpus, max(1, int(resources.num_cpus))
    )
    return Plan((ActorGroup(DRIVER, 1, 0.0, 0.0, 1), each), cores, _gpus())


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _show(config: RunConfig, facts: Facts, writes: Sequence[Write]) -> None:
    out.print()
    print_processes(out, facts)
    out.print("Would write:")
    for write in writes:
        size = "" if write.size is None else f", about {max(1, round(write.size / MIB))} MiB"
        out.print(f"  {write.path}  ({write.what}{size})", soft_wrap=True)
    rows = [*(row for row in check_all(config, facts) if row.status != "ok"), *_taken(writes)]
    print_rows(out, rows)
    if has_problem(rows):
        raise PartnerError("dry run: the command would fail (see above); nothing was started or written")
    out.print("Dry run: nothing was started or written.")


def _taken(writes: Sequence[Write]) -> list[Row]:
    hint = "choose another name"
    return [
        Row("files", "problem", f"{write.path} exists", hint)
        for write in writes
        if write.must_be_new and write.path.exists()
    ]


def run_writes(config: RunConfig, folder: Path, *, is_new: bool) -> Callable[[Shapes], list[Write]]:
    """What a training run writes into its folder, given the models' sizes.

    Args:
        config: The run.
        folder: The run folder.
        is_new: Whether the run is yet to be started.
    """

    def writes(shapes: Shapes) -> list[Write]:
        encoder = shapes.get(ENCODER)
        policy = shapes.get("warmstart.checkpoint") or shapes.get(POLICY)
        window = config.env.window
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
            Write(folder / "metrics.jsonl", f"figures of {config.algorithm.iterations} iterations, and curves/"),
            Write(folder / "export", "trained policy", export),
        ]

    return writes


def show_new_run(
    config: RunConfig, default_name: str, also: Sequence[tuple[str, str]] = (), *, evaluates: bool = False
) -> None:
    """A training run that is yet to be started.

    Args:
        config: The run.
        default_name: Names the folder, with the time, when the configuration does not.
        also: What the command writes besides, as (file name in the run folder, what it is).
        evaluates: Whether the command evaluates what it has trained.
    """
    folder = Path(config.runs_dir) / (config.name or f"{default_name}-DATE-TIME")
    training = run_writes(config, folder, is_new=True)

    def writes(shapes: Shapes) -> list[Write]:
        return [*training(shapes), *(Write(folder / name, what) for name, what in also)]

    show_run(config, run_request(config, evaluates=evaluates), writes)


def show_resumed_run(config: RunConfig, run: RunFolder) -> None:
    """A training run that goes on in its folder.

    Args:
        config: The run's own configuration.
        run: Its folder.
    """
    show_run(config, run_request(config, resumed=run), run_writes(config, run.path, is_new=False))


def show_training(
    config: RunConfig, request: CheckRequest, outputs: Mapping[Path, str], memory: EstimateMemory
) -> None:
    """A command that trains one model in its own process.

    Args:
        config: The configuration.
        request: What it reads.
        outputs: What it writes, by file or folder.
        memory: Estimates what it needs.
    """
    config = config.model_copy(update={"warmstart": config.warmstart.model_copy(update={"checkpoint": None})})
    show_run(config, _writing(request, outputs), writes_of(outputs), plan=driver_plan(config), memory=memory)


def show_scoring(
    config: RunConfig, request: CheckRequest, outputs: Mapping[Path, str], *, source: str | None, plan: Plan | None
) -> None:
    """A command that scores texts with the reward models.

    Args:
        config: The configuration.
        request: What it reads, but for the texts.
        outputs: What it writes, by file or folder; may be empty.
        source: The texts; None when they do not come from a file.
        plan: Its processes; None for those that score in its own process.
    """
    if source is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
        request = replace(request, keys=request.keys | {DATA})
    request = _writing(request, outputs)
    show_run(config, request, writes_of(outputs), plan=plan or driver_plan(config), memory=run_memory)


def show_evaluation(config: RunConfig, request: CheckRequest, outputs: Mapping[Path, str]) -> None:
    """An evaluation of finished runs.

    Args:
        config: The first run's configuration, whose pairs and reward models are used for all.
        request: What it reads.
        outputs: What it writes, by file or folder.
    """

    def memory(placed: RunConfig, plan: Plan, shapes: Shapes) -> Sequence[ProcessMemory]:
        return scoring_memory(placed, plan, {**shapes, POLICY: shapes.get(EXPORT)})

    _, plan = place_on_this_machine(config)
    show_run(config, _writing(request, outputs), writes_of(outputs), plan=plan.for_scoring(), memory=memory)


def _writing(request: CheckRequest, outputs: Mapping[Path, str]) -> CheckRequest:
    """With the folder of the first output, on whose disk there must be room."""
    return replace(request, output=next(iter(outputs)).parent if outputs else None)
