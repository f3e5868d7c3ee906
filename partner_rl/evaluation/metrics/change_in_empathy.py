"""Change in empathy: what the rewriting is for (PARTNER, section 6; Table 2 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence

from partner_rl.evaluation.metrics.mean import mean


def change_in_empathy(changes_N: Sequence[float]) -> float:
    """The mean over responses of empathy(S, R̂) − empathy(S, R), in points of the 0…6 scale.

    Args:
        changes_N: Each response's change, of the total or of one mechanism (then on its 0…2 scale).

    Raises:
        ValueError: There is no response, or a change is not finite.
    """
    return mean(changes_N, "change in empathy")
