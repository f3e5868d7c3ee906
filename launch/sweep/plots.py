"""The charts of a sweep's report as PNG files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from pydantic import JsonValue

from partner_rl.plotting import new_canvas, save_png

PARALLEL: Final = "parallel_coordinates.png"
FRONT: Final = "front.png"
_GREY, _BLUE, _RED = "#9a9a9a", "#1f77b4", "#d62728"
_COLUMNS: Final = 3


@dataclass(frozen=True, slots=True)
class Line:
    """A trial as the charts show it: swept key → value, objective → value."""

    values: Mapping[str, JsonValue]
    metrics: Mapping[str, float]
    on_front: bool
    chosen: bool

    @property
    def style(self) -> tuple[str, float, int]:
        """Colour, width and layer."""
        return (_RED, 2.5, 3) if self.chosen else (_BLUE, 1.6, 2) if self.on_front else (_GREY, 0.8, 1)


def draw_charts(lines: Sequence[Line], objectives: Mapping[str, str], folder: Path) -> list[Path]:
    """Draws both charts of at least one trial into a folder, which is made when missing; returns the files."""
    drawn = {PARALLEL: _parallel(lines, objectives), FRONT: _front(lines, objectives)}
    return [save_png(canvas, folder / name) for name, canvas in drawn.items()]


def _parallel(lines: Sequence[Line], objectives: Mapping[str, str]) -> Canvas:
    """An upright axis a swept key and objective, a line a trial; of an objective the better end is above."""
    keys = list(lines[0].values)
    canvas = new_canvas(1.3 * (len(keys) + len(objectives)) + 2.0, 5.0)
    axes = canvas.add_subplot()
    columns = [_numbers([line.values[key] for line in lines]) for key in keys]
    columns += [np.array([line.metrics[metric] for line in lines]) for metric in objectives]
    heights = np.stack([_scaled(column) for column in columns], axis=1)
    for place, better in enumerate(objectives.values(), start=len(keys)):
        if better == "min":
            heights[:, place] = 1.0 - heights[:, place]
        _ends(axes, place, columns[place], turned=better == "min")
    for place, key in enumerate(keys):
        _ends(axes, place, columns[place], labels=[_text(line.values[key]) for line in lines])
    for line, height in zip(lines, heights, strict=True):
        colour, width, layer = line.style
        axes.plot(range(len(columns)), height, color=colour, linewidth=width, zorder=layer, alpha=0.85)
    names = [key.removeprefix("rewards.") for key in keys] + [metric.replace("_", " ") for metric in objectives]
    axes.set_xticks(range(len(columns)), names, rotation=20, ha="right", fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(-0.12, 1.12)
    for place in range(len(columns)):
        axes.axvline(place, color="black", linewidth=0.6, zorder=0)
    return canvas


def _ends(axes: Axes, place: int, column: np.ndarray, *, turned: bool = False, labels: Sequence[str] = ()) -> None:
    """What both ends of an axis stand for."""
    low, high = int(column.argmin()), int(column.argmax())
    texts = [labels[i] if labels else f"{column[i]:.3g}" for i in (low, high)]
    for height, text in zip((-0.07, 1.03), reversed(texts) if turned else texts, strict=True):
        axes.text(place, height, text, ha="center", fontsize=7)


def _front(lines: Sequence[Line], objectives: Mapping[str, str]) -> Canvas:
    """A point a trial, for each two objectives."""
    pairs = list(combinations(objectives, 2)) or [(next(iter(objectives)),) * 2]
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    canvas = new_canvas(4.0 * columns, 3.4 * rows)
    grid = canvas.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place < len(pairs):
            _scatter(axes, lines, objectives, *pairs[place])
        else:
            axes.set_axis_off()
    return canvas


def _scatter(axes: Axes, lines: Sequence[Line], objectives: Mapping[str, str], x: str, y: str) -> None:
    for line in lines:
        colour, width, layer = line.style
        marker, size = ("*", 130.0) if line.chosen else ("o", 22.0 * width)
        axes.scatter(line.metrics[x], line.metrics[y], s=size, color=colour, zorder=layer, marker=marker)
    for setter, metric in ((axes.set_xlabel, x), (axes.set_ylabel, y)):
        setter(f"{metric.replace('_', ' ')} {'↑' if objectives[metric] == 'max' else '↓'}", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(visible=True, alpha=0.3)


def _numbers(values: Sequence[JsonValue]) -> np.ndarray:
    """Values as heights: numbers as they are, anything else by its place among the different ones."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return np.array(values, dtype=np.float64)
    names = list(dict.fromkeys(_text(value) for value in values))
    return np.array([names.index(_text(value)) for value in values], dtype=np.float64)


def _text(value: JsonValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _scaled(column: np.ndarray) -> np.ndarray:
    spread = np.ptp(column)
    scaled: np.ndarray = (column - column.min()) / spread if spread > 0 else np.full(len(column), 0.5)
    return scaled
