"""The observation and action spaces of empathic rewriting."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from gymnasium import spaces

from partner_rl.positions import num_positions

MAX_TEXT_CHARACTERS: Final = 1_000_000
"""Longest text that the spaces contain, in characters."""

_SAMPLE_WORDS: Final = (
    "i",
    "you",
    "feel",
    "hear",
    "hope",
    "sorry",
    "alone",
    "better",
    "today",
    "please",
    "tell",
    "more",
)
_SAMPLE_MAX_WORDS: Final = 12


class UnicodeText(spaces.Space[str]):
    """Any string up to a length, the empty one included; `gymnasium.spaces.Text` would need a finite set of characters.

    Samples are a few English words, which is all that a random policy or a check needs.
    """

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        """Make the space.

        Raises:
            ValueError: `max_length` is negative.
        """
        if max_length < 0:
            raise ValueError(f"max_length must not be negative, and is {max_length}")
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: texts have no fixed number of numbers."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> str:
        """One to twelve random words, cut to `max_length` characters.

        Args:
            mask: Not supported; present because containers such as `Dict` hand it on.
            probability: Not supported; as `mask`.

        Raises:
            ValueError: A mask or probabilities were given.
        """
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText has no set of characters to mask: pass None for the text")
        count = self.np_random.integers(1, _SAMPLE_MAX_WORDS + 1)
        return " ".join(self.np_random.choice(_SAMPLE_WORDS, size=count).tolist())[: self.max_length]

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string of at most `max_length` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        """The constructor call."""
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object) -> bool:
        """Equal to another `UnicodeText` of the same length."""
        return isinstance(other, UnicodeText) and self.max_length == other.max_length


def observation_space(window: int) -> spaces.Dict:
    """Seeker's post, the window's `k` sentences padded with "", and the valid positions, shape `[2k+2]`."""
    return spaces.Dict(
        {
            "seeker_post": UnicodeText(MAX_TEXT_CHARACTERS),
            "span": spaces.Tuple([UnicodeText(MAX_TEXT_CHARACTERS) for _ in range(window)]),
            "position_mask": spaces.MultiBinary(num_positions(window)),
        }
    )


def action_space(window: int) -> spaces.Dict:
    """One of `2k+2` positions and a sentence.

    Valid actions alone are drawn by `sample(mask={"position": observation["position_mask"], "sentence": None})`.
    """
    return spaces.Dict(
        {
            "position": spaces.Discrete(num_positions(window)),
            "sentence": UnicodeText(MAX_TEXT_CHARACTERS),
        }
    )
