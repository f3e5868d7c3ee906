"""Which pairs are of no use for training, whatever they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from partner_rl.data.readers import DEFAULT_MAX_CHARACTERS

NOT_TEXT: Final = "not_text"
TOO_SHORT: Final = "too_short"
TOO_LONG: Final = "too_long"

REASONS: Final = (NOT_TEXT, TOO_SHORT, TOO_LONG)
"""Why a post is of no use, in the order in which it is checked."""

_REPLACEMENT: Final = "\ufffd"
"""What decoders leave where bytes were no text."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Lengths of a post that can be used."""

    min_words: int = 2
    max_characters: int = DEFAULT_MAX_CHARACTERS


def why_unusable(post: str, limits: Limits) -> str | None:
    """One of `REASONS`, or None for a post that can be used.

    A post is no text if it holds a NUL or a character that could not be decoded, or not one letter.
    """
    if len(post) > limits.max_characters:
        return TOO_LONG
    if "\0" in post or _REPLACEMENT in post or not any(map(str.isalpha, post)):
        return NOT_TEXT
    if len(post.split(None, limits.min_words)) < limits.min_words:
        return TOO_SHORT
    return None
