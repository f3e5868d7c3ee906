"""What an evaluation shows on the terminal: tables and some rewrites."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import islice
from typing import Final, Protocol

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from envs.rewriting import Edit
from partner_rl.evaluation.tables import TextTable
from partner_rl.types import ScoreRequest

INSERTED: Final = "bold green"
"""Style of a sentence that the policy wrote."""
STRUCK: Final = "red strike"
"""Style of the supporter's sentence that it replaced."""


class ShownRewrite(Protocol):
    """What is shown of a rewrite; `partner_rl.rewriter.Rewrite` has it."""

    @property
    def request(self) -> ScoreRequest:
        """The rewritten response and its sentences."""
        ...

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Its net edits in reading order."""
        ...


def printed_table(content: TextTable) -> Table:
    """A table of texts for the terminal; markup in its cells is plain text here."""
    table = Table(title=content.title, caption=content.note or None)
    for place, column in enumerate(content.columns):
        table.add_column(Text(column), justify="left" if place == 0 else "right")
    for row in content.rows:
        # Intervals below their values: beside them they would not fit.
        table.add_row(*(Text(value.replace(" [", "\n[")) for value in row))
    return table


def print_rewrites(rewrites: Sequence[ShownRewrite], console: Console, limit: int = 5) -> None:
    """Prints the first rewrites: generated sentences in green, those that they replaced struck out in red.

    Unchanged responses are passed over while there are enough others.
    """
    edited_first = sorted(rewrites, key=lambda rewrite: not rewrite.edits)
    for number, rewrite in enumerate(islice(edited_first, limit), start=1):
        seeker = Text(_printable(rewrite.request.seeker_post.strip()), style="dim")
        console.print(Panel(Group(seeker, Rule(style="dim"), marked_response(rewrite)), title=f"rewrite {number}"))


def marked_response(rewrite: ShownRewrite) -> Text:
    """The rewritten response with its edits marked; markup in a post is plain text here."""
    request = rewrite.request
    edits = {edit.sentence_index: edit for edit in rewrite.edits}
    own = iter(request.other_sentences)
    marked, rest = Text(), request.rewritten_response
    for index in range(len(request.candidates) + len(request.other_sentences)):
        edit = edits.get(index)
        sentence = next(own) if edit is None else edit.sentence
        gap, _, rest = rest.partition(sentence)
        marked.append(_printable(gap))
        if edit is not None and edit.replaced is not None:
            marked.append(_printable(edit.replaced), STRUCK).append(" ")
        marked.append(_printable(sentence), "" if edit is None else INSERTED)
    marked.append(_printable(rest))
    return marked


def _printable(post: str) -> str:
    """The text without control characters: a post must not steer the terminal."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" else char for char in post)
