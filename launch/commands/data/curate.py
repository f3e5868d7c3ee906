"""`partner-rl data curate`: keep what can be used of a corpus, once, and without personal data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from launch.commands.data.source import SOURCE_HELP, converted
from launch.console import out, progress
from launch.options import with_dry_run
from launch.preflight.command_plan import begin, stage_plan
from partner_rl.config.paths import Kind
from partner_rl.config.section import MAX_PROCESSES
from partner_rl.curation.duplicates import THRESHOLD
from partner_rl.curation.pii import PHONE_REGIONS
from partner_rl.curation.usable import Limits
from partner_rl.data.readers import DEFAULT_MAX_CHARACTERS
from partner_rl.pipelines.cleaning import TopicSettings
from partner_rl.pipelines.curate import KIND, CurateReport, CurateSettings, curate
from partner_rl.pipelines.resources import Resources
from partner_rl.storage.outputs import GrowingFolder, check_outputs


@with_dry_run
def command(
    source: Annotated[str, typer.Argument(metavar="INPUT", help=SOURCE_HELP)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the curated files.")],
    topic_model: Annotated[
        Path | None, typer.Option(help="Topic classifier (data train-topic); without it every topic is kept.")
    ] = None,
    topic_threshold: Annotated[float, typer.Option(min=0, max=1, help="Keep posts with at least this.")] = 0.5,
    near_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Similarity of both posts from which on pairs are duplicates.")
    ] = THRESHOLD,
    min_words: Annotated[int, typer.Option(min=1, help="A post with fewer words is dropped.")] = 2,
    max_post_characters: Annotated[int, typer.Option(min=1, help="A longer post is dropped.")] = DEFAULT_MAX_CHARACTERS,
    phone_region: Annotated[
        list[str] | None,
        typer.Option(help="Country of telephone numbers without +; may be repeated [default: US, GB]."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=MAX_PROCESSES, help="Processes that work in parallel.")] = 1,
    num_gpus: Annotated[float, typer.Option(min=0, help="GPUs, or a part of one, for each worker.")] = 0,
    rows_per_unit: Annotated[int, typer.Option(min=1, help="Rows that a worker takes at a time.")] = 50_000,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, such as auto; default: this machine.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the results of an earlier run.")] = False,
) -> None:
    """Drop pairs that are unusable, off topic or duplicates, and put placeholders in place of personal data.

    Run again after an interruption, it continues.

    Example: `partner-rl data curate pairs/ curated/ --workers 2`
    """
    regions = tuple(region.upper() for region in phone_region) if phone_region else PHONE_REGIONS
    topic = None if topic_model is None else TopicSettings(topic_model, topic_threshold)
    settings = CurateSettings(Limits(min_words, max_post_characters), regions, near_threshold, topic)
    resources = Resources(workers=workers, num_gpus=num_gpus, rows_per_unit=rows_per_unit)
    check_outputs([GrowingFolder(output, KIND, "OUTPUT")], [source, topic_model])
    files = []
    if topic_model is not None:
        from launch.preflight.inputs import option_fact

        files = [option_fact("--topic-model", Kind.TOPIC, topic_model)]
    begin(stage_plan({output: "curated pairs"}, source=source, resources=resources, address=address, files=files))
    pairs = converted(source, output, KIND, max_post_characters, overwrite=overwrite)
    report = curate(pairs, output, settings, resources, progress, address=address, overwrite=overwrite)
    out.print(_table(report))
    out.print(f"{report.kept} of {report.rows_in} pairs written to {output}", soft_wrap=True)


def _table(report: CurateReport) -> Table:
    table = Table("what", "pairs or places", title="Curated", title_justify="left")
    table.add_row("read", str(report.rows_in))
    for reason, count in report.rejected.items():
        table.add_row(f"rejected: {reason}", str(count))
    for reason, count in report.dropped.items():
        table.add_row(f"dropped: {reason.replace('_', ' ')}", str(count))
    table.add_row("kept", str(report.kept), end_section=True)
    for remark, count in report.remarks.items():
        table.add_row(remark, str(count))
    for kind, count in report.replaced.items():
        table.add_row(f"replaced: {kind}", str(count))
    table.add_row("rationales dropped", str(report.rationales_dropped))
    return table
