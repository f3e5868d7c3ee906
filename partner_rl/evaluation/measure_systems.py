"""From the scores of pairs to metrics with intervals, and to paired tests against a reference system."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from partner_rl.evaluation.corpus_metrics import ngrams_a_response
from partner_rl.evaluation.metric_definitions import METRICS, CorpusMetric, MeanMetric
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
from partner_rl.evaluation.result import Comparison, MetricEstimate, SystemMetrics
from partner_rl.evaluation.system import ORIGINAL
from partner_rl.evaluation.system_scores import SystemScores


@dataclass(frozen=True, slots=True)
class _Cell:
    """A system's metric and its comparison, not yet corrected for the number of systems."""

    estimate: MetricEstimate
    comparison: Comparison | None = None


def measure_systems(
    systems: Sequence[SystemScores], reference: str | None = None, seed: int = 0, *, intervals: bool = True
) -> tuple[SystemMetrics, ...]:
    """Metrics of every system on the same pairs.

    Args:
        systems: Their scores; the originals' among them give the metrics that are relative to these.
        reference: Name of the system to compare the others with; None for no comparisons.
        seed: Decides all resamples.
        intervals: Whether to give every metric its interval: seconds a system, where values alone take milliseconds.
    """
    resampled = _MetricColumns(systems, reference, seed, intervals)
    columns = {metric.key: _corrected(resampled.of(metric)) for metric in METRICS}
    return tuple(
        SystemMetrics(
            name=scores.name,
            metrics={key: column[scores.name].estimate for key, column in columns.items() if scores.name in column},
            comparisons={
                key: comparison
                for key, column in columns.items()
                if scores.name in column and (comparison := column[scores.name].comparison) is not None
            },
        )
        for scores in systems
    )


class _MetricColumns:
    """Estimates and comparisons of all systems, metric by metric."""

    def __init__(self, systems: Sequence[SystemScores], reference: str | None, seed: int, intervals: bool) -> None:
        self._systems, self._seed, self._intervals = systems, seed, intervals
        by_name = {scores.name: scores for scores in systems}
        self._original = by_name.get(ORIGINAL)
        self._against = None if reference is None else by_name.get(reference)
        self._pairs = len(systems[0].requests)
        self._bigrams = min(ngrams_a_response(scores.rewrites, 2) for scores in systems)
        # The first selection is the whole corpus.
        whole_1N = np.ones((1, self._pairs), dtype=np.bool_)
        self._selected_BN = np.concatenate([whole_1N, half_samples(self._pairs, seed)]) if intervals else whole_1N

    def of(self, metric: MeanMetric | CorpusMetric) -> dict[str, _Cell]:
        """System → its cell, where the metric applies."""
        return self._of_mean(metric) if isinstance(metric, MeanMetric) else self._of_corpus(metric)

    def _of_mean(self, metric: MeanMetric) -> dict[str, _Cell]:
        found = {scores.name: metric.values(scores, self._original) for scores in self._systems}
        values = {name: one for name, one in found.items() if one is not None and len(_measured(one))}
        against = values.get(self._against.name) if self._against is not None and metric.compared else None
        cells = {}
        for name, values_N in values.items():
            measured, interval = _measured(values_N), None
            if self._intervals:
                interval = share_interval(measured > 0) if metric.share else mean_interval(measured, self._seed)
            comparison = None
            if against is not None and values_N is not against:
                comparison = self._compared(metric, _measured(values_N - against))
            cells[name] = _Cell(_mean(metric, measured, interval), comparison)
        return cells

    def _compared(self, metric: MeanMetric, differences_N: Floats) -> Comparison | None:
        if not len(differences_N):
            return None
        p = mean_p_value(differences_N, self._seed)
        return Comparison(_mean(metric, differences_N, mean_interval(differences_N, self._seed)), p, p)

    def _of_corpus(self, metric: CorpusMetric) -> dict[str, _Cell]:
        values = {s.name: metric.statistic(s.requests, self._bigrams)(self._selected_BN) for s in self._systems}
        cells = {}
        for scores in self._systems:
            values_B, against = values[scores.name], self._against
            if not math.isfinite(values_B[0]):
                continue
            comparison = None
            if against is not None and scores is not against:
                interleaved = [one for both in zip(scores.requests, against.requests, strict=True) for one in both]
                p = corpus_p_value(metric.statistic(interleaved, self._bigrams), self._pairs, self._seed)
                if p is not None:
                    comparison = Comparison(self._halved(values_B - values[against.name]), p, p)
            cells[scores.name] = _Cell(self._halved(values_B), comparison)
        return cells

    def _halved(self, values_B: Floats) -> MetricEstimate:
        """A metric whose first value is that of the whole corpus, the others, if any, those of half-samples."""
        value = float(values_B[0])
        return MetricEstimate(
            value, half_sample_interval(value, values_B[1:], self._pairs) if self._intervals else None
        )


def _measured(values_N: Floats) -> Floats:
    """The values of the pairs that have one."""
    measured: Floats = values_N[~np.isnan(values_N)]
    return measured


def _mean(metric: MeanMetric, values_N: Floats, interval: Interval | None) -> MetricEstimate:
    """The mean and its interval on the metric's scale; summed exactly, so that the order of the pairs is nothing."""
    value = math.fsum(values_N) / len(values_N)
    if not metric.exponential:
        return MetricEstimate(value, interval)
    ends = None if interval is None else Interval(math.exp(interval.low), math.exp(interval.high))
    return MetricEstimate(math.exp(value), ends)


def _corrected(column: Mapping[str, _Cell]) -> dict[str, _Cell]:
    """The column with its p values corrected for the number of systems."""
    compared = {name: cell.comparison for name, cell in column.items() if cell.comparison is not None}
    corrected = dict(zip(compared, holm([comparison.p for comparison in compared.values()]), strict=True))
    return {
        name: replace(cell, comparison=replace(compared[name], p_holm=corrected[name])) if name in compared else cell
        for name, cell in column.items()
    }
