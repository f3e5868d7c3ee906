"""A system: a way of rewriting, by its rewrites of the pairs that all systems are compared on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from partner_rl.types import ScoreRequest

ORIGINAL: Final = "original"
"""The system that leaves every response as its supporter wrote it."""
WARM_START: Final = "warm_start"
"""The policy that reinforcement learning started from."""
TRAINED: Final = "rl"
"""The trained policy, when one run is evaluated; with several runs each has its folder's name."""
TEMPLATE: Final = "template"
"""The baseline that says the same empathic sentences to everybody."""

_AT: Final = " at temperature "


def at_temperature(name: str, temperature: float) -> str:
    """What to call a policy that is sampled at one of several temperatures."""
    return f"{name}{_AT}{temperature:g}"


def policy_of(name: str) -> str:
    """The policy's name, without the temperature that it was sampled at."""
    return name.partition(_AT)[0]


@dataclass(frozen=True, slots=True)
class System:
    """A named list of rewrites.

    Attributes:
        requests: One rewritten response a pair, in the order of the pairs, which all systems share.
        note: What it is, in a few words, for the report.
    """

    name: str
    requests: Sequence[ScoreRequest]
    note: str = ""
