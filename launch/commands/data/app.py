"""`partner-rl data`: fetch, convert and describe corpora."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from launch.commands.data.source import SOURCE_HELP
from launch.console import beside, out
from launch.console import progress as progress_bar
from launch.lazy import LazyCommand, lazy_group
from launch.options import with_dry_run
from launch.preflight.command_plan import begin, stage_plan
from partner_rl.config.schema import DataConfig
from partner_rl.data.convert import convert, refuse_rejects
from partner_rl.data.epitome import EPITOME_FILES
from partner_rl.data.pull import KIND as EPITOME
from partner_rl.data.pull import pull_epitome
from partner_rl.data.readers import DEFAULT_MAX_CHARACTERS, iter_rows, read_examples, reasons, write_rejects
from partner_rl.data.records import Reject, Remark
from partner_rl.data.splits import split_examples
from partner_rl.storage.atomic import is_written_in_place
from partner_rl.storage.outputs import NewFolder, OutputFile, check_outputs
from partner_rl.types import MAX_LEVEL, MECHANISMS, Example, PartnerError

COMMANDS: Final = {
    "generate": LazyCommand("launch.commands.data.generate", "command", "Make a corpus of any size, for measuring."),
    "train-topic": LazyCommand(
        "launch.commands.data.train_topic", "command", "Train the classifier of posts about mental health."
    ),
    "curate": LazyCommand(
        "launch.commands.data.curate", "command", "Drop unusable and duplicate pairs and personal data."
    ),
    "label": LazyCommand("launch.commands.data.label", "command", "Label pairs with empathy levels and rationales."),
    "warmstart-pairs": LazyCommand(
        "launch.commands.data.warmstart_pairs", "command", "Make supervised examples of edits from pairs."
    ),
}

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    help="Fetch, convert and describe corpora of seeker posts and responses.",
    no_args_is_help=True,
)

LengthOption = Annotated[
    int, typer.Option("--max-post-characters", min=1, help="A longer post is a rejected row.", show_default=True)
]


@app.command("pull")
@with_dry_run
def pull_command(
    dataset: Annotated[str, typer.Argument(help="The data set: epitome.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives the files.")],
    source: Annotated[
        Path | None, typer.Option("--source", help="Copy from this folder instead of the network.")
    ] = None,
) -> None:
    """Fetch the public EPITOME data set (labelled Reddit pairs) from its GitHub repository.

    Example: partner-rl data pull epitome --output data/epitome
    """
    if dataset != "epitome":
        raise PartnerError(f"unknown data set {dataset!r}: the only one is epitome")
    check_outputs([NewFolder(output, EPITOME)], [source])
    begin(stage_plan(dict.fromkeys((output / name for name in EPITOME_FILES), "labelled pairs, one mechanism")))
    with progress_bar(f"Pulling {dataset}") as progress:
        pairs = pull_epitome(output, source, progress=progress)
    out.print(f"{pairs} pairs in {output}", soft_wrap=True)


@app.command("convert")
@with_dry_run
def convert_command(
    source: Annotated[str, typer.Argument(metavar="INPUT", help=SOURCE_HELP)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.parquet", help="The Parquet file to write.")],
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")] = False,
    rejects: Annotated[
        Path | None, typer.Option("--rejects", help="File for bad rows; default OUTPUT.rejects.jsonl.")
    ] = None,
    max_post_characters: LengthOption = DEFAULT_MAX_CHARACTERS,
) -> None:
    """Convert a corpus to Parquet; bad rows go to a rejects file with line numbers and reasons.

    Example: partner-rl data convert pairs.csv pairs.parquet --rejects bad.jsonl
    """
    if rejects is None and is_written_in_place(output):
        raise PartnerError(f"OUTPUT {output} is no file: say with --rejects where bad rows go")
    target = rejects or output.parent / f"{output.stem}.rejects.jsonl"
    check_outputs([OutputFile(output, "OUTPUT"), OutputFile(target, "--rejects")], [source])
    begin(stage_plan({output: "pairs", target: "bad rows, if there are any"}, source=source))
    with progress_bar("Converting") as progress:
        rows = iter_rows(source, max_post_characters, progress)
        written, rest = convert(refuse_rejects(rows) if strict else rows, source, output)
    said = beside(output, target)
    said.print(f"{written} pairs written to {output}", soft_wrap=True)
    _print_remarks(rest.remarks, said)
    if rest.rejects or rejects is not None:
        write_rejects(rest.rejects, target)
    else:
        # A list left by an earlier run would contradict what is said next.
        target.unlink(missing_ok=True)
    why = f" ({reasons(rest.rejects)}), listed in {target}" if rest.rejects else ""
    said.print(f"{len(rest.rejects)} rows rejected{why}", soft_wrap=True)


@app.command("stats")
def stats_command(
    source: Annotated[str, typer.Argument(metavar="INPUT", help=SOURCE_HELP)],
    max_post_characters: LengthOption = DEFAULT_MAX_CHARACTERS,
) -> None:
    """Count levels, splits and lengths of a corpus; prints no text of any post.

    Example: partner-rl data stats sample
    """
    with progress_bar("Reading") as progress:
        result = read_examples(source, max_post_characters, progress)
    seekers = len({example.seeker_id for example in result.examples})
    out.print(f"{len(result.examples)} pairs of {seekers} seeker posts")
    _print_remarks(result.remarks)
    _print_rejects(result.rejects)
    out.print(_level_table(result.examples), _split_table(result.examples), _length_table(result.examples))


def _level_table(examples: Sequence[Example]) -> Table:
    levels = range(MAX_LEVEL + 1)
    table = Table(
        "mechanism", *(f"level {level}" for level in levels), "rationales", title="Levels", title_justify="left"
    )
    for index, mechanism in enumerate(MECHANISMS):
        labels = [example.labels[index] for example in examples if example.labels is not None]
        counts = Counter(label.level for label in labels)
        rationales = sum(len(label.rationales) for label in labels)
        table.add_row(mechanism, *(str(counts[level]) for level in levels), str(rationales))
    table.add_row("unlabelled pairs", str(sum(example.labels is None for example in examples)), "", "", "")
    return table


def _split_table(examples: Sequence[Example]) -> Table:
    config = DataConfig()
    splits = split_examples(examples, config)
    table = Table("split", "pairs", "seekers", "mean empathy", title="Default splits", title_justify="left")
    for name, part in (("train", splits.train), ("dev", splits.dev), ("test", splits.test)):
        scores = [example.empathy for example in part if example.empathy is not None]
        mean = f"{np.mean(scores):.2f}" if scores else "-"
        table.add_row(name, str(len(part)), str(len({example.seeker_id for example in part})), mean)
    return table


def _length_table(examples: Sequence[Example]) -> Table:
    table = Table("words", "min", "median", "mean", "95 %", "max", title="Lengths", title_justify="left")
    texts = {
        "seeker_post": [example.seeker_post for example in examples],
        "response_post": [example.response_post for example in examples],
    }
    for name, posts in texts.items():
        words = np.array([len(post.split()) for post in posts])
        figures = (words.min(), np.median(words), words.mean(), np.percentile(words, 95), words.max())
        table.add_row(name, *(f"{figure:.0f}" for figure in figures))
    return table


def _print_remarks(remarks: Sequence[Remark], console: Console = out) -> None:
    for reason, count in Counter(remark.reason for remark in remarks).most_common():
        console.print(f"{count} × {reason}", soft_wrap=True)


def _print_rejects(rejects: Sequence[Reject]) -> None:
    if rejects:
        out.print(f"{len(rejects)} rows rejected ({reasons(rejects)}); `partner-rl data convert` lists them")
