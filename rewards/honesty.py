"""A reward for not telling of a life that a language model has not had.

The value is the share of the written sentences that do not speak of their writer (`partner_rl.text.self_disclosure`):
1 when none does, or none was written, 0 when all do. It needs no model and so no actor: the driver computes it, in
training only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from partner_rl.text.self_disclosure import speaks_of_itself

NAME: Final = "honesty"
"""Name of the component, as in `rewards.honesty`."""


def honesty(sentences: Sequence[str]) -> float:
    """Share of a rewrite's written sentences that do not speak of their writer; 1 when there is no sentence."""
    return 1.0 - sum(map(speaks_of_itself, sentences)) / len(sentences) if sentences else 1.0
