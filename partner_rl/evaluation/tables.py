"""The tables of an evaluation as text cells: the terminal, Markdown and HTML show the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from partner_rl.evaluation.measures import MEASURES, CorpusMeasure, Measure, arrow
from partner_rl.evaluation.result import Comparison, EvaluationResult, Figure
from partner_rl.evaluation.targets import TargetResult

SIGNIFICANT: Final = 0.05
"""Corrected p values below this are marked with a star."""
ADAPTABILITY_MEASURES: Final = (
    "change_in_empathy",
    "judge_change",
    "made_worse",
    "unchanged",
    "perplexity_ratio",
    "coherence",
    "specificity",
    "listener_accuracy",
    "mutual_information",
    "self_bleu",
    "edit_rate",
    "length",
)
"""Measures that the report shows by the original's empathy; `report.json` has all of them."""

_NOTHING: Final = "–"


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of texts.

    Attributes:
        title: Its heading.
        columns: Headings of the columns; the first column names the row.
        rows: Cells, as many in a row as there are columns.
        note: What a reader must know of it, or "".
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def main_table(result: EvaluationResult) -> TextTable:
    """Every measure of every system, with intervals."""
    systems = result.headline.systems
    rows = [
        (_name(measure), *(_cell(system.figures.get(measure.key), measure) for system in systems))
        for measure in MEASURES
        if any(measure.key in system.figures for system in systems)
    ]
    note = f"{result.headline.pairs} pairs; 95 % intervals over pairs."
    return TextTable("Systems", ("measure", *(system.name for system in systems)), tuple(rows), note)


def comparison_table(result: EvaluationResult) -> TextTable:
    """Every system against the reference: difference, interval and corrected p value."""
    systems = [system for system in result.headline.systems if system.name != result.reference]
    rows = [
        (_name(measure), *(_compared(system.comparisons.get(measure.key), measure) for system in systems))
        for measure in MEASURES
        if any(measure.key in system.comparisons for system in systems)
    ]
    note = (
        "Differences (for perplexity: ratios) with 95 % intervals; p values of paired permutation tests, two-sided, "
        f"corrected by Holm's method for the systems of a row; * below {SIGNIFICANT:g}."
    )
    return TextTable(
        f"Against {result.reference}", ("measure", *(system.name for system in systems)), tuple(rows), note
    )


def adaptability_tables(result: EvaluationResult) -> list[TextTable]:
    """Measures by the empathy of the original response."""
    names = tuple(system.name for system in result.headline.systems)
    tables = []
    for measure in MEASURES:
        rows = [
            (group.title, str(group.pairs), *(_cell(group.figure(name, measure.key), measure) for name in names))
            for group in result.groups
        ]
        measured = any(set(row[2:]) != {_NOTHING} for row in rows)
        if measure.key in ADAPTABILITY_MEASURES and measured:
            tables.append(TextTable(_name(measure), ("original", "pairs", *names), tuple(rows)))
    return tables


def targets_table(system: str, results: Sequence[TargetResult]) -> TextTable:
    """Which targets a system reaches."""
    forms = {measure.key: measure.form for measure in MEASURES}
    rows = []
    for found in results:
        form = forms[found.target.measure]
        bound = _NOTHING if found.bound is None else f"{found.target.relation} {found.bound:{form}}"
        open_ended = found.figure is not None and found.figure.interval is not None and not found.certain
        outcome = f"{found.outcome}, but the interval holds the bound" if open_ended else found.outcome
        rows.append((found.target.text, bound, _figure(found.figure, form), str(found.pairs), outcome))
    return TextTable(f"Targets: {system}", ("target", "bound", "measured", "pairs", "outcome"), tuple(rows))


def measures_table(result: EvaluationResult) -> TextTable:
    """What each measure is."""
    shown = [measure for measure in MEASURES if any(measure.key in s.figures for s in result.headline.systems)]
    return TextTable("Measures", ("measure", "definition"), tuple((_name(m), m.definition) for m in shown))


def systems_notes(result: EvaluationResult) -> TextTable:
    """What each system is."""
    return TextTable("What was compared", ("system", "what it is"), tuple((s.name, s.note) for s in result.scores))


def values_by_system(result: EvaluationResult) -> list[Mapping[str, str | float | None]]:
    """One flat record a system, for trackers: each measure, and the ends of its interval."""
    records: list[Mapping[str, str | float | None]] = []
    for system in result.headline.systems:
        record: dict[str, str | float | None] = {"system": system.name, "pairs": float(result.headline.pairs)}
        for measure in MEASURES:
            figure = system.figures.get(measure.key)
            interval = None if figure is None else figure.interval
            record[measure.key] = None if figure is None else figure.value
            record[f"{measure.key}_low"] = None if interval is None else interval.low
            record[f"{measure.key}_high"] = None if interval is None else interval.high
        records.append(record)
    return records


def _name(measure: Measure) -> str:
    return f"{measure.label} {arrow(measure.better)}".strip()


def _cell(figure: Figure | None, measure: Measure) -> str:
    return _figure(figure, measure.form)


def _figure(figure: Figure | None, form: str) -> str:
    if figure is None:
        return _NOTHING
    value = format(figure.value, form)
    if figure.interval is None:
        return value
    return f"{value} [{figure.interval.low:{form}}, {figure.interval.high:{form}}]"


def _compared(comparison: Comparison | None, measure: Measure) -> str:
    if comparison is None:
        return _NOTHING
    ratio = not isinstance(measure, CorpusMeasure) and measure.exponential
    form = ".3f" if ratio else f"+{measure.form.removeprefix('+')}"
    p = "< 0.001" if comparison.p_holm < 0.001 else f"= {comparison.p_holm:.3f}"
    star = "*" if comparison.p_holm < SIGNIFICANT else ""
    return f"{'× ' if ratio else ''}{_figure(comparison.difference, form)} p {p}{star}"
