"""How the metrics see the words of a text."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def content_words(text: str) -> tuple[str, ...]:
    """The words of a text, case folded, without punctuation; a contraction such as "don't" is one word.

    Both apostrophes, `'` and `’`, count as the same, so that a keyboard does not make a word distinct.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(word.replace("’", "'") for word in _WORD.findall(folded))


def spaced_words(text: str) -> tuple[str, ...]:
    """The words of a text as white space separates them, case and punctuation kept: what an edit changes."""
    return tuple(text.split())
