"""Specificity: is the rewritten response about what the seeker wrote?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from partner_rl.evaluation.metrics.mean import mean

Embed = Callable[[Sequence[str]], npt.NDArray[np.floating]]
"""Texts → one embedding each, shape `[N, D]`."""


def specificity(seeker_posts_N: Sequence[str], responses_N: Sequence[str], embed: Embed) -> float:
    """The mean cosine similarity of the sentence embeddings of S and R̂, in [−1, 1] (PARTNER, section 6).

    Raises:
        ValueError: There is no pair, the lists differ in length, or the embeddings have the wrong shape or are zero.
    """
    return mean(similarities(seeker_posts_N, responses_N, embed), "specificity")


def similarities(seeker_posts_N: Sequence[str], responses_N: Sequence[str], embed: Embed) -> list[float]:
    """The cosine similarity of each pair.

    Raises:
        ValueError: As for `specificity`.
    """
    if len(seeker_posts_N) != len(responses_N):
        raise ValueError(f"specificity: {len(seeker_posts_N)} seeker posts but {len(responses_N)} responses")
    seekers_ND = _unit_rows(embed(seeker_posts_N), len(seeker_posts_N))
    responses_ND = _unit_rows(embed(responses_N), len(responses_N))
    return [float(value) for value in np.sum(seekers_ND * responses_ND, axis=1)]


def _unit_rows(rows_ND: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.float64]:
    if rows_ND.ndim != 2 or len(rows_ND) != count:
        raise ValueError(f"specificity: {count} texts gave embeddings of shape {rows_ND.shape}")
    norms_N1 = np.linalg.norm(rows_ND.astype(np.float64), axis=1, keepdims=True)
    if not np.all(norms_N1 > 0):
        raise ValueError(f"specificity: the embedding of row {int(np.argmin(norms_N1))} is zero or not a number")
    unit_ND: npt.NDArray[np.float64] = rows_ND.astype(np.float64) / norms_N1
    return unit_ND
