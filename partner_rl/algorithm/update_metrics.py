"""What an update measures: sums and counts, so that micro-batches, learners and steps add up to true means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from partner_rl import metric_names as names

GAP_QUANTILE: Final = 0.99


@dataclass(frozen=True, slots=True)
class LogprobGap:
    """|log-probability at training − at sampling| of the tokens of a step, before its update, in nats."""

    largest: float
    p99: float
    mean: float
    tokens: int

    @classmethod
    def of(cls, gaps: Sequence[torch.Tensor]) -> LogprobGap:
        """The gap of the tokens of all micro-batches, each a vector of differences."""
        values = torch.cat([gap.detach().float().cpu() for gap in gaps]).abs()
        if not torch.isfinite(values).all():
            return cls(float("inf"), float("inf"), float("inf"), len(values))
        return cls(values.max().item(), values.quantile(GAP_QUANTILE).item(), values.mean().item(), len(values))

    @classmethod
    def over_learners(cls, gaps: Sequence[LogprobGap]) -> LogprobGap:
        """The worst learner's maximum and percentile, and the mean over all tokens."""
        tokens = sum(gap.tokens for gap in gaps)
        mean = sum(gap.mean * gap.tokens for gap in gaps) / tokens
        return cls(max(gap.largest for gap in gaps), max(gap.p99 for gap in gaps), mean, tokens)


@dataclass(frozen=True, slots=True)
class GapLimits:
    """How far sampler and learner may be apart, in nats a token.

    Not the maximum: among a thousand tokens one may be rounded badly, and stale weights move all of them.
    """

    mean: float
    p99: float

    def hold(self, gap: LogprobGap) -> bool:
        """Whether a gap is within the limits; one that is not a number is not."""
        return gap.mean <= self.mean and gap.p99 <= self.p99

    def explain(self, gap: LogprobGap, dtype: str, *, same_weights: bool) -> str:
        """What a gap beyond the limits comes from, and what to do: one line.

        `same_weights` says whether all samplers held the learner's weights.
        """
        found = (
            f"log-probabilities differ between sampling and training by {gap.mean:.2g} nats a token on average and "
            f"{gap.p99:.2g} at the 99th percentile (limits {self.mean:g} and {self.p99:g})"
        )
        if not same_weights:
            return f"{found}: env runners and learners hold different weights; resume the run"
        cure = "policy.compile=false, policy.attention=sdpa" if dtype == "float32" else "policy.dtype=float32"
        return f"{found}, with the same weights: the model rounds too differently in the two; set {cure}"


GAP_LIMITS: Final = {"float32": GapLimits(mean=1e-4, p99=1e-3), "bfloat16": GapLimits(mean=0.1, p99=0.4)}
"""By `policy.dtype`: a few times what rounding alone makes (`benchmarks.logprob_gap`)."""


@dataclass(slots=True)
class StepMetrics:
    """What one learner measures in one optimizer step.

    Attributes:
        sums: Metric → the sum over its units, and their number.
        gap: How far sampler and learner were apart.
        weights_digest: Digest of the weights before the step, where the gap is larger than it may be.
    """

    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    gap: LogprobGap | None = None
    weights_digest: str | None = None

    def add(self, name: str, total: float | torch.Tensor, units: float) -> None:
        """Adds a micro-batch's sum over its units, such as tokens or actions."""
        before, counted = self.sums.get(name, (0.0, 0.0))
        value = total.item() if isinstance(total, torch.Tensor) else total
        self.sums[name] = (before + value, counted + units)


def update_metrics(steps: Sequence[Sequence[StepMetrics]]) -> dict[str, float]:
    """The metrics of an iteration's update: means over the units of all steps and learners, and the first step's gap.

    Later steps differ from the sampler because the policy has moved, which `sampler_kl` tells.
    """
    gaps = [learner.gap for learner in steps[0] if learner.gap is not None]
    gap = LogprobGap.over_learners(gaps)
    return means(learner for step in steps for learner in step) | {
        names.TRAIN_LOGPROB_GAP: gap.largest,
        names.TRAIN_LOGPROB_GAP_MEAN: gap.mean,
        names.TRAIN_LOGPROB_GAP_P99: gap.p99,
    }


def means(measured: Iterable[StepMetrics]) -> dict[str, float]:
    """Each metric's sum over the units of all of them, divided by their number."""
    whole = StepMetrics()
    for one in measured:
        for name, (total, units) in one.sums.items():
            whole.add(name, total, units)
    return {name: total / units for name, (total, units) in whole.sums.items() if units}
