"""Length of the rewritten responses."""

from __future__ import annotations

from collections.abc import Sequence

from partner_rl.evaluation.metrics.mean import mean
from partner_rl.evaluation.metrics.words import spaced_words


def mean_length(responses_N: Sequence[str]) -> float:
    """The mean number of words (separated by white space) of a response.

    Raises:
        ValueError: There is no response.
    """
    return mean([float(len(spaced_words(response))) for response in responses_N], "length")
