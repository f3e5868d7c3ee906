"""Coherence of whole responses, from the coherence reward."""

from __future__ import annotations

from collections.abc import Sequence

from partner_rl.evaluation.metrics.mean import mean


def coherence(coherences_N: Sequence[float]) -> float:
    """The mean over responses of the probability that their sentences belong to one response.

    Args:
        coherences_N: Each response's mean probability over the ordered pairs of its sentences, in [0, 1]. All systems
            are measured on whole responses, so that a system that writes nothing (`original`) compares with the others.

    Raises:
        ValueError: There is no response, or a value is outside [0, 1].
    """
    for row, value in enumerate(coherences_N):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"coherence: row {row} is {value}, outside [0, 1]")
    return mean(coherences_N, "coherence")
