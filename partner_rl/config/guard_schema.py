"""The guards' section of the configuration: how their metrics are taken, their limits, and what an alarm leads to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from partner_rl.config.section import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section


class GuardsConfig(Section):
    """Guards against reward hacking and collapse (`docs/guards.md`); a limit that is null is off."""

    window: Positive = 10
    """Iterations that a metric is taken over; for metrics of the judge, iterations that it read."""
    half_life: PositiveFloat = 1.5
    """An iteration counts half as much in a metric's mean as one this many iterations later."""
    patience: Positive = 2
    """A guard raises its alarm when its limit is passed, by the mean and by the newest metric, in this many iterations
    with none between that keeps it by both."""
    action: Literal["alarm", "stop", "rollback"] = "alarm"
    """What an alarm about the policy does besides the warning: nothing; stop the run with a checkpoint; or go back to
    the newest checkpoint from before the limit was passed and try again."""
    max_rollbacks: NonNegative = 2
    """After this many rollbacks the next alarm stops the run."""
    rollback_kl_factor: Annotated[float, Field(ge=1.0)] = 2.0
    """Each rollback multiplies the weight of the KL penalty by this; nothing to multiply when `kl_coeff` is 0."""
    min_rewrites: Positive = 50
    """Metrics of sentences, openings and specificity wait for this many inserted sentences. Where fewer remain by their
    weight in the mean, the window's iterations count alike."""
    max_kl_sentence: PositiveFloat | None = 8.0
    """KL divergence from the warm-started policy, nats a sentence, its position included."""
    max_commonest_share: Fraction | None = 0.2
    """Share of the inserted sentences that are the commonest one."""
    max_opening_share: Fraction | None = 0.6
    """Share of the inserted sentences that begin with the commonest four words."""
    min_effective_openings: NonNegativeFloat | None = 4.0
    """Exponential of the entropy of the inserted sentences' first four words."""
    min_specificity: float | None = 0.005
    """Share of an inserted sentence's words that stand in its own post, minus that for the iteration's other posts,
    plus the standard error of this."""
    min_sentence_entropy_kept: NonNegativeFloat | None = 0.45
    """Entropy of the sentence's tokens, as a share of that in the run's first three iterations."""
    min_position_entropy: NonNegativeFloat | None = 0.2
    """Entropy of the position, nats."""
    min_fluency_kept: NonNegativeFloat | None = 0.5
    """Inverse perplexity of the rewritten responses, as a share of that in the run's first three iterations."""
    max_repetition: Fraction | None = 0.2
    """Share of the inserted sentences' word triples that stood in the same sentence before."""
    max_length_ratio: PositiveFloat | None = 3.0
    """Words of the rewritten responses over words of the originals."""
    max_self_disclosure: Fraction | None = 0.5
    """Share of the rewrites with an inserted sentence about the writer's own life, which a language model has not."""
    max_noop_share: Fraction | None = 0.9
    """Share of responses left as they were."""
    max_memory_growth: PositiveFloat | None = 0.003
    """Share of the host's memory by which its use grows an iteration, over a whole window; needs a window of 9."""
    max_slowdown: PositiveFloat | None = 4.0
    """Seconds of an iteration over their median in the window."""
    judge_every: Positive | None = None
    """The judge (`evaluation.judge`) reads the rewrites of every this many iterations; null for none."""
    max_judge_gap: PositiveFloat | None = 1.0
    """Gain in empathy (0…6) by the reward minus that by the judge."""
    max_judge_divergence: PositiveFloat | None = 0.3
    """Rise of the reward's gain or fall of the judge's, whichever is smaller, from the window's first half to its
    second; needs four judged iterations."""
