"""Invented experience: how many rewrites tell of a life that the system has not had, as far as rules find it?"""

from __future__ import annotations

from collections.abc import Sequence

from partner_rl.self_disclosure import speaks_of_itself


def discloses(written: Sequence[str]) -> bool:
    """Whether one of the sentences that were written into a response speaks of its writer, by rules."""
    return any(map(speaks_of_itself, written))


def share_disclosing(written: Sequence[Sequence[str]]) -> float:
    """The share of responses with such a sentence.

    Args:
        written: The sentences that were written into each response, at least one response.
    """
    return sum(map(discloses, written)) / len(written)
