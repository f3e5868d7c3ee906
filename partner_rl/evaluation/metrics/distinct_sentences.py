"""Distinct sentences: does the policy write new sentences or one template?"""

from __future__ import annotations

from collections.abc import Sequence

from partner_rl.evaluation.metrics.words import content_words


def sentence_key(sentence: str) -> str:
    """What makes two sentences the same: their words without case and punctuation, or the text when it has no words."""
    return " ".join(content_words(sentence)) or sentence.strip()


def distinct_sentences(sentences: Sequence[str]) -> float | None:
    """The number of different sentences over the number of sentences that were inserted or replaced in.

    Returns:
        A share in (0, 1], or None when no sentence was written: a system without edits is neither varied nor not.
    """
    if not sentences:
        return None
    return len({sentence_key(sentence) for sentence in sentences}) / len(sentences)
