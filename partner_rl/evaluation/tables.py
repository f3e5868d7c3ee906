"""The tables of an evaluation as text cells: the terminal, Markdown and HTML show the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from partner_rl.evaluation.metric_definitions import METRICS, MeanMetric, Metric
from partner_rl.evaluation.result import Comparison, EvaluationResult, Group, MetricEstimate
from partner_rl.evaluation.targets import TargetResult

SIGNIFICANT: Final = 0.05
"""Corrected p values below this are marked with a star."""
ADAPTABILITY_METRICS: Final = (
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
"""Metrics that the report shows by the original's empathy; `report.json` has all of them."""

_NOTHING: Final = "–"


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of texts: as many cells in a row as there are columns, the first of which names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def main_table(headline: Group) -> TextTable:
    """Every metric of every system, with its interval where there is one."""
    systems = headline.systems
    rows = [
        (metric.title, *(_estimate(system.metrics.get(metric.key), metric.form) for system in systems))
        for metric in headline.metrics
    ]
    intervals = any(estimate.interval is not None for system in systems for estimate in system.metrics.values())
    note = f"{headline.pairs} pairs; 95 % intervals over pairs." if intervals else f"{headline.pairs} pairs."
    return TextTable("Systems", ("metric", *(system.name for system in systems)), tuple(rows), note)


def comparison_table(result: EvaluationResult) -> TextTable:
    """Every system against the reference: difference, interval and corrected p value."""
    systems = [system for system in result.headline.systems if system.name != result.reference]
    rows = [
        (metric.title, *(_compared(system.comparisons.get(metric.key), metric) for system in systems))
        for metric in METRICS
        if any(metric.key in system.comparisons for system in systems)
    ]
    note = (
        "Differences (for perplexity: ratios) with 95 % intervals; p values of paired permutation tests, two-sided, "
        f"corrected by Holm's method for the systems of a row; * below {SIGNIFICANT:g}."
    )
    return TextTable(f"Against {result.reference}", ("metric", *(system.name for system in systems)), tuple(rows), note)


def adaptability_tables(result: EvaluationResult) -> list[TextTable]:
    """Metrics by the empathy of the original response."""
    names = tuple(system.name for system in result.headline.systems)
    tables = []
    for metric in METRICS:
        rows = [
            (
                group.title,
                str(group.pairs),
                *(_estimate(group.estimate(name, metric.key), metric.form) for name in names),
            )
            for group in result.groups
        ]
        measured = any(set(row[2:]) != {_NOTHING} for row in rows)
        if metric.key in ADAPTABILITY_METRICS and measured:
            tables.append(TextTable(metric.title, ("original", "pairs", *names), tuple(rows)))
    return tables


def targets_table(system: str, results: Sequence[TargetResult]) -> TextTable:
    """Which targets a system reaches."""
    forms = {metric.key: metric.form for metric in METRICS}
    rows = []
    for found in results:
        form = forms[found.target.metric]
        bound = _NOTHING if found.bound is None else f"{found.target.relation} {found.bound:{form}}"
        open_ended = found.estimate is not None and found.estimate.interval is not None and not found.certain
        outcome = f"{found.outcome}, but the interval holds the bound" if open_ended else found.outcome
        rows.append((found.target.text, bound, _estimate(found.estimate, form), str(found.pairs), outcome))
    return TextTable(f"Targets: {system}", ("target", "bound", "measured", "pairs", "outcome"), tuple(rows))


def metrics_table(result: EvaluationResult) -> TextTable:
    """What each metric is."""
    rows = tuple((metric.title, metric.definition) for metric in result.headline.metrics)
    return TextTable("Metrics", ("metric", "definition"), rows)


def systems_notes(result: EvaluationResult) -> TextTable:
    """What each system is."""
    return TextTable("What was compared", ("system", "what it is"), tuple((s.name, s.note) for s in result.scores))


def values_by_system(result: EvaluationResult) -> list[Mapping[str, str | float | None]]:
    """One flat record a system, for trackers: each metric, and the ends of its interval."""
    records: list[Mapping[str, str | float | None]] = []
    for system in result.headline.systems:
        record: dict[str, str | float | None] = {"system": system.name, "pairs": float(result.headline.pairs)}
        for metric in METRICS:
            estimate = system.metrics.get(metric.key)
            interval = None if estimate is None else estimate.interval
            record[metric.key] = None if estimate is None else estimate.value
            record[f"{metric.key}_low"] = None if interval is None else interval.low
            record[f"{metric.key}_high"] = None if interval is None else interval.high
        records.append(record)
    return records


def _estimate(estimate: MetricEstimate | None, form: str) -> str:
    if estimate is None:
        return _NOTHING
    value = format(estimate.value, form)
    if estimate.interval is None:
        return value
    return f"{value} [{estimate.interval.low:{form}}, {estimate.interval.high:{form}}]"


def _compared(comparison: Comparison | None, metric: Metric) -> str:
    if comparison is None:
        return _NOTHING
    ratio = isinstance(metric, MeanMetric) and metric.exponential
    form = ".3f" if ratio else f"+{metric.form.removeprefix('+')}"
    p = "< 0.001" if comparison.p_holm < 0.001 else f"= {comparison.p_holm:.3f}"
    star = "*" if comparison.p_holm < SIGNIFICANT else ""
    return f"{'× ' if ratio else ''}{_estimate(comparison.difference, form)} p {p}{star}"
