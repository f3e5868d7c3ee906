"""`partner-rl ablate`: what each part of the method is worth, by training without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from launch.console import err, out
from launch.options import dry_run_options, with_dry_run
from partner_rl.storage.atomic import write_json, write_text
from partner_rl.storage.outputs import GrowingFolder, check_outputs
from partner_rl.text.markdown import markdown_table
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from launch.sweep.ablations import Ablation
    from launch.sweep.opening import Sweep

REPORT: Final = "report"
"""Folder of the evaluation, beside the runs."""


@with_dry_run
def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE for all runs, such as seed=1.", show_default=False)
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")
    ] = "embedded",
    only: Annotated[
        str | None, typer.Option(help="NAME,NAME: these alone, and the full run.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the runs.", show_default="runs/ablation-PRESET")
    ] = None,
) -> None:
    """Train the full configuration and one run without each of its parts, and compare them.

    The same command goes on after an interruption: finished runs are passed over, the unfinished one is resumed. More
    algorithm.iterations, and whatever else may change, hold for the runs that there are, too.

    Example: `partner-rl ablate --preset embedded --only no_warm_start,no_coherence`
    """
    from launch.sweep.ablations import open_ablation
    from launch.sweep.running import run_remaining
    from partner_rl.config.inputs import input_paths

    folder = output or Path("runs") / f"ablation-{Path(preset).stem}"
    sweep, chosen = open_ablation(preset, overrides or [], only, folder)
    check_outputs([GrowingFolder(folder, sweep.folder.kind)], input_paths(sweep.config))
    if dry_run_options() is not None:
        _show(sweep, chosen)
    run_remaining(sweep, retry_failed=True)
    finished = _finished(sweep, chosen)
    _evaluate([folder / one.name for one in chosen if finished[one.name]], folder / REPORT)
    _write_overview(chosen, finished, folder)
    failed = [name for name, has_ended in finished.items() if not has_ended]
    compared = f"{len(chosen) - len(failed)} of {len(chosen)} runs compared: {folder / REPORT}"
    out.print(compared, markup=False, soft_wrap=True)
    if failed:
        raise PartnerError(f"these runs failed: {', '.join(failed)}; the same command tries them again")


def _finished(sweep: Sweep, chosen: Sequence[Ablation]) -> dict[str, bool]:
    """Run → whether it has finished; says why one has not."""
    records = {one.name: sweep.folder.read(one.name) for one in chosen}
    for name, record in records.items():
        if record is not None and record.status == "failed":
            err.print(f"{name} failed: {record.reason}", markup=False, soft_wrap=True)
    return {name: record is not None and record.status == "finished" for name, record in records.items()}


def _show(sweep: Sweep, chosen: Sequence[Ablation]) -> None:
    """Says of every run what it changes, and what they run on, and ends the dry run."""
    from launch.commands.sweep import show_trials
    from launch.preflight.command_plan import Write
    from launch.sweep.remaining import remaining_trials

    pending = {point.name for point in remaining_trials(sweep, retry_failed=True).pending}
    for one in chosen:
        state = "unfinished" if sweep.folder.read(one.name) else "new"
        state = state if one.name in pending else "finished"
        out.print(f"{one.name} ({state}): {one.what}", markup=False, soft_wrap=True)
        for override in one.overrides:
            out.print(f"    {override}", soft_wrap=True)
    path = sweep.folder.path
    also = [Write(path / REPORT, "the comparison"), Write(path / "ablations.md", "what each run changes, also as JSON")]
    show_trials(sweep, len(pending), also)


def _evaluate(runs: Sequence[Path], report: Path) -> None:
    """All runs on the same pairs, with the reward models that they share."""
    from launch.commands import evaluate

    if not runs:
        raise PartnerError("no run has finished, so that there is nothing to compare")
    err.print("comparing the runs")
    try:
        evaluate.command(runs=list(runs), output=report, dry_run=False)
    except PartnerError as error:
        raise PartnerError(
            f"{error} (the runs are trained, but could not be compared: the same command tries again)"
        ) from error


def _write_overview(chosen: Sequence[Ablation], finished: Mapping[str, bool], folder: Path) -> None:
    """`ablations.json` and `ablations.md`: what each run changed and whether it finished."""
    rows = [
        {"name": one.name, "what": one.what, "overrides": one.overrides, "finished": finished[one.name]}
        for one in chosen
    ]
    shown = [
        (
            one.name,
            one.what,
            ", ".join(f"`{override}`" for override in one.overrides) or "–",
            "yes" if finished[one.name] else "no",
        )
        for one in chosen
    ]
    table = markdown_table(("run", "change", "keys", "finished"), shown)
    where = f"The metrics are in [{REPORT}/report.md]({REPORT}/report.md)."
    write_json(folder / "ablations.json", rows)
    write_text(folder / "ablations.md", f"# Ablations\n\n{where}\n\n{table}\n")
