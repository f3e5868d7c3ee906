"""The canvas that every chart is drawn on, without pyplot's global state, and how it becomes a file."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from partner_rl.storage.atomic import file_when_whole


def new_canvas(width: float, height: float) -> Figure:
    """An empty figure; width and height in inches."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path) -> Path:
    """Writes the figure, which is whole under its final name or not there; returns the path."""
    with file_when_whole(path) as file:
        figure.savefig(file, format="png")
    return path
