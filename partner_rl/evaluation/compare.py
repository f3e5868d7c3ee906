"""From the scores of pairs to figures with intervals, and to paired tests against a reference system."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from partner_rl.evaluation.measures import MEASURES, CorpusContext, CorpusMeasure, MeanMeasure, corpus_context
from partner_rl.evaluation.pair_scores import PairScores
from partner_rl.evaluation.resampling import (
    Floats,
    Interval,
    corpus_p_value,
    half_sample_interval,
    half_samples,
    holm,
    mean_interval,
    mean_p_value,
    share_interval,
)
from partner_rl.evaluation.result import Comparison, Figure, SystemFigures


@dataclass(frozen=True, slots=True)
class _Cell:
    """A system's figure of one measure and its comparison, not yet corrected for the number of systems."""

    figure: Figure
    comparison: Comparison | None = None


def compare(
    systems: Sequence[PairScores], original: PairScores, reference: str | None, seed: int
) -> tuple[SystemFigures, ...]:
    """Figures of every system on the same pairs.

    Args:
        systems: Their scores.
        original: Scores of the original responses to these pairs.
        reference: Name of the system to compare the others with; None for no comparisons.
        seed: Decides all resamples.
    """
    context = corpus_context(systems)
    columns: dict[str, Mapping[str, _Cell]] = {}
    for measure in MEASURES:
        if isinstance(measure, MeanMeasure):
            column = _mean_column(measure, systems, original, reference, seed)
        else:
            column = _corpus_column(measure, systems, context, reference, seed)
        columns[measure.key] = _corrected(column)
    return tuple(
        SystemFigures(
            name=scores.name,
            figures={key: column[scores.name].figure for key, column in columns.items() if scores.name in column},
            comparisons={
                key: comparison
                for key, column in columns.items()
                if scores.name in column and (comparison := column[scores.name].comparison) is not None
            },
        )
        for scores in systems
    )


def _mean_column(
    measure: MeanMeasure, systems: Sequence[PairScores], original: PairScores, reference: str | None, seed: int
) -> dict[str, _Cell]:
    found = {scores.name: measure.values(scores, original) for scores in systems}
    values = {name: one for name, one in found.items() if one is not None and len(_measured(one))}
    against = values.get(reference) if reference is not None and measure.compared else None
    cells = {}
    for name, values_N in values.items():
        measured = _measured(values_N)
        interval = share_interval(measured > 0) if measure.share else mean_interval(measured, seed)
        figure = _scaled(measure, float(measured.mean()), interval)
        comparison = None
        differences = _measured(values_N - against) if against is not None and name != reference else None
        if differences is not None and len(differences):
            difference = _scaled(measure, float(differences.mean()), mean_interval(differences, seed))
            p = mean_p_value(differences, seed)
            comparison = Comparison(difference, p, p)
        cells[name] = _Cell(figure, comparison)
    return cells


def _measured(values_N: Floats) -> Floats:
    """The values of the pairs that have one."""
    measured: Floats = values_N[~np.isnan(values_N)]
    return measured


def _scaled(measure: MeanMeasure, value: float, interval: Interval | None) -> Figure:
    """A mean and its interval on the measure's scale."""
    if not measure.exponential:
        return Figure(value, interval)
    ends = None if interval is None else Interval(math.exp(interval.low), math.exp(interval.high))
    return Figure(math.exp(value), ends)


def _corpus_column(
    measure: CorpusMeasure,
    systems: Sequence[PairScores],
    context: CorpusContext,
    reference: str | None,
    seed: int,
) -> dict[str, _Cell]:
    pairs = len(systems[0].requests)
    # The first selection is the whole corpus.
    selected_BN = np.concatenate([np.ones((1, pairs), dtype=np.bool_), half_samples(pairs, seed)])
    values = {scores.name: measure.statistic(scores.requests, context)(selected_BN) for scores in systems}
    against = next((scores for scores in systems if scores.name == reference), None)
    cells = {}
    for scores in systems:
        values_B = values[scores.name]
        if not math.isfinite(values_B[0]):
            continue
        comparison = None
        if against is not None and scores.name != reference:
            interleaved = [request for both in zip(scores.requests, against.requests, strict=True) for request in both]
            p = corpus_p_value(measure.statistic(interleaved, context), pairs, seed)
            if p is not None:
                comparison = Comparison(_halved(values_B - values[against.name], pairs), p, p)
        cells[scores.name] = _Cell(_halved(values_B, pairs), comparison)
    return cells


def _halved(values_B: Floats, pairs: int) -> Figure:
    """A figure whose first value is that of the whole corpus, the others those of half-samples."""
    value = float(values_B[0])
    return Figure(value, half_sample_interval(value, values_B[1:], pairs))


def _corrected(column: Mapping[str, _Cell]) -> dict[str, _Cell]:
    """The column with its p values corrected for the number of systems."""
    compared = {name: cell.comparison for name, cell in column.items() if cell.comparison is not None}
    corrected = dict(zip(compared, holm([comparison.p for comparison in compared.values()]), strict=True))
    return {
        name: replace(cell, comparison=replace(compared[name], p_holm=corrected[name])) if name in compared else cell
        for name, cell in column.items()
    }
