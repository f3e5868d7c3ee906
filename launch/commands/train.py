"""`partner-rl train`: reward models, warm start, RL, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.console import out
from launch.options import RedactOption, dry_run_options, redaction, with_dry_run
from launch.run_folder.folder import RunFolder
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError


@with_dry_run
def command(
    context: typer.Context,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE, such as rewards.empathy.weight=0.5.", show_default=False)
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")
    ] = "embedded",
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with this run folder, with the KEY=VALUE that may change.", show_default=False),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Only one iteration with tiny models, as a last check; keeps nothing.")
    ] = False,
    redact: RedactOption = False,
) -> None:
    """Train a policy by reinforcement learning, or resume a run.

    Example: `partner-rl train --preset smoke algorithm.iterations=5 name=first`
    """
    from launch.training.phases import load_splits
    from launch.training.resuming import check_unfetched, open_to_resume, refuse_preset
    from partner_rl.config.load import load_config

    if resume is not None:
        refuse_preset(context)
        if redact:
            raise PartnerError("--resume goes on with the run's own choice: leave --redact out")
        run, config = open_to_resume(resume, overrides or [])
        if dry_run_options() is not None:
            check_unfetched(run, config, load_splits(config))
    else:
        config = load_config(preset, [*(overrides or []), *redaction(redact)])
    from launch.preflight.command_plan import begin, new_run_plan, resumed_run_plan, show_dry_run
    from launch.preflight.requirements import check_capacity

    plan = new_run_plan(config, Path(preset).stem) if resume is None else resumed_run_plan(config, run)
    if smoke:
        show_dry_run(plan)
        check_capacity(config, scores_all=False)
        return _smoke(config)
    begin(plan)
    if resume is None:
        run = RunFolder.create(config, default_name=Path(preset).stem)
    from launch.training.run import train

    train(config, run, resume=resume is not None)
    out.print(f"exported to {run.export}", soft_wrap=True)


def _smoke(config: RunConfig) -> None:
    from launch.training.smoke import smoke

    seconds = smoke(config)
    out.print(f"ok: one iteration with tiny models in {seconds:.0f} s, start of Ray included; nothing was kept")
