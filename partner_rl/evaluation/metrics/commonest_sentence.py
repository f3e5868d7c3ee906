"""Commonest sentence: how much of the writing is the single most repeated sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from partner_rl.evaluation.metrics.distinct_sentences import sentence_key


def commonest_sentence(sentences: Sequence[str]) -> float | None:
    """The share of the written sentences that are the most frequent one, case and punctuation aside.

    It shows a collapse into one template that a share of distinct sentences still hides.

    Returns:
        A share in (0, 1], or None when no sentence was written.
    """
    if not sentences:
        return None
    counts = Counter(sentence_key(sentence) for sentence in sentences)
    return counts.most_common(1)[0][1] / len(sentences)
