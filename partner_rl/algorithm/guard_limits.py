"""All guards: what each watches, on which side of its limit it speaks, and what to do then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SPEAKS_ALIKE: Final = "raise algorithm.kl_coeff or rewards.variety.weight, or lower algorithm.learning_rate"


@dataclass(frozen=True, slots=True)
class Limit:
    """A guard's limit.

    Attributes:
        name: The guard, as in its metric.
        key: The configuration key under `guards`.
        is_upper: Whether the figure must stay at or below it (else at or above).
        of_judge: Whether only iterations that the judge read say anything new.
        of_machine: Whether it is about the machine, not the policy: its alarms neither stop a run nor send it back.
    """

    name: str
    key: str
    is_upper: bool
    advice: str
    of_judge: bool = False
    of_machine: bool = False

    def is_passed(self, value: float, limit: float) -> bool:
        """Whether a figure is on the wrong side; one that is not a number is."""
        return not (value <= limit if self.is_upper else value >= limit)


LIMITS: Final = (
    Limit(
        "kl_sentence",
        "max_kl_sentence",
        True,
        "the policy walks away from the one it started from: raise algorithm.kl_coeff, set algorithm.kl_target, or "
        "lower algorithm.learning_rate",
    ),
    Limit("commonest_share", "max_commonest_share", True, f"one sentence answers many posts: {_SPEAKS_ALIKE}"),
    Limit("opening_share", "max_opening_share", True, f"one opening begins most sentences: {_SPEAKS_ALIKE}"),
    Limit(
        "effective_openings", "min_effective_openings", False, f"a few openings begin all sentences: {_SPEAKS_ALIKE}"
    ),
    Limit(
        "specificity",
        "min_specificity",
        False,
        "sentences take up nothing of the post that they answer: raise rewards.mutual_information.weight or "
        "algorithm.kl_coeff",
    ),
    Limit(
        "sentence_entropy_kept",
        "min_sentence_entropy_kept",
        False,
        "little is left to chance in a sentence, and groups will soon teach nothing: raise algorithm.kl_coeff or "
        "policy.temperature, or lower algorithm.learning_rate",
    ),
    Limit(
        "position_entropy",
        "min_position_entropy",
        False,
        "it edits one place only: raise algorithm.position_entropy_coeff or algorithm.kl_coeff, or set the limit null "
        "where the place is fixed on purpose",
    ),
    Limit(
        "fluency_kept",
        "min_fluency_kept",
        False,
        "rewrites have become less fluent: raise rewards.fluency.weight or algorithm.kl_coeff",
    ),
    Limit(
        "repetition",
        "max_repetition",
        True,
        "it says the same twice in a sentence: set rewards.fluency.repetition_penalty, raise rewards.fluency.weight",
    ),
    Limit(
        "length_ratio",
        "max_length_ratio",
        True,
        "it writes at length: lower policy.max_new_tokens or env.max_edits, and look which reward grows with length",
    ),
    Limit(
        "self_disclosure",
        "max_self_disclosure",
        True,
        "it invents experience, which the empathy labels pay for: give rewards.honesty.weight a value",
    ),
    Limit(
        "noop_share",
        "max_noop_share",
        True,
        "it leaves responses as they are: no edit earns more than none, so look at the weighted rewards",
    ),
    Limit(
        "judge_gap",
        "max_judge_gap",
        True,
        "the reward is pleased by what the judge does not see: train the reward anew, lower its weight or stop earlier",
        of_judge=True,
    ),
    Limit(
        "judge_divergence",
        "max_judge_divergence",
        True,
        "the reward rises while the judge's gain falls: stop here, and lower the weight of rewards.empathy",
        of_judge=True,
    ),
    Limit(
        "memory_growth",
        "max_memory_growth",
        True,
        "the host's memory fills steadily: save a checkpoint, find the process that grows, resume after a restart",
        of_machine=True,
    ),
    Limit(
        "slowdown",
        "max_slowdown",
        True,
        "iterations take many times their usual time: see which of the time/ figures grew, and what else the machine "
        "does",
        of_machine=True,
    ),
)
"""All guards."""
