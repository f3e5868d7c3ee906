"""`partner-rl sweep`: many runs over any configuration key, and which one to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from launch.console import err, out
from launch.options import RedactOption, dry_run_options, redaction, with_dry_run
from partner_rl.config.section import MAX_TRIALS
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from launch.sweep.report import SweepResult
    from launch.sweep.session import Sweep

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
    from launch.sweep.report import incomparable_lines
    from launch.sweep.session import new_sweep, open_sweep, run_sweep

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
    from launch.preflight.check_request import inputs_of_all, model_facts, run_request
    from launch.preflight.command_plan import CommandPlan, Write, show_dry_run
    from launch.preflight.disk import disk_of
    from launch.resources.memory import GIB
    from launch.sweep.session import left_to_do, shared_keys
    from launch.sweep.sizing import shares

    work, spec, share = left_to_do(sweep), sweep.spec, shares(sweep.spec)
    lines = [f"{len(work.known)} trials were started before" if work.known else f"a new sweep in {sweep.folder.path}"]
    lines.append(f"{work.trials} trials to run: search {spec.search}, scheduler {spec.scheduler}")
    for point in work.pending[:_SHOWN_POINTS]:
        lines.append(f"  {point.name}: " + ", ".join(f"{key}={value}" for key, value in point.values.items()))
    if len(work.pending) > _SHOWN_POINTS:
        lines.append(f"  and {len(work.pending) - _SHOWN_POINTS} more")
    if work.proposals:
        lines.append(f"  {work.proposals} that Optuna proposes as results come in")
    once = sorted(shared_keys(sweep.config, sweep.folder, share))
    lines.append(f"trained once for all trials: {', '.join(once) or 'nothing'}")
    lines.append(f"reward actors: {'one pool for all trials' if share.pools else 'each trial has its own'}")
    size = sweep.sized(max(1, work.trials))
    where = "this machine has room for" if sweep.config.resources.address is None else "counted for"
    lines.append(f"a trial reserves {size.trial_cpus:g} CPUs and {size.trial_gpus:g} GPUs; {where} {size.concurrent}")
    folder, each = sweep.folder, sweep.trial_bytes()
    room, needed = disk_of(folder.path).free, (each or 0) * work.trials
    if needed > room:
        lines.append(f"the trials leave about {needed / GIB:.1f} GiB on the disk, and {room / GIB:.1f} GiB are free")
    for line in lines:
        out.print(line, soft_wrap=True)
    writes = [
        *([Write(folder.shared.path, "what is trained once")] if once else []),
        Write(folder.trials, "a run folder each, and records/ beside it", needed or None),
        Write(folder.path / "report.md", "the report, also as report.html, report.json, trials.parquet, figures/"),
        Write(folder.chosen, "the chosen configuration"),
    ]
    facts = [fact for config, request in inputs_of_all(sweep.tried) for fact in model_facts(config, request)]
    problems = tuple({(fact.key, fact.name): fact for fact in facts if fact.problem}.values())
    request = replace(run_request(sweep.placed, output=folder.path), files=problems)
    show_dry_run(CommandPlan(sweep.placed, request, writes, lambda: size.session))


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
