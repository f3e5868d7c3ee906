"""`partner-rl data warmstart-pairs`: supervised examples of edits, from pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from launch.commands.data.label import GpusOption, OverwriteOption, ThreadsOption, TokensOption, WorkersOption
from launch.commands.data.source import SOURCE_HELP, converted
from launch.console import out
from launch.console import progress as progress_bar
from launch.options import with_dry_run
from launch.preflight.command_plan import begin, stage_plan
from launch.preflight.inputs import option_fact
from partner_rl.config.paths import Kind
from partner_rl.config.schema import WarmStartConfig
from partner_rl.config.section import MAX_SEED
from partner_rl.data.readers import DEFAULT_MAX_CHARACTERS
from partner_rl.pipelines.label import ClassifierSettings
from partner_rl.pipelines.resources import MODEL_UNIT_ROWS, Resources
from partner_rl.pipelines.warmstart_candidates import DEFAULT_MAX_WORDS, DEFAULT_WINDOW, CandidateSettings
from partner_rl.pipelines.warmstart_pairs import KIND, Balance, make_warmstart_pairs
from partner_rl.pipelines.warmstart_pairs_report import REPORT_PAGE, PairsReport
from partner_rl.storage.outputs import GrowingFolder, check_outputs
from partner_rl.warmstart.pairs import MIN_LEVEL, MIN_WORDS


@with_dry_run
def command(
    source: Annotated[str, typer.Argument(metavar="INPUT", help=SOURCE_HELP)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder that receives examples and report.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Empathy classifier that scores each sentence; without it, rationales decide."),
    ] = None,
    max_examples: Annotated[
        int | None, typer.Option("--max-examples", min=1, help="Most examples; default as many as the balance allows.")
    ] = None,
    noop_fraction: Annotated[
        float, typer.Option("--noop-fraction", min=0.0, max=1.0, help="Share of responses to be left alone.")
    ] = WarmStartConfig().noop_fraction,
    min_level: Annotated[
        float, typer.Option("--min-level", min=0.1, max=2.0, help="Level from which a sentence is highly empathic.")
    ] = MIN_LEVEL,
    max_words: Annotated[
        int, typer.Option("--max-words", min=MIN_WORDS, help="Longest sentence; policy.max_new_tokens × 3/4 fits.")
    ] = DEFAULT_MAX_WORDS,
    max_sentences: Annotated[
        int, typer.Option("--max-sentences", min=1, help="Most adjacent empathic sentences taken out as one.")
    ] = 1,
    own_experience: Annotated[
        bool,
        typer.Option(help="Keep sentences that speak of their writer's life (\"I've been there\"), as the paper does."),
    ] = True,
    window: Annotated[
        int, typer.Option("--window", min=1, max=16, help="Sentences that the policy sees at once (env.window).")
    ] = DEFAULT_WINDOW,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Other seeds choose other examples.")] = 0,
    workers: WorkersOption = 1,
    threads: ThreadsOption = 1,
    num_gpus: GpusOption = 0.0,
    max_tokens: TokensOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make warm-start examples from real responses: empathic sentences taken out, to be brought back.

    The report in the output folder shows some texts.

    Example: `partner-rl data warmstart-pairs labelled pairs --model run/rewards/empathy --max-examples 100000`
    """
    device = "cuda" if num_gpus > 0 else "cpu"
    classifier = None if model is None else ClassifierSettings(model, max_tokens, device, threads)
    gpus = 0.0 if model is None else num_gpus
    resources = Resources(workers, threads, gpus, rows_per_unit=MODEL_UNIT_ROWS)
    check_outputs([GrowingFolder(output, KIND, "OUTPUT")], [source, model])
    files = [] if model is None else [option_fact("--model", Kind.EMPATHY, model)]
    begin(stage_plan({output: "examples and report"}, source=source, resources=resources, files=files))
    report = make_warmstart_pairs(
        converted(source, output, KIND, DEFAULT_MAX_CHARACTERS, overwrite=overwrite),
        output,
        CandidateSettings(window, min_level, max_words, seed, max_sentences, own_experience),
        Balance(max_examples, noop_fraction),
        classifier,
        resources,
        progress_bar,
        overwrite=overwrite,
    )
    out.print(_balance(report))
    for reason, count in report.as_json()["rejected"].items():
        out.print(f"{count} rows rejected: {reason}", soft_wrap=True)
    out.print(f"{report.examples} examples in {output}; see {output / REPORT_PAGE}", soft_wrap=True)


def _balance(report: PairsReport) -> Table:
    content = report.as_json()
    before, after = content["candidates"], content["examples"]
    table = Table("", "candidates", "examples", title="Warm-start examples", title_justify="left")
    for name in ("by_mechanism", "by_position"):
        for key, count in before[name].items():
            table.add_row(key, str(count), str(after[name].get(key, 0)))
        table.add_section()
    table.add_row("all", str(before["all"]), str(after["all"]))
    return table
