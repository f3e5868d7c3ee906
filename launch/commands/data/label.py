"""`partner-rl data label`: empathy levels and rationales for every pair of a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from launch.commands.data.source import SOURCE_HELP, converted
from launch.console import out
from launch.console import progress as progress_bar
from launch.options import with_dry_run
from launch.preflight.command_plan import begin, stage_plan
from launch.preflight.inputs import option_fact
from partner_rl.config.paths import Kind
from partner_rl.config.section import MAX_PROCESSES
from partner_rl.data.readers import DEFAULT_MAX_CHARACTERS
from partner_rl.pipelines.label import KIND, ClassifierSettings, LabelReport, label
from partner_rl.pipelines.resources import MODEL_UNIT_ROWS, Resources
from partner_rl.storage.atomic import write_json
from partner_rl.storage.outputs import GrowingFolder, check_outputs
from partner_rl.types import NUM_LEVELS

COUNTS = "counts.json"
"""File of the counts in the output folder."""

ModelOption = Annotated[Path, typer.Option("--model", help="Folder of a trained empathy classifier.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, max=MAX_PROCESSES, help="Processes, each with a model of its own.")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, max=MAX_PROCESSES, help="Threads, and CPUs, of each worker.")
]
GpusOption = Annotated[
    float, typer.Option("--num-gpus", min=0.0, help="GPUs, or a fraction of one, of each worker; 0 runs on the CPU.")
]
TokensOption = Annotated[
    int | None, typer.Option("--max-tokens", min=8, help="Cut posts to this many tokens; default as in training.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run wrote there.")]


@with_dry_run
def command(
    source: Annotated[str, typer.Argument(metavar="INPUT", help=SOURCE_HELP)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder that receives the labelled pairs.")],
    model: ModelOption,
    workers: WorkersOption = 1,
    threads: ThreadsOption = 1,
    num_gpus: GpusOption = 0.0,
    max_tokens: TokensOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Label every pair with empathy levels, probabilities and rationales. Run again, it goes on where it was stopped.

    Example: `partner-rl data label curated labelled --model run/rewards/empathy --workers 4`
    """
    classifier = ClassifierSettings(model, max_tokens, "cuda" if num_gpus > 0 else "cpu", threads)
    resources = Resources(workers, threads, num_gpus, rows_per_unit=MODEL_UNIT_ROWS)
    check_outputs([GrowingFolder(output, KIND, "OUTPUT")], [source, model])
    files = [option_fact("--model", Kind.EMPATHY, model)]
    begin(stage_plan({output: "labelled pairs"}, source=source, resources=resources, files=files))
    pairs = converted(source, output, KIND, DEFAULT_MAX_CHARACTERS, overwrite=overwrite)
    with progress_bar("Labelling") as progress:
        report = label(pairs, output, classifier, resources, progress, overwrite=overwrite)
    write_json(output / COUNTS, report.as_json(), indent=1)
    out.print(_levels(report))
    if any(counts.accuracy is not None for counts in report.mechanisms.values()):
        out.print(_agreement(report))
    out.print(
        f"{report.stage.rows_out} rows in {output}, {report.stage.new_rows} of them new; "
        f"{report.stage.new_rows / report.stage.seconds:.1f} rows/s, start of the workers included",
        soft_wrap=True,
    )
    for reason, count in report.rejected.items():
        out.print(f"{count} rows rejected: {reason}", soft_wrap=True)


def _levels(report: LabelReport) -> Table:
    header = ("mechanism", *(f"level {level}" for level in range(NUM_LEVELS)), "rationales")
    table = Table(*header, title="Labels", title_justify="left")
    for mechanism, counts in report.mechanisms.items():
        total = max(1, sum(counts.levels))
        table.add_row(mechanism, *(f"{count / total:.1%}" for count in counts.levels), str(counts.rationales))
    return table


def _agreement(report: LabelReport) -> Table:
    levels = range(NUM_LEVELS)
    header = ("mechanism", "alike", *(f"{old} → {new}" for old in levels for new in levels))
    table = Table(*header, title="Level in the input → level now", title_justify="left")
    for mechanism, counts in report.mechanisms.items():
        alike = "-" if counts.accuracy is None else f"{counts.accuracy:.1%}"
        table.add_row(mechanism, alike, *(str(count) for row in counts.confusion for count in row))
    return table
