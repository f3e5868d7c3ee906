"""The records of an iteration: what env runners return, what is trained on, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from partner_rl.algorithm.advantages.estimator import Array
from partner_rl.policy.actions import ActionTokens
from partner_rl.types import Example, RewardBreakdown, ScoreRequest


@dataclass(frozen=True, slots=True)
class Step:
    """One edit: what the policy saw, the sentences in its window, what it did, and how likely that was.

    Attributes:
        logprobs: Log-probability of the position, then of each token, when sampled.
        kept: For each token the words that truncated sampling left to draw from; None without truncation.
    """

    prompt: tuple[int, ...]
    num_sentences: int
    action: ActionTokens
    logprobs: tuple[float, ...]
    kept: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """An episode: its steps and what the final response earned.

    Every step earned the final response, so that all of them share its reward.
    """

    steps: tuple[Step, ...]
    request: ScoreRequest
    breakdown: RewardBreakdown

    def with_score(self, component: str, value: float, details: Mapping[str, float] | None = None) -> Trajectory:
        """The trajectory with the score of one more component, and its further metrics to log."""
        raw, before = {**self.breakdown.raw, component: value}, self.breakdown.details
        return replace(self, breakdown=RewardBreakdown(raw, {**before, **(details or {})}))


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """`K` trajectories that start from the same state.

    Attributes:
        greedy: The episode of the likeliest edits, for a self-critical baseline; None unless asked for. It is never
            trained on.
    """

    example: Example
    trajectories: tuple[Trajectory, ...]
    greedy: Trajectory | None = None

    def each(self, change: Callable[[Trajectory], Trajectory]) -> SampledGroup:
        """The group with every trajectory changed, the greedy one too."""
        return replace(
            self,
            trajectories=tuple(map(change, self.trajectories)),
            greedy=change(self.greedy) if self.greedy else None,
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """The result of one `sample()` call of an env runner.

    Attributes:
        generate_s: Seconds in which the policy computed.
        score_s: Seconds in which the policy stood still because it waited for the rewards.
        overlap_s: Seconds of scoring during which the policy computed, too.
    """

    groups: tuple[SampledGroup, ...]
    generate_s: float
    score_s: float
    overlap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AdvantageBatch:
    """What an iteration trains on.

    Attributes:
        groups: The sampled groups, their rewards mixed with this iteration's weights.
        advantages_GK: An advantage for each sample.
        normalised: Component → its normalised values, shape `[G, K]`; empty when nothing is normalised.
        parts: Component → what it adds to the sum that the update sees: its values as normalised, times its weight.
        scheduled: Component → weight in this iteration, for the components with a schedule.
    """

    groups: tuple[SampledGroup, ...]
    advantages_GK: Array
    normalised: Mapping[str, Array]
    parts: Mapping[str, Array]
    scheduled: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Iteration:
    """What an iteration did.

    Attributes:
        number: Counted from 0.
        batch: The sampled groups with their rewards and advantages.
        learner: The update's metrics (`update_metrics`).
        seconds: Seconds in `generate`, `score`, `update`, `sync`, and `iteration` for all of it; `overlap` is scoring
            that the generation hid.
        kl_coeff: Weight of the KL penalty in this iteration.
    """

    number: int
    batch: AdvantageBatch
    learner: dict[str, float]
    seconds: dict[str, float]
    kl_coeff: float

    @property
    def groups(self) -> tuple[SampledGroup, ...]:
        """The sampled groups, their rewards mixed with this iteration's weights."""
        return self.batch.groups
