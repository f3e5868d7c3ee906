"""Tables and texts in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_BAR: Final = "\\|"


def markdown_table(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table without a line end. Cells are Markdown, each on one line, and a bar in one does not end it."""
    return "\n".join([_line(columns), "|" + "---|" * len(columns), *map(_line, rows)])


def plain_markdown(text: str) -> str:
    """A text as Markdown that shows its characters: nothing in it is taken for markup or HTML."""
    for char in "\\*_`<":
        text = text.replace(char, f"\\{char}")
    # A link needs a bracket and a parenthesis; an interval's brackets stay as they are.
    return text.replace("](", "]\\(")


def interval_text(low: float, high: float) -> str:
    """The ends of an interval, to two digits."""
    return f"{low:.2f}–{high:.2f}"


def _line(cells: Iterable[object]) -> str:
    one_line = (re.sub(r"\s*[\r\n]\s*", " ", str(cell)) for cell in cells)
    return f"| {' | '.join(cell.replace('|', _BAR) for cell in one_line)} |"
