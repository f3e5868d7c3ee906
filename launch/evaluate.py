"""`partner-rl evaluate`: a trained policy on held-out pairs, beside the originals and its warm start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.clock import PhaseClock
from launch.console import out
from launch.run_folder import RunFolder
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError


def command(
    run: Annotated[Path, typer.Argument(help="A run folder whose training has ended.")],
    data: Annotated[
        str | None, typer.Option(help="Another corpus than the run's: folder or file.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write the scores as JSON.", show_default="RUN/evaluation.json")
    ] = None,
    max_pairs: Annotated[int | None, typer.Option(min=1, help="At most this many pairs.", show_default=False)] = None,
) -> None:
    """Measure a trained policy on held-out pairs.

    Example: `partner-rl evaluate runs/first --max-pairs 200`
    """
    folder, config = RunFolder.open(run)
    if not folder.export.is_dir():
        raise PartnerError(f"{run} has no export/: finish its training with `partner-rl train --resume {run}`")
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": data})})
    if max_pairs is not None:
        config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"max_pairs": max_pairs})})
    evaluate(config, folder, output or folder.path / "evaluation.json")


def evaluate(config: RunConfig, run: RunFolder, output: Path) -> None:
    """Scores the originals, the warm start (if the run made one) and the trained policy on the test split."""
    from launch import pipeline
    from launch.ray_session import place_on_this_machine, ray_session
    from partner_rl.evaluation.report import systems_table
    from partner_rl.evaluation.summary import build_summary, write_summary

    clock = PhaseClock()
    config, plan = place_on_this_machine(config)
    splits = pipeline.load_splits(config)
    with (
        ray_session(config, plan),
        pipeline.reward_pools(config, run, plan) as pools,
        clock.phase("evaluation", "evaluation"),
    ):
        evaluation = pipeline.Evaluation(config, run, splits.test, pools.client())
        systems = [evaluation.originals()]
        for name, policy_folder in (("warm_start", run.warm_start), ("rl", run.export)):
            if policy_folder.is_dir():
                systems.append(evaluation.policy(name, policy_folder)[0])
    write_summary(output, build_summary(systems, clock.seconds, None, config.seed))
    out.print(systems_table(systems))
    out.print(f"scores: {output}", soft_wrap=True)
