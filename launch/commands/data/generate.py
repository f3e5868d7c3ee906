"""`partner-rl data generate`: a corpus of any size, for measuring the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.console import out, progress
from launch.options import with_dry_run
from launch.preflight.command_plan import begin, stage_plan
from partner_rl.config.section import MAX_SEED
from partner_rl.data.synthetic import KIND, SUMMARY, CorpusSettings, generate
from partner_rl.storage.outputs import NewFolder, check_outputs


@with_dry_run
def command(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the Parquet files.")],
    rows: Annotated[int, typer.Option(min=1, help="Number of pairs.")] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Another seed, another corpus.")] = 0,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share that repeats an earlier pair.")] = 0.05,
    pii: Annotated[float, typer.Option(min=0, max=1, help="Share with a piece of personal data.")] = 0.02,
) -> None:
    """Recombine the sentences of the sample corpus, with a known share of duplicates and of personal data.

    Example: `partner-rl data generate pairs/ --rows 1000000`
    """
    check_outputs([NewFolder(output, KIND, "OUTPUT")])
    begin(stage_plan({output: f"{rows} pairs in Parquet files"}))
    with progress("Generating pairs") as report:
        generated = generate(CorpusSettings(rows, seed, duplicates, pii), output, report)
    out.print(f"{rows} pairs written to {output}", soft_wrap=True)
    kinds = ", ".join(f"{count} {kind}" for kind, count in generated.pii.items())
    planted = f"planted: {generated.exact} exact and {generated.near} near duplicates; {kinds} (see {SUMMARY})"
    out.print(planted, soft_wrap=True)
