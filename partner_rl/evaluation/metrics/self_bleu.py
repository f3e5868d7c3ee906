"""Self-BLEU: how much the responses resemble each other (Zhu et al., SIGIR 2018, "Texygen")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from partner_rl.evaluation.metrics.words import content_words

REFERENCES: Final = 50
"""Other responses that each one is compared with: the work grows with the pairs and not with their square."""


def self_bleu(responses_N: Sequence[str], seed: int = 0) -> list[float]:
    """BLEU-4 of each response against others of the same system, in [0, 1]; high means that all sound alike.

    Words are compared without case and punctuation, as for distinct-n. BLEU is sacrebleu's, with effective order and
    its exponential smoothing, so that a response of fewer than four words has a score too.

    Args:
        responses_N: The system's responses, in the order of the pairs that all systems share.
        seed: Decides which other pairs are compared with; the same for all systems.

    Returns:
        One score a response; 0 for the only one and for a response without words.
    """
    texts = [" ".join(content_words(response)) for response in responses_N]
    order = np.random.default_rng(seed).permutation(len(texts))
    count = min(REFERENCES, len(texts) - 1)
    bleu = BLEU(tokenize="none", effective_order=True)
    scores = [0.0] * len(texts)
    for place, row in enumerate(order):
        # The next ones on a circle in random order: every response is a reference equally often.
        others = [texts[order[(place + step) % len(texts)]] for step in range(1, count + 1)]
        if others and texts[row]:
            # Rounding may leave a score of identical texts above 1.
            scores[row] = min(1.0, bleu.sentence_score(texts[row], others).score / 100)
    return scores
