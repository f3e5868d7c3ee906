"""The window around an edit: what a scorer reads of an original and its rewrite when they are too long for it.

Both windows hold what differs, with the same words of what the two have in common around it: those nearest to the edit,
as many as fit. So a difference in score is about the edit alone. Texts that fit are read whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Final

from rewards.batching import common_prefix

Fits = Callable[[str], bool]
"""Whether a text is short enough to be read whole."""

Edit = tuple[range, range]
"""The words of the original that an edit takes out, and those of the rewrite that it puts in; either may be none."""

_UNIT: Final = re.compile(r"\S{1,16}\s*|\s+")
"""A word with the white space after it; a long one in parts, as some scripts put no space between words."""
_SHORT_RUN: Final = 8
"""Fewer words in a row that an edit leaves alone are chance, not context: they belong to the edit."""
_OMISSION: Final = " … "
"""Stands for the words between two edits that are left out."""


def window(original: str, rewritten: str, fits: Fits) -> tuple[str, str]:
    """Cut an original and its rewrite to the same window around what differs.

    Of edits too far apart for one window each has its own, and the words between them are left out. Where what differs
    does not fit by itself, as in a long response that was written anew, the beginnings are read.

    Args:
        original: A response.
        rewritten: The response after any number of edits.
        fits: Whether a text can be read whole; what is left of a text that fits must fit, too.

    Returns:
        The two texts as they are if both fit; else a window of each, both of which fit.
    """
    if fits(original) and fits(rewritten):
        return original, rewritten
    units = (_UNIT.findall(original), _UNIT.findall(rewritten))
    first, second = ([unit.strip() for unit in text] for text in units)
    whole = _hull(first, second)
    found = _widest(units, [whole], fits) or _widest(units, _parts(first, second, whole), fits)
    return found or (_beginning(original, fits), _beginning(rewritten, fits))


def _widest(units: tuple[list[str], list[str]], edits: Sequence[Edit], fits: Fits) -> tuple[str, str] | None:
    """Both texts with as many words around the edits as fit, or None if the edits do not."""
    if not edits:
        return None
    first, second = (
        [_distance(word, [edit[side] for edit in edits]) for word in range(len(text))]
        for side, text in enumerate(units)
    )

    def around(radius: int) -> tuple[str, str]:
        return _near(units[0], first, radius), _near(units[1], second, radius)

    radius = _largest(max(first + second), lambda r: all(map(fits, around(r))))
    return around(radius) if radius >= 0 else None


def _hull(first: Sequence[str], second: Sequence[str]) -> Edit:
    """The one edit that turns the first words into the second.

    Where it could stand in several places ("no no" with a "no" more) it covers them all, so that the sentence which was
    really written is inside.
    """
    before = common_prefix(first, second)
    after = common_prefix(first[::-1], second[::-1])
    shared_twice = max(0, before + after - min(len(first), len(second)))
    start, rest = before - shared_twice, after - shared_twice
    return range(start, len(first) - rest), range(start, len(second) - rest)


def _parts(first: Sequence[str], second: Sequence[str], whole: Edit) -> list[Edit]:
    """The edits within an edit, where longer passages between them are the same."""
    old, new = (words[r.start : r.stop] for words, r in zip((first, second), whole, strict=True))
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    edits = []
    i, j = 0, 0
    for block in blocks:
        last = block.size == 0
        if block.size < _SHORT_RUN and not last:
            continue
        if (block.a, block.b) != (i, j):
            start_a, start_b = whole[0].start, whole[1].start
            edits.append((range(start_a + i, start_a + block.a), range(start_b + j, start_b + block.b)))
        i, j = block.a + block.size, block.b + block.size
    return edits


def _distance(word: int, edits: Sequence[range]) -> int:
    """Words from a word to the nearest edit; 0 within one."""
    return min(max(edit.start - word, word - edit.stop + 1, 0) for edit in edits)


def _near(units: Sequence[str], distances: Sequence[int], radius: int) -> str:
    """What is at most `radius` words from an edit."""
    passages: list[str] = []
    open_passage = False
    for unit, distance in zip(units, distances, strict=True):
        if distance > radius:
            open_passage = False
        elif open_passage:
            passages[-1] += unit
        else:
            passages.append(unit)
            open_passage = True
    return _OMISSION.join(passage.strip() for passage in passages)


def _beginning(text: str, fits: Fits) -> str:
    return text[: max(0, _largest(len(text), lambda length: fits(text[:length])))]


def _largest(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest of 0…limit for which `holds`, which then holds below it, too; -1 for none. By bisection."""
    low, high = -1, limit
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
