"""`partner-rl sweep`: many runs over any configuration key, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from launch.console import err, out
from launch.options import RedactOption, dry_run_options, redaction, with_dry_run
from partner_rl.config.section import MAX_TRIALS
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from launch.preflight.command_plan import Write
    from launch.sweep.opening import Sweep
    from launch.sweep.report import SweepResult

_SHOWN_POINTS: Final = 24


@with_dry_run
def command(
    spec: Annotated[
        str | None, typer.Argument(help="A shipped spec's name or a YAML file.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE for all trials, such as seed=1.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the sweep.", show_default="runs/sweep-SPEC")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the sweep in this folder.", show_default=False)
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_TRIALS, help="Another number of trials than the spec's.", show_default=False),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed trials again.")] = False,
    redact: RedactOption = False,
) -> None:
    """Train many runs over any configuration key with Ray Tune, and report the Pareto front.

    Example: `partner-rl sweep reward_weights --dry-run`
    """
    from launch.sweep.opening import new_sweep, open_sweep
    from launch.sweep.report import incomparable_lines
    from launch.sweep.running import run_sweep

    if resume is not None and spec is not None and "=" in spec:
        # Where there is no spec, the first word is a key.
        overrides, spec = [spec, *(overrides or [])], None
    if (spec is None) == (resume is None):
        raise PartnerError("give a spec to start a sweep, or --resume FOLDER to go on with one")
    if resume is not None:
        if output is not None:
            raise PartnerError("--resume goes on with the sweep in its own folder: leave --output out")
        if redact:
            raise PartnerError("--resume goes on with the sweep's own configuration: leave --redact out")
        sweep = open_sweep(resume, num_samples, tuple(overrides or ()))
    else:
        assert spec is not None
        sweep = new_sweep(spec, (*(overrides or ()), *redaction(redact)), output, num_samples)
    for line in incomparable_lines(sweep.incomparable):
        err.print(line, soft_wrap=True)
    if dry_run_options() is not None:
        _show(sweep)
    _print(run_sweep(sweep, retry_failed=retry_failed), sweep)


def _show(sweep: Sweep) -> None:
    """Says what would run, and on what, and ends the dry run."""
    from launch.preflight.command_plan import Write
    from launch.sweep.remaining import remaining_trials

    remaining, spec, folder = remaining_trials(sweep), sweep.spec, sweep.folder
    known, pending = remaining.known, remaining.pending
    out.print(f"{len(known)} trials were started before" if known else f"a new sweep in {folder.path}", soft_wrap=True)
    out.print(f"{remaining.count} trials to run: search {spec.search}, scheduler {spec.scheduler}", soft_wrap=True)
    for point in pending[:_SHOWN_POINTS]:
        values = ", ".join(f"{key}={value}" for key, value in point.values.items())
        out.print(f"  {point.name}: {values}", soft_wrap=True)
    if len(pending) > _SHOWN_POINTS:
        out.print(f"  and {len(pending) - _SHOWN_POINTS} more")
    if remaining.proposals:
        out.print(f"  {remaining.proposals} that Optuna proposes as results come in")
    report = "the report, also as report.html, report.json, trials.parquet, figures/"
    show_trials(
        sweep,
        remaining.count,
        [Write(folder.path / "report.md", report), Write(folder.chosen, "the chosen configuration")],
    )


def show_trials(sweep: Sweep, count: int, also: Sequence[Write]) -> None:
    """Says what trials share, reserve and write, and ends the dry run.

    Args:
        sweep: The sweep.
        count: How many of its trials are left.
        also: What is written besides the trials.
    """
    from launch.preflight.check_request import inputs_of_all, model_facts, run_request
    from launch.preflight.command_plan import CommandPlan, Write, show_dry_run
    from launch.preflight.disk import disk_of
    from launch.resources.memory import GIB
    from launch.sweep.sharing import shared_keys

    folder, size, config = sweep.folder, sweep.sized(max(1, count)), sweep.placed
    once = sorted(shared_keys(sweep.config, folder, sweep.share))
    pools = "one pool for all trials" if sweep.spec.share_rewards else "each trial has its own"
    where = "this machine has room for" if config.resources.address is None else "counted for"
    lines = [
        f"trained once for all trials: {', '.join(once) or 'nothing'}",
        f"reward actors: {pools}",
        f"a trial reserves {size.trial_cpus:g} CPUs and {size.trial_gpus:g} GPUs; {where} {size.concurrent}",
    ]
    room, needed = disk_of(folder.path).free, (sweep.trial_bytes() or 0) * count
    if needed > room:
        lines.append(f"the trials leave about {needed / GIB:.1f} GiB on the disk, and {room / GIB:.1f} GiB are free")
    for line in lines:
        out.print(line, soft_wrap=True)
    writes = [
        *([Write(folder.shared.path, "what is trained once")] if once else []),
        Write(folder.trials, "a run folder each, and records/ beside it", needed or None),
        *also,
    ]
    facts = [fact for one, asked in inputs_of_all(sweep.tried) for fact in model_facts(one, asked)]
    problems = tuple({(fact.key, fact.name): fact for fact in facts if fact.problem}.values())
    request = replace(run_request(config, output=folder.path), files=problems)
    show_dry_run(CommandPlan(config, request, writes, lambda: size.session))


def _print(found: SweepResult, sweep: Sweep) -> None:
    """The chosen trial and where the report is."""
    folder, records = sweep.folder, sweep.folder.records()
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        err.print(f"{record.name} failed: {record.reason}", soft_wrap=True)
    if found.chosen is None or found.chosen.last is None:
        raise PartnerError(f"no trial has finished, {len(failed)} failed: see {folder.path / 'report.md'}")
    metrics = found.chosen.last.metrics
    values = ", ".join(f"{key}={value}" for key, value in found.chosen.values.items())
    out.print(f"{len(found.finished)} trials finished, {len(found.front)} on the Pareto front", soft_wrap=True)
    out.print(f"chosen: {found.chosen.name} ({values})", soft_wrap=True)
    out.print(
        "  " + ", ".join(f"{m.replace('_', ' ')} {metrics[m]:.4g}" for m in sweep.spec.objectives), soft_wrap=True
    )
    out.print(f"report: {folder.path / 'report.md'}; configuration: {folder.chosen}", soft_wrap=True)
    if failed:
        again = folder.resume_command
        raise PartnerError(
            f"{len(failed)} of {len(records)} trials failed, the others are compared: `{again} --retry-failed` tries "
            "all of them again, without the option those that failed by a lost process, a full disk or missing input"
        )
