"""Words, their n-grams, and hashes of these that are the same in every process."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")
_HASH_BYTES: Final = 6
"""A million different pairs collide about twice."""


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, case folded, without punctuation; a contraction such as "don't" is one word.

    Both apostrophes, `'` and `’`, count as the same, so that a keyboard does not make a word distinct.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(word.replace("’", "'") for word in _WORD.findall(folded))


def ngrams(words: tuple[str, ...], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words, in order."""
    return [words[i : i + n] for i in range(len(words) - n + 1)]


def stable_hash(words: Iterable[str]) -> int:
    """A hash that can be saved and compared later; Python's own changes from process to process."""
    joined = "\0".join(words).encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=_HASH_BYTES).digest(), "big")
