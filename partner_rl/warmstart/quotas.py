"""How many examples of each kind a balanced data set takes, from counts alone.

A corpus of millions of responses gives more examples than fit in memory. Their counts do: an example belongs to a
cell, and each cell gets a quota, which a stream of examples is then thinned out to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from partner_rl.positions import PositionKind
from partner_rl.warmstart.balance import even_shares, grouped
from partner_rl.warmstart.pairs import REPLACE_SHARE

CELL_RATIO: Final = 4
"""Without a limit, a cell gives at most this many times the median cell of its kind."""

MECHANISM_RATIO: Final = 2
"""Without a limit, a mechanism gives at most this many times what the rarest mechanism of the kind gives."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """What examples are balanced by.

    Attributes:
        mechanism: What the sentence carries; "" for a no-op.
        position: The position's number; those of no-ops are alike.
    """

    kind: PositionKind
    mechanism: str
    position: int


def balanced_quotas(available: Mapping[Cell, int], max_examples: int | None, noop_fraction: float) -> dict[Cell, int]:
    """How many examples of each cell to take.

    Mechanisms are made as even as they allow, then the positions within each. `REPLACE_SHARE` of the edits replace,
    as far as there are such. With a limit, the quotas fill it where the corpus suffices; without one, they follow
    `CELL_RATIO` and `MECHANISM_RATIO`.
    """
    inserts = _of_kind(available, PositionKind.INSERT)
    replaces = _of_kind(available, PositionKind.REPLACE)
    noops = _of_kind(available, PositionKind.NOOP)
    if noop_fraction == 1.0:
        return _shared(noops, sum(noops.values()) if max_examples is None else max_examples)
    if max_examples is None:
        inserts, replaces = _capped(inserts), _capped(replaces)
    wanted = sum(inserts.values()) + sum(replaces.values())
    if max_examples is not None:
        wanted = min(wanted, round(max_examples * (1.0 - noop_fraction)))
    chosen = _shared(inserts, wanted - min(sum(replaces.values()), round(REPLACE_SHARE * wanted)))
    edits = sum(chosen.values())
    beside = min(round(edits * REPLACE_SHARE / (1.0 - REPLACE_SHARE)), wanted - edits)
    chosen |= _shared(replaces, beside)
    edits = sum(chosen.values())
    unedited = round(edits * noop_fraction / (1.0 - noop_fraction))
    # Both numbers are rounded: together they may be more than the limit.
    return chosen | _shared(noops, unedited if max_examples is None else min(unedited, max_examples - edits))


def _of_kind(available: Mapping[Cell, int], kind: PositionKind) -> dict[Cell, int]:
    return {cell: available[cell] for cell in sorted(available) if cell.kind is kind and available[cell] > 0}


def _shared(available: Mapping[Cell, int], total: int) -> dict[Cell, int]:
    """A total shared out evenly over mechanisms, then over each one's cells."""
    groups = grouped(available, key=lambda cell: cell.mechanism)
    totals = even_shares([sum(available[cell] for cell in group) for group in groups], total)
    shares: dict[Cell, int] = {}
    for group, share in zip(groups, totals, strict=True):
        shares |= zip(group, even_shares([available[cell] for cell in group], share), strict=True)
    return shares


def _capped(available: Mapping[Cell, int]) -> dict[Cell, int]:
    """What is left under the two ratios."""
    if not available:
        return {}
    limit = int(CELL_RATIO * median(available.values()))
    capped = {cell: min(count, limit) for cell, count in available.items()}
    groups = grouped(capped, key=lambda cell: cell.mechanism)
    most = MECHANISM_RATIO * min(sum(capped[cell] for cell in group) for group in groups)
    kept: dict[Cell, int] = {}
    for group in groups:
        counts = [capped[cell] for cell in group]
        kept |= zip(group, even_shares(counts, min(sum(counts), most)), strict=True)
    return kept
