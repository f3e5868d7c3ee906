"""The action space's first half: where an edit goes in a window of `k` sentences.

The `2k+2` positions are numbered: `0…k` insert before sentence `i` (`k`: after the last place), `k+1…2k` replace
sentence `i-k-1`, `2k+1` leaves the window alone (PARTNER, section 4.2). In a window that holds only `n < k` sentences,
inserting beyond place `n` and replacing beyond sentence `n-1` is masked out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

PositionRule = Literal["all", "end"]
"""Which positions there are: all of them, or only the place after the window's last sentence (an ablation)."""


class PositionKind(StrEnum):
    """What an edit does."""

    INSERT = "insert"
    REPLACE = "replace"
    NOOP = "noop"


@dataclass(frozen=True, slots=True)
class Position:
    """A decoded position.

    Attributes:
        index: The gap (insert, 0…n) or sentence (replace, 0…n-1) of the window; 0 for the no-op.
    """

    kind: PositionKind
    index: int = 0


def num_positions(window: int) -> int:
    """The number of positions, `2k+2`, of a window of `k` sentences."""
    return 2 * window + 2


def noop_position(window: int) -> int:
    """The number of the position that leaves a window of `k` sentences alone."""
    return 2 * window + 1


def decode_position(position: int, window: int) -> Position:
    """What a position number means in a window of `k` sentences.

    Raises:
        ValueError: The number is outside `0…2k+1`.
    """
    if not 0 <= position < num_positions(window):
        raise ValueError(f"position {position} is outside 0…{num_positions(window) - 1} (window of {window} sentences)")
    if position == noop_position(window):
        return Position(PositionKind.NOOP)
    if position <= window:
        return Position(PositionKind.INSERT, position)
    return Position(PositionKind.REPLACE, position - window - 1)


def encode_position(position: Position, window: int) -> int:
    """The number of a position; the inverse of `decode_position`.

    Raises:
        ValueError: The gap or sentence does not exist in a window of `k` sentences.
    """
    if position.kind is PositionKind.NOOP:
        return noop_position(window)
    limit = window if position.kind is PositionKind.INSERT else window - 1
    if not 0 <= position.index <= limit:
        raise ValueError(f"{position.kind} at {position.index} does not exist in a window of {window} sentences")
    return position.index if position.kind is PositionKind.INSERT else window + 1 + position.index


def position_mask(num_sentences: int, window: int, rule: PositionRule = "all") -> npt.NDArray[np.bool_]:
    """Which positions are valid, shape `[2k+2]`, for a window that holds `num_sentences` of at most `k` sentences.

    By the rule `end` a sentence is inserted after the last one; neither another place nor the no-op can be chosen.

    Raises:
        ValueError: `num_sentences` is outside `0…k`.
    """
    if not 0 <= num_sentences <= window:
        raise ValueError(f"a window of {window} sentences cannot hold {num_sentences}")
    mask = np.zeros(num_positions(window), dtype=np.bool_)
    if rule == "end":
        mask[num_sentences] = True
        return mask
    mask[: num_sentences + 1] = True
    mask[window + 1 : window + 1 + num_sentences] = True
    mask[noop_position(window)] = True
    return mask
