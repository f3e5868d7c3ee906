"""All guards: what each watches, on which side of its limit it speaks, and what to do then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

_SPEAKS_ALIKE: Final = "raise algorithm.kl_coeff or rewards.variety.weight, or lower algorithm.learning_rate"


@dataclass(frozen=True, slots=True)
class Limit:
    """A guard's limit.

    Attributes:
        bound: `max` where the metric must stay at or below it, `min` for at or above.
        name: The guard, as in its metric.
        of_judge: Whether only iterations that the judge read say anything new.
        of_machine: Whether it is about the machine, not the policy: its alarms neither stop a run nor send it back.
    """

    bound: Literal["max", "min"]
    name: str
    advice: str
    of_judge: bool = False
    of_machine: bool = False

    @property
    def key(self) -> str:
        """The configuration key under `guards`."""
        return f"{self.bound}_{self.name}"

    @property
    def side(self) -> str:
        """Where a metric that has passed the limit is."""
        return "above" if self.bound == "max" else "below"

    def is_passed(self, value: float, limit: float) -> bool:
        """Whether a metric is on the wrong side; one that is not a number is."""
        return not (value <= limit if self.bound == "max" else value >= limit)


LIMITS: Final = (
    Limit(
        "max",
        "kl_sentence",
        "the policy walks away from the one it started from: raise algorithm.kl_coeff, set algorithm.kl_target, or "
        "lower algorithm.learning_rate",
    ),
    Limit("max", "commonest_share", f"one sentence answers many posts: {_SPEAKS_ALIKE}"),
    Limit("max", "opening_share", f"one opening begins most sentences: {_SPEAKS_ALIKE}"),
    Limit("min", "effective_openings", f"a few openings begin all sentences: {_SPEAKS_ALIKE}"),
    Limit(
        "min",
        "specificity",
        "sentences take up nothing of the post that they answer: raise rewards.mutual_information.weight or "
        "algorithm.kl_coeff",
    ),
    Limit(
        "min",
        "sentence_entropy_kept",
        "little is left to chance in a sentence, and groups will soon teach nothing: raise algorithm.kl_coeff or "
        "policy.temperature, or lower algorithm.learning_rate",
    ),
    Limit(
        "min",
        "position_entropy",
        "it edits one place only: raise algorithm.position_entropy_coeff or algorithm.kl_coeff, or set the limit null "
        "where the place is fixed on purpose",
    ),
    Limit(
        "min", "fluency_kept", "rewrites have become less fluent: raise rewards.fluency.weight or algorithm.kl_coeff"
    ),
    Limit(
        "max",
        "repetition",
        "it says the same twice in a sentence: set rewards.fluency.repetition_penalty, raise rewards.fluency.weight",
    ),
    Limit(
        "max",
        "length_ratio",
        "it writes at length: lower policy.max_new_tokens or env.max_edits, and look which reward grows with length",
    ),
    Limit(
        "max",
        "self_disclosure",
        "it invents experience, which the empathy labels pay for: give rewards.honesty.weight a value",
    ),
    Limit(
        "max",
        "noop_share",
        "it leaves responses as they are: no edit earns more than none, so look at the weighted rewards",
    ),
    Limit(
        "max",
        "judge_gap",
        "the reward is pleased by what the judge does not see: train the reward anew, lower its weight or stop earlier",
        of_judge=True,
    ),
    Limit(
        "max",
        "judge_divergence",
        "the reward rises while the judge's gain falls: stop here, and lower the weight of rewards.empathy",
        of_judge=True,
    ),
    Limit(
        "max",
        "memory_growth",
        "the host's memory fills steadily: save a checkpoint, find the process that grows, resume after a restart",
        of_machine=True,
    ),
    Limit(
        "max",
        "slowdown",
        "iterations take many times their usual time: see which of the time/ metrics grew, and what else the machine "
        "does",
        of_machine=True,
    ),
)
"""All guards."""
