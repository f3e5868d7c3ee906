"""How a sentence is written, whatever it is about: case, punctuation, contractions, length, who is spoken of.

Two sentences of one writer agree in these more often than two of different writers, and an uncased encoder sees few of
them. All features lie between 0 and about 2, so that they need no fitted scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_SMALL_I: Final = re.compile(r"\bi\b")
_LARGE_I: Final = re.compile(r"\bI\b")
_BARE_CONTRACTION: Final = re.compile(r"\b(?:im|ive|dont|cant|wont|youre|didnt|doesnt|isnt|its|thats)\b", re.IGNORECASE)
_SHORTHAND: Final = re.compile(r"\b(?:u|ur|r|ya|gonna|wanna|lol|idk)\b", re.IGNORECASE)
_FIRST_PERSON: Final = re.compile(r"\b(?:i|me|my|mine|myself)\b", re.IGNORECASE)
_SECOND_PERSON: Final = re.compile(r"\byou", re.IGNORECASE)

NUM_FEATURES: Final = 19
"""Features of a sentence."""


def style_features(sentence: str) -> tuple[float, ...]:
    """The sentence's `NUM_FEATURES` features."""
    text = sentence.strip()
    letters = [character for character in text if character.isalpha()]
    words = max(1, len(text.split()))
    last = text[-1:]
    return (
        float(text[:1].isupper()),
        float(text[:1].islower()),
        sum(letter.isupper() for letter in letters) / max(1, len(letters)),
        # Log, as a word more or less says little in a long sentence.
        math.log1p(min(words, 1000)) / 3,
        float(last == "."),
        float(last == "!"),
        float(last == "?"),
        float(last not in (".", "!", "?")),
        float(_SMALL_I.search(text) is not None),
        float(_LARGE_I.search(text) is not None),
        float("’" in text),
        float("'" in text),
        float(_BARE_CONTRACTION.search(text) is not None),
        float(_SHORTHAND.search(text) is not None),
        text.count(",") / words,
        float(".." in text or "…" in text),
        float("\n" in text),
        float(_SECOND_PERSON.search(text) is not None),
        float(_FIRST_PERSON.search(text) is not None),
    )


def style_matrix(sentences: Sequence[str], device: torch.device) -> Tensor:
    """The features of several sentences, `[B, NUM_FEATURES]`."""
    rows = [style_features(sentence) for sentence in sentences]
    return torch.tensor(rows, dtype=torch.float32, device=device).reshape(len(rows), NUM_FEATURES)
