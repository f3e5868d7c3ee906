"""Share unchanged: how often the system left a response alone."""

from __future__ import annotations

from collections.abc import Sequence

from partner_rl.evaluation.metrics.mean import mean


def share_unchanged(originals_N: Sequence[str], rewrites_N: Sequence[str]) -> float:
    """The share of responses that came back character for character, in [0, 1].

    Raises:
        ValueError: There is no response, or the lists differ in length.
    """
    if len(originals_N) != len(rewrites_N):
        raise ValueError(f"share_unchanged: {len(originals_N)} originals but {len(rewrites_N)} rewrites")
    same = [float(original == rewrite) for original, rewrite in zip(originals_N, rewrites_N, strict=True)]
    return mean(same, "share_unchanged")
