"""Perplexity of the rewritten responses, from the fluency reward."""

from __future__ import annotations

import math
from collections.abc import Sequence

from partner_rl.evaluation.metrics.mean import mean


def perplexity(fluencies_N: Sequence[float]) -> float:
    """The perplexity of the responses as one corpus: exp of the mean over responses of −log r_f.

    The fluency reward is `r_f = p_LM(R̂)^(1/N)`, so −log r_f is a response's mean negative log-likelihood a token, in
    nats. Averaging these and not the perplexities 1/r_f keeps a single odd response from deciding the figure. Every
    response counts the same, however long it is.

    Args:
        fluencies_N: Raw fluency of each response, in (0, 1].

    Raises:
        ValueError: There is no response, or a fluency is outside (0, 1].
    """
    for row, fluency in enumerate(fluencies_N):
        if not 0.0 < fluency <= 1.0:
            raise ValueError(f"perplexity: the fluency of row {row} is {fluency}, outside (0, 1]")
    return math.exp(mean([-math.log(fluency) for fluency in fluencies_N], "perplexity"))
