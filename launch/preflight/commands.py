"""`--dry-run` of each kind of command that has the configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launch.plan import Plan
from launch.preflight.dry_run import Write, driver_plan, run_writes, show_run, writes_of
from launch.preflight.gather import EstimateMemory
from launch.preflight.inputs import DATA, EXPORT, Wish, run_wish
from launch.preflight.memory import POLICY, ProcessMemory, Shapes, run_memory, scoring_memory
from launch.ray_session import place_on_this_machine
from launch.run_folder import RunFolder
from partner_rl.config.schema import RunConfig


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

    show_run(config, run_wish(config, evaluates=evaluates), writes)


def show_resumed_run(config: RunConfig, run: RunFolder) -> None:
    """A training run that goes on in its folder.

    Args:
        config: The run's own configuration.
        run: Its folder.
    """
    show_run(config, run_wish(config, resumed=run), run_writes(config, run.path, is_new=False))


def show_training(config: RunConfig, wish: Wish, outputs: Mapping[Path, str], memory: EstimateMemory) -> None:
    """A command that trains one model in its own process.

    Args:
        config: The configuration.
        wish: What it reads.
        outputs: What it writes, by file or folder.
        memory: Estimates what it needs.
    """
    config = config.model_copy(update={"warmstart": config.warmstart.model_copy(update={"checkpoint": None})})
    show_run(config, _writing(wish, outputs), writes_of(outputs), plan=driver_plan(config), memory=memory)


def show_scoring(
    config: RunConfig, wish: Wish, outputs: Mapping[Path, str], *, source: str | None, plan: Plan | None
) -> None:
    """A command that scores texts with the reward models.

    Args:
        config: The configuration.
        wish: What it reads, but for the texts.
        outputs: What it writes, by file or folder; may be empty.
        source: The texts; None when they do not come from a file.
        plan: Its processes; None for those that score in its own process.
    """
    if source is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
        wish = replace(wish, keys=wish.keys | {DATA})
    wish = _writing(wish, outputs)
    show_run(config, wish, writes_of(outputs), plan=plan or driver_plan(config), memory=run_memory)


def show_evaluation(config: RunConfig, wish: Wish, outputs: Mapping[Path, str]) -> None:
    """An evaluation of finished runs.

    Args:
        config: The first run's configuration, whose pairs and reward models are used for all.
        wish: What it reads.
        outputs: What it writes, by file or folder.
    """

    def memory(placed: RunConfig, plan: Plan, shapes: Shapes) -> Sequence[ProcessMemory]:
        return scoring_memory(placed, plan, {**shapes, POLICY: shapes.get(EXPORT)})

    _, plan = place_on_this_machine(config)
    show_run(config, _writing(wish, outputs), writes_of(outputs), plan=plan.for_scoring(), memory=memory)


def _writing(wish: Wish, outputs: Mapping[Path, str]) -> Wish:
    """With the folder of the first output, on whose disk there must be room."""
    return replace(wish, output=next(iter(outputs)).parent if outputs else None)
