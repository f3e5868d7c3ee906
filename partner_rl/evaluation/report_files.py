"""Writes an evaluation: `report.md`, `report.html`, `report.json`, `pairs.parquet` and the charts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.evaluation.charts import CHARTS, draw_charts
from partner_rl.evaluation.result import EvaluationResult
from partner_rl.evaluation.summary import circumstances
from partner_rl.evaluation.tables import (
    TextTable,
    adaptability_tables,
    comparison_table,
    main_table,
    metrics_table,
    systems_notes,
    targets_table,
)
from partner_rl.evaluation.targets import TargetResult
from partner_rl.storage.atomic import file_when_whole, growing_folder, write_json, write_text
from partner_rl.text.markdown import markdown_table, plain_markdown
from partner_rl.text.templates import template_environment
from partner_rl.types import MECHANISMS

KIND: Final = "evaluation"
"""What the folder of a report says that it is."""
FIGURES_FOLDER: Final = "figures"
EXAMPLES: Final = 10
"""Pairs that the report shows with every system's rewrite, when posts are asked for."""

_TEMPLATES: Final = ("report.md", "report.html")


@dataclass(frozen=True, slots=True)
class About:
    """What the report says besides the metrics.

    Attributes:
        facts: Label → text: the runs, data, models, seed and so on.
        remarks: Warnings to the reader.
        with_posts: Whether to write posts and original responses too.
        with_rewrites: Whether `pairs.parquet` holds the rewrites, which are for the most part the originals' sentences.
        seconds: Phase of the evaluation → wall-clock seconds.
    """

    title: str
    facts: Mapping[str, str]
    remarks: Sequence[str] = ()
    targets: Mapping[str, Sequence[TargetResult]] = field(default_factory=dict)
    with_posts: bool = False
    with_rewrites: bool = True
    seconds: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Chart:
    path: str
    caption: str
    data: str


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    tables: Sequence[TextTable] = ()
    charts: Sequence[_Chart] = ()
    text: str = ""
    texts: bool = False


def write_report(folder: Path, result: EvaluationResult, about: About) -> list[Path]:
    """Writes the whole report; each file appears whole or not at all.

    Returns:
        The written files.
    """
    growing_folder(folder, KIND)
    pictures = draw_charts(result, folder / FIGURES_FOLDER)
    charts = {
        picture.name: _Chart(
            f"{FIGURES_FOLDER}/{picture.name}",
            CHARTS[picture.name],
            base64.b64encode(picture.read_bytes()).decode("ascii"),
        )
        for picture in pictures
    }
    content = {
        "title": about.title,
        "facts": about.facts,
        "remarks": about.remarks,
        "sections": _sections(result, about, charts),
    }
    written = []
    for name in _TEMPLATES:
        text = _environment(autoescape=name.endswith(".html")).get_template(f"{name}.j2").render(content)
        written.append(write_text(folder / name, text))
    write_json(folder / "report.json", report_json(result, about), allow_nan=False)
    return [
        *written,
        folder / "report.json",
        _write_pairs(folder / "pairs.parquet", result, about),
        *pictures,
    ]


def report_json(result: EvaluationResult, about: About) -> dict[str, object]:
    """The content of `report.json`."""
    return {
        "facts": dict(about.facts),
        "remarks": list(about.remarks),
        **result.as_json(),
        "targets": {system: [found.as_json() for found in results] for system, results in about.targets.items()},
        **circumstances(about.seconds, about.seed),
    }


def pairs_table(result: EvaluationResult, about: About) -> pa.Table:
    """One row a pair and system: ids, scores and the rewrite; the posts themselves only when asked for."""
    parts = []
    for scores in result.scores:
        columns: dict[str, Any] = {
            "system": [scores.name] * len(result.examples),
            "pair": range(len(result.examples)),
            "seeker_id": [example.seeker_id for example in result.examples],
            "response_id": [example.response_id for example in result.examples],
            "original_empathy": result.levels_N,
            "in_main_table": result.headline_N,
            "change_in_empathy": scores.change_NM.sum(axis=1),
            **{name: scores.change_NM[:, index] for index, name in enumerate(MECHANISMS)},
            **_judged_columns(result.judged, scores.judge_change_NM),
            "surprisal": scores.surprisal_N,
            "coherence": scores.coherence_N,
            "specificity": scores.specificity_N,
            # Null where nothing was written.
            "listener_accuracy": pa.array(scores.listener_N, from_pandas=True),
            "mutual_information": scores.mutual_information_N,
            "self_bleu": scores.self_bleu_N,
            "repeated": scores.repeated_N,
            "edit_rate": scores.edit_rate_N,
            "length": scores.length_N,
            "unchanged": scores.unchanged_N,
        }
        if about.with_rewrites:
            columns["rewritten_response"] = scores.rewrites
            written = [list(sentences) for sentences in scores.written]
            columns["written_sentences"] = pa.array(written, pa.list_(pa.string()))
        if about.with_posts:
            columns["seeker_post"] = [example.seeker_post for example in result.examples]
            columns["response_post"] = [example.response_post for example in result.examples]
        parts.append(pa.table({name: pa.array(column) for name, column in columns.items()}))
    return pa.concat_tables(parts)


def _judged_columns(judged: bool, change_NM: Any) -> dict[str, Any]:
    if not judged:
        return {}
    mechanisms = {f"judge_{name}": change_NM[:, index] for index, name in enumerate(MECHANISMS)}
    return {"judge_change": change_NM.sum(axis=1), **mechanisms}


def _sections(result: EvaluationResult, about: About, charts: Mapping[str, _Chart]) -> list[_Section]:
    sections = [_Section("What was compared", [systems_notes(result)])]
    if about.targets:
        tables = [targets_table(system, results) for system, results in about.targets.items()]
        sections.append(_Section("Targets", tables))
    sections.append(
        _Section("Systems", [main_table(result.headline)], [charts["metrics.png"], charts["trade_off.png"]])
    )
    if len(result.headline.systems) > 1:
        sections.append(_Section(f"Against {result.reference}", [comparison_table(result)], [charts["histogram.png"]]))
    source = f"its label ({result.labelled} of {len(result.examples)} pairs have one), else the classifier's decision"
    sections.append(
        _Section(
            "By the original's empathy",
            adaptability_tables(result),
            [charts["adaptability.png"]],
            f"All {len(result.examples)} pairs. The empathy of an original is {source}.",
        )
    )
    if about.with_posts:
        sections.append(_Section("Examples", [_examples_table(result)], texts=True))
    sections.append(_Section("Metrics", [metrics_table(result)]))
    return sections


def _examples_table(result: EvaluationResult) -> TextTable:
    """The first pairs with every system's rewrite."""
    rows = [
        (example.seeker_post, *(scores.rewrites[row] for scores in result.scores))
        for row, example in enumerate(result.examples[:EXAMPLES])
    ]
    return TextTable("Examples", ("seeker's post", *(scores.name for scores in result.scores)), tuple(rows))


def _environment(autoescape: bool) -> jinja2.Environment:
    environment = template_environment(Path(__file__).parent / "templates", autoescape=autoescape)
    environment.filters["markdown"] = _markdown
    return environment


def _markdown(content: TextTable) -> str:
    return markdown_table(content.columns, ([plain_markdown(cell) for cell in row] for row in content.rows))


def _write_pairs(path: Path, result: EvaluationResult, about: About) -> Path:
    with file_when_whole(path) as file:
        pq.write_table(pairs_table(result, about), file, compression="zstd")
    return path
