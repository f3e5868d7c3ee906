"""Training curves as PNG files, from a run's `metrics.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from launch.run_folder.reader import Row
from partner_rl import metric_names as names
from partner_rl.plotting import new_canvas, save_png


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart; every metric that matches one of the shell-style patterns (`reward/*`) is a curve in it."""

    file_name: str
    title: str
    y_label: str
    patterns: tuple[str, ...]
    x_label: str = "iteration"


PANELS: Final = (
    Panel("reward.png", "Reward", "reward (points)", (names.REWARD_TOTAL,)),
    Panel("reward_raw.png", "Reward components", "score (as each defines it)", (names.reward_raw("*"),)),
    Panel("reward_weighted.png", "Weighted reward components", "reward (points)", (names.reward_weighted("*"),)),
    Panel(
        "reward_normalised.png",
        "Normalised reward components",
        "value (standard deviations)",
        (names.reward_normalised("*"),),
    ),
    Panel("reward_spread.png", "What decides the update", "spread in a group (points)", (names.reward_spread("*"),)),
    Panel("reward_weight.png", "Scheduled weights", "weight", (names.reward_weight("*"),)),
    Panel("empathy.png", "Change in empathy", "change of level (points)", (names.reward_detail("empathy/*"),)),
    Panel("kl.png", "Distance from the warm start", "KL divergence (nats per token)", (names.POLICY_KL,)),
    Panel(
        "entropy.png",
        "Entropy",
        "entropy (nats)",
        (names.POLICY_POSITION_ENTROPY, names.POLICY_SENTENCE_ENTROPY),
    ),
    Panel("ratio.png", "Importance ratios", "ratio or share", (names.TRAIN_RATIO, names.TRAIN_CLIP_FRACTION)),
    Panel("distinct.png", "Distinct generated sentences", "share (0 to 1)", (names.POLICY_DISTINCT_SENTENCES,)),
    Panel("time.png", "Time of an iteration", "time (s)", (f"{names.TIME}*",)),
)
"""The charts of a training run."""


def plot_curves(rows: Sequence[Row], folder: Path, panels: Sequence[Panel] = PANELS) -> list[Path]:
    """Draws each panel that has data into a folder, which is made when missing.

    Returns:
        The written files; a panel without any matching metric is not written.
    """
    written = []
    for panel in panels:
        curves = {key: _points(rows, key) for key in _matching_keys(rows, panel.patterns)}
        curves = {key: points for key, points in curves.items() if points}
        if curves:
            path = folder / panel.file_name
            _draw(panel, curves, path)
            written.append(path)
    return written


def _matching_keys(rows: Iterable[Row], patterns: Sequence[str]) -> list[str]:
    keys = {key for row in rows for key in row}
    return sorted(key for key in keys if any(fnmatchcase(key, pattern) for pattern in patterns))


def _points(rows: Iterable[Row], key: str) -> list[tuple[float, float]]:
    pairs = ((row.get(names.STEP), row.get(key)) for row in rows)
    return [(float(x), float(y)) for x, y in pairs if _is_number(x) and _is_number(y)]  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _draw(panel: Panel, curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    figure = new_canvas(7.0, 4.0)
    axes = figure.add_subplot()
    for key, points in curves.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker=".", linewidth=1.2, label=key)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="x-small")
    save_png(figure, path)
