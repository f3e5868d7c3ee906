"""The charts of an evaluation's report as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from partner_rl.evaluation.metric_definitions import METRICS, Metric
from partner_rl.evaluation.resampling import Floats
from partner_rl.evaluation.result import EvaluationResult, Group, MetricEstimate, SystemMetrics
from partner_rl.evaluation.system import policy_of
from partner_rl.plotting import new_canvas, save_png

CHARTS: Final[Mapping[str, str]] = {
    "metrics.png": "Every metric with its 95 % interval; ↑ higher is better, ↓ lower is better.",
    "adaptability.png": "Change in empathy by the empathy of the original response, with 95 % intervals.",
    "trade_off.png": "Change in empathy against variety and specificity: one point a system, with 95 % intervals; "
    "a line joins the temperatures of a policy.",
    "histogram.png": "Share of responses by their change in empathy.",
}
"""File name → caption, in the order of the report."""

_COLUMNS: Final = 4
_BINS: Final = np.arange(-6.25, 6.5, 0.5)
_COLOURS: Final = ("#7f7f7f", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf")
_TRADE_OFFS: Final = ("distinct_2", "specificity")


def draw_charts(result: EvaluationResult, folder: Path) -> list[Path]:
    """Draws the charts of a report.

    Returns:
        The written files, in the order of `CHARTS`.
    """
    drawn = (_metrics(result), _adaptability(result), _trade_off(result), _histogram(result))
    return [save_png(canvas, folder / name) for canvas, name in zip(drawn, CHARTS, strict=True)]


def _metrics(result: EvaluationResult) -> Canvas:
    """One small bar chart a metric."""
    metrics = result.headline.metrics
    names = [system.name for system in result.headline.systems]
    rows = -(-len(metrics) // _COLUMNS)
    canvas = new_canvas(3.6 * _COLUMNS, rows * (0.9 + 0.24 * len(names)))
    grid = canvas.subplots(rows, _COLUMNS, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place < len(metrics):
            _bars(axes, metrics[place], result.headline, names if place % _COLUMNS == 0 else [""] * len(names))
        else:
            axes.set_axis_off()
    return canvas


def _bars(axes: Axes, metric: Metric, group: Group, names: Sequence[str]) -> None:
    for place, system in enumerate(group.systems):
        estimate = system.metrics.get(metric.key)
        if estimate is not None:
            axes.barh(place, estimate.value, color=_colour(place), alpha=0.8, xerr=_error(estimate), capsize=2)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title(metric.title, fontsize=9)
    axes.grid(visible=True, axis="x", alpha=0.3)


def _adaptability(result: EvaluationResult) -> Canvas:
    """A curve a system: the original's level → change in empathy."""
    canvas = new_canvas(7.5, 4.5)
    axes = canvas.add_subplot()
    levels = [(level, group) for level in range(7) if (group := result.group(f"level_{level}")) is not None]
    systems = result.headline.systems
    for place, system in enumerate(systems):
        points = [
            (level, estimate)
            for level, group in levels
            if (estimate := group.estimate(system.name, "change_in_empathy"))
        ]
        # Side by side, so that intervals of one level do not hide each other.
        x = [level + 0.06 * (place - (len(systems) - 1) / 2) for level, _ in points]
        y = [estimate.value for _, estimate in points]
        error = np.hstack([_error(estimate) for _, estimate in points]) if points else None
        axes.errorbar(x, y, yerr=error, marker="o", markersize=4, capsize=2, color=_colour(place), label=system.name)
    axes.set_xticks([level for level, _ in levels], [f"{level}\n({group.pairs})" for level, group in levels])
    axes.set_xlabel("empathy of the original response (number of pairs)")
    axes.set_ylabel("change in empathy (points)")
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="x-small")
    return canvas


def _trade_off(result: EvaluationResult) -> Canvas:
    """A point a system: change in empathy against variety, and against specificity."""
    canvas = new_canvas(10.0, 4.5)
    grid = canvas.subplots(1, len(_TRADE_OFFS), squeeze=False)
    labels = {metric.key: metric.title for metric in METRICS}
    for axes, key in zip(grid.flat, _TRADE_OFFS, strict=True):
        for curve in _curves(result.headline.systems):
            axes.plot(
                [system.metrics[key].value for system in curve],
                [system.metrics["change_in_empathy"].value for system in curve],
                color="#7f7f7f",
                linewidth=0.8,
                zorder=0,
            )
        for place, system in enumerate(result.headline.systems):
            x, y = system.metrics[key], system.metrics["change_in_empathy"]
            colour = _colour(place)
            axes.errorbar(x.value, y.value, _error(y), _error(x), fmt="o", color=colour, capsize=2, label=system.name)
        axes.set_xlabel(labels[key])
        axes.set_ylabel(labels["change_in_empathy"])
        axes.grid(visible=True, alpha=0.3)
    # Names beside the points would hide one another where systems are close.
    canvas.legend(*canvas.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return canvas


def _curves(systems: Sequence[SystemMetrics]) -> list[list[SystemMetrics]]:
    """The systems that are one policy at several temperatures, in their order."""
    curves: dict[str, list[SystemMetrics]] = {}
    for system in systems:
        curves.setdefault(policy_of(system.name), []).append(system)
    return [curve for curve in curves.values() if len(curve) > 1]


def _histogram(result: EvaluationResult) -> Canvas:
    """Outlines of the distribution of the change in empathy."""
    canvas = new_canvas(7.5, 4.5)
    axes = canvas.add_subplot()
    pairs = int(result.headline_N.sum())
    for place, scores in enumerate(result.scores):
        changes_N = scores.change_NM.sum(axis=1)[result.headline_N]
        weights_N = np.full(pairs, 1 / pairs)
        axes.hist(changes_N, list(_BINS), weights=weights_N, histtype="step", color=_colour(place), label=scores.name)
    axes.set_xlabel("change in empathy (points)")
    axes.set_ylabel("share of responses")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="x-small")
    return canvas


def _error(estimate: MetricEstimate) -> Floats:
    """Distances from a value to the ends of its interval, shape `[2, 1]`; 0 without one."""
    if estimate.interval is None:
        return np.zeros((2, 1))
    low, high = estimate.value - estimate.interval.low, estimate.interval.high - estimate.value
    return np.array([[max(0.0, low)], [max(0.0, high)]])


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
