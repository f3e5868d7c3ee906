"""`partner-rl evaluate`: the command line of `launch.training.evaluation`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from launch.options import REDACT_KEY, RedactOption, redaction, with_dry_run
from launch.run_folder.folder import RunFolder
from partner_rl.storage.outputs import GrowingFolder, OutputFile, check_outputs
from partner_rl.types import PartnerError


@with_dry_run
def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders whose training has ended.")],
    data: Annotated[
        str | None, typer.Option(help="Another corpus than the first run's: folder or file.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Which held-out part: test or dev.")] = "test",
    max_pairs: Annotated[
        int | None,
        typer.Option(min=1, help="At most this many pairs of the kind that training rewrites.", show_default=False),
    ] = None,
    baselines: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Baselines to compare with, or all.", show_default=False)
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="A held-out judge of empathy (default: evaluation.judge).", show_default=False)
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="SYSTEM", help="Test all others against this one.", show_default="the warm start"),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest edit instead of sampling one.")] = False,
    temperatures: Annotated[
        str | None,
        typer.Option(metavar="T,T", help="Sample policies at each of these temperatures.", show_default=False),
    ] = None,
    targets: Annotated[bool, typer.Option("--targets", help="Check what a trained policy must reach.")] = False,
    with_posts: Annotated[bool, typer.Option("--with-posts", help="Write posts and examples too.")] = False,
    human_sheet: Annotated[
        Path | None, typer.Option(help="Write a blinded A/B sheet for raters (CSV).", show_default=False)
    ] = None,
    human_pairs: Annotated[int, typer.Option(min=1, help="Pairs of two systems in that sheet.")] = 50,
    output: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default="RUN/evaluation")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a configuration key.")
    ] = None,
    redact: RedactOption = False,
) -> None:
    """Measure trained policies on held-out pairs; pairs and reward models are those of the first run.

    Example: `partner-rl evaluate runs/first --max-pairs 200 --baselines template --targets`
    """
    from launch.run_folder.evaluated import named_runs
    from partner_rl.config.load import Override, given, load_config

    if split not in ("test", "dev"):
        raise PartnerError(f"--split is {split!r}: it must be test or dev")
    keys = {"data.source": data, "evaluation.max_pairs": max_pairs, "evaluation.judge": judge}
    overrides: list[Override] = [*(settings or []), *redaction(redact), *given(keys)]
    folders = [RunFolder.open(run)[0] for run in runs]
    evaluated = named_runs([(folder, load_config(str(folder.config_file), overrides)) for folder in folders])
    if greedy and temperatures is not None:
        raise PartnerError("--greedy draws nothing: leave --temperatures out")
    redact = any(run.config.tracking.redact for run in evaluated)
    if redact and (with_posts or human_sheet is not None):
        what = "--with-posts" if with_posts else "--human-sheet"
        raise PartnerError(f"{what} writes texts, which {REDACT_KEY} forbids: leave one of the two out")
    # What computes is loaded when it is known what is wanted.
    from launch.preflight.check_request import evaluation_request
    from launch.preflight.command_plan import begin, evaluation_plan
    from launch.training.evaluation import EvaluationOptions, evaluate
    from partner_rl.config.inputs import input_paths
    from partner_rl.evaluation.baselines.make_baselines import baseline_names
    from partner_rl.evaluation.human_sheet import key_path
    from partner_rl.evaluation.report_files import KIND

    reads = evaluation_request(evaluated, () if baselines is None else baseline_names(baselines))

    options = EvaluationOptions(
        split="dev" if split == "dev" else "test",
        baselines=baselines,
        reference=reference,
        greedy=greedy,
        targets=targets,
        with_posts=with_posts,
        human_sheet=human_sheet,
        human_pairs=human_pairs,
        temperatures=_temperatures(temperatures),
        redact=redact,
    )
    report = output or folders[0].path / "evaluation"
    sheets = [] if human_sheet is None else [human_sheet, key_path(human_sheet)]
    check_outputs(
        [GrowingFolder(report, KIND), *(OutputFile(sheet, "--human-sheet") for sheet in sheets)],
        [*runs, *input_paths(evaluated[0].config)],
    )
    sheet = {} if human_sheet is None else {human_sheet: "sheet for raters"}
    begin(evaluation_plan(evaluated[0].config, reads, {report: "report", **sheet}))
    evaluate(evaluated, options, report)


def _temperatures(text: str | None) -> tuple[float, ...]:
    """The numbers of `--temperatures`.

    Raises:
        PartnerError: One is no number above 0, or is there twice.
    """
    if text is None:
        return ()
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise PartnerError(f"--temperatures is {text!r}: it must be numbers such as 0.6,0.8,1") from error
    if not all(0.0 < value < math.inf for value in values) or len(set(values)) < len(values):
        raise PartnerError(f"--temperatures is {text!r}: it must be different numbers above 0")
    return values
