"""`partner-rl data train-topic`: train the classifier that keeps posts about mental health."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from launch.console import out
from launch.console import progress as progress_bar
from launch.options import with_dry_run
from launch.preflight.command_plan import begin, stage_plan
from launch.preflight.inputs import option_fact
from partner_rl.config.paths import Kind
from partner_rl.config.section import MAX_SEED
from partner_rl.curation.everyday_posts import read_everyday_posts
from partner_rl.curation.topic import KIND, train_topic
from partner_rl.curation.topic_report import TopicEstimate, TopicReport, TopicScores
from partner_rl.data.readers import read_examples
from partner_rl.models.sources import resolve
from partner_rl.progress import Progress
from partner_rl.storage.outputs import NewFolder, check_outputs

_SOURCE: Final = "as INPUT of `data convert`."


@with_dry_run
def command(
    positives: Annotated[
        list[str],
        typer.Option(
            "--positives", metavar="SOURCE", help=f"Whose seeker posts are positives; repeat for more: {_SOURCE}"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives classifier and report.")],
    encoder: Annotated[
        str, typer.Option("--encoder", help="Encoder, named as in `partner-rl models list`.")
    ] = "pypi:all-minilm-l6-v2",
    negatives: Annotated[
        Path | None,
        typer.Option("--negatives", metavar="FILE.csv", help="Everyday posts, column text; default: those shipped."),
    ] = None,
    also_test: Annotated[
        str | None,
        typer.Option("--also-test", metavar="SOURCE", help=f"Report on these seeker posts apart: {_SOURCE}"),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of cross-validation and bootstrap.")
    ] = 0,
) -> None:
    """Train the classifier that tells posts about mental health from everyday ones.

    Example: partner-rl data train-topic --positives data/epitome --positives sample --output topic
    """
    everyday = read_everyday_posts(negatives)
    check_outputs([NewFolder(output, KIND)], [*positives, negatives, also_test, encoder])
    files = [option_fact("--encoder", Kind.ENCODER, encoder)]
    begin(stage_plan({output: "classifier and report"}, source=positives[0], files=files))
    with progress_bar("Reading") as progress:
        posts = _seeker_posts(positives, progress)
        others = _seeker_posts([also_test] if also_test else [], progress)
    with progress_bar("Fetching the encoder") as progress:
        folder = resolve(encoder, progress=progress)
    with progress_bar("Embedding posts") as progress:
        report = train_topic(
            posts,
            [post.text for post in everyday],
            folder,
            output,
            seed,
            progress,
            hard=frozenset(post.text for post in everyday if post.is_hard),
            other_positives=others,
        )
    out.print(report_table(report))
    out.print(
        f"Trained on {report.train_positives} posts about mental health and {report.train_negatives} of everyday life; "
        f"threshold {report.threshold}, C {report.inverse_penalty:g}, seed {report.seed}"
    )
    out.print(f"Classifier and report.json in {output}", soft_wrap=True)


def _seeker_posts(sources: Sequence[str], progress: Progress) -> list[str]:
    return [pair.seeker_post for source in sources for pair in read_examples(source, progress=progress).examples]


def report_table(report: TopicReport) -> Table:
    """A report as a table, one column a set of held-out posts, with 95 % intervals."""
    columns = [("all", report.held_out), ("hard negatives", report.hard), ("other source", report.other)]
    shown = [(name, scores) for name, scores in columns if scores is not None]
    table = Table("held out", *(name for name, _ in shown), title="Topic", title_justify="left", box=SIMPLE_HEAD)
    for row in _rows(report.held_out):
        table.add_row(row, *(_rows(scores)[row] for _, scores in shown))
    return table


def _rows(scores: TopicScores) -> dict[str, str]:
    counts = scores.confusion
    return {
        "positives": str(scores.positives),
        "negatives": str(scores.negatives),
        "precision": _text(scores.precision),
        "recall": _text(scores.recall),
        "F1": _text(scores.f1),
        "specificity": _text(scores.specificity),
        "AUC": _text(scores.auc),
        "kept / lost": f"{counts.true_positives} / {counts.false_negatives}",
        "let in / out": f"{counts.false_positives} / {counts.true_negatives}",
        "calibration": f"{scores.calibration_error:.3f}",
    }


def _text(metric: TopicEstimate) -> str:
    # No square brackets: rich would take them for markup.
    return f"{metric.value:.3f} ({metric.low:.3f}–{metric.high:.3f})"
