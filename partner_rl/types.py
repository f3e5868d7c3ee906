"""The frozen records that cross the boundaries between packages.

A post flows as `Example` → `RewriteState` → `EditAction` → `ScoreRequest` → `RewardBreakdown`. Every package may
import this module; it imports nothing of the project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

MECHANISMS: Final = ("emotional_reactions", "interpretations", "explorations")
"""The three communication mechanisms of EPITOME (Sharma et al., EMNLP 2020), in the order of every level tuple."""

MAX_LEVEL: Final = 2
"""The highest level of one mechanism: 0 none, 1 weak, 2 strong."""

NUM_LEVELS: Final = MAX_LEVEL + 1


class PartnerError(Exception):
    """An error whose message is written for the user: what went wrong, where, and what to do about it.

    The command line prints the message alone, without a traceback, and exits with status 1.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True, slots=True)
class MechanismLabel:
    """One mechanism's annotation of a response.

    Attributes:
        level: 0 none, 1 weak, 2 strong.
        rationales: The exact substrings of the response that support the level; empty at level 0.
    """

    level: int
    rationales: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One (seeker post, response) pair of a corpus.

    Attributes:
        seeker_id: Identifies the seeker's post; splits are made by its hash.
        labels: One label per mechanism in the order of `MECHANISMS`, or None for an unlabelled pair.
    """

    seeker_id: str
    response_id: str
    seeker_post: str
    response_post: str
    labels: tuple[MechanismLabel, MechanismLabel, MechanismLabel] | None = None

    @property
    def empathy(self) -> int | None:
        """The labelled empathy score, 0…6, or None for an unlabelled pair."""
        return None if self.labels is None else sum(label.level for label in self.labels)


@dataclass(frozen=True, slots=True)
class RewriteState:
    """What the policy sees: the seeker's post and the window of response sentences that it may edit.

    Attributes:
        span: The window's sentences, at most `k` of them, surrounding white space removed.
    """

    seeker_post: str
    span: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EditAction:
    """A sentence-level edit.

    Attributes:
        position: Index into the `2k+2` positions (see `partner_rl.positions`).
        sentence: The candidate sentence; ignored when the position is the no-op.
    """

    position: int
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Everything a reward needs to know about one rewritten response.

    Attributes:
        original_response: The response `R` as the supporter wrote it.
        candidates: The generated sentences that stand in the rewritten response.
        other_sentences: The rewritten response's other sentences.
    """

    seeker_post: str
    original_response: str
    rewritten_response: str
    candidates: tuple[str, ...]
    other_sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RewardBreakdown:
    """The scores of one rewritten response by component, and their weighted sum once they are weighed.

    Attributes:
        raw: Component name → score as the component defines it.
        details: Further metrics to log, such as the change of each mechanism; names start with the component's name.
        weights: Component name → weight; empty before `weighed`.
    """

    raw: Mapping[str, float]
    details: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def weighed(self, weights: Mapping[str, float]) -> RewardBreakdown:
        """The same scores with weights: `r = Σ w_c r_c` (PARTNER, section 4.3).

        Args:
            weights: Component name → weight; those of components that were not scored are left out.

        Raises:
            PartnerError: A component has no weight.
        """
        unknown = sorted(self.raw.keys() - weights.keys())
        if unknown:
            raise PartnerError(
                f"there is no weight for the reward component {', '.join(unknown)}: score with components of rewards.*"
            )
        return replace(self, weights={name: weights[name] for name in self.raw})

    @property
    def weighted(self) -> dict[str, float]:
        """Component name → its contribution to `total`."""
        return {name: self.weights[name] * value for name, value in self.raw.items()}

    @property
    def total(self) -> float:
        """The reward: the sum of `weighted`."""
        return sum(self.weighted.values())
