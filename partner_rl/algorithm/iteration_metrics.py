"""The metrics of an iteration; pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean, pstdev

import numpy as np

from envs.rewriting import written_sentences
from partner_rl import metric_names as names
from partner_rl.algorithm.advantages.estimator import Array
from partner_rl.algorithm.guard_metrics import effective_number, largest_share, sentence_counts
from partner_rl.algorithm.trajectory import AdvantageBatch, Iteration, Step, Trajectory

_PHASES = {
    names.TIME_GENERATE: "generate",
    names.TIME_SCORE: "score",
    names.TIME_UPDATE: "update",
    names.TIME_SYNC: "sync",
    names.TIME_ITERATION: "iteration",
}
_SAME = 1e-6
"""Values that differ by less are the same."""


def iteration_metrics(iteration: Iteration, window: int) -> dict[str, float]:
    """All metrics of an iteration, by the names in `partner_rl.metric_names`."""
    trajectories = [t for group in iteration.groups for t in group.trajectories]
    steps = [step for t in trajectories for step in t.steps]
    phases = {name: iteration.seconds[phase] for name, phase in _PHASES.items()}
    covered = sum(iteration.seconds[phase] for phase in ("generate", "score", "update", "sync"))
    tokens = sum(len(step.action.tokens) for step in steps)
    return {
        **_rewards(trajectories),
        **_policy(trajectories, steps, window),
        **_advantages(iteration.batch),
        **iteration.learner,
        names.POLICY_KL_COEFF: iteration.kl_coeff,
        **phases,
        names.TIME_OVERLAP: iteration.seconds["overlap"],
        names.TIME_OTHER: iteration.seconds["iteration"] - covered,
        names.EPISODES_PER_SECOND: len(trajectories) / iteration.seconds["iteration"],
        names.TOKENS_PER_SECOND: tokens / iteration.seconds["iteration"],
        names.EPISODES_TOTAL: float((iteration.number + 1) * len(trajectories)),
    }


def _rewards(trajectories: list[Trajectory]) -> dict[str, float]:
    breakdowns = [t.breakdown for t in trajectories]
    totals = [b.total for b in breakdowns]
    return {
        names.REWARD_TOTAL: fmean(totals),
        names.REWARD_STD: pstdev(totals),
        **_means((b.raw for b in breakdowns), names.reward_raw),
        **_means((b.weighted for b in breakdowns), names.reward_weighted),
        **_means((b.details for b in breakdowns), names.reward_detail),
    }


def _advantages(batch: AdvantageBatch) -> dict[str, float]:
    """What became of the rewards on their way to the update."""
    return {
        names.TRAIN_ADVANTAGE_STD: float(batch.advantages_GK.std()),
        names.TRAIN_GROUPS_WITHOUT_SPREAD: _without_spread(batch.advantages_GK),
        **{names.reward_normalised(name): float(values.mean()) for name, values in batch.normalised.items()},
        **{names.reward_weight(name): weight for name, weight in batch.scheduled.items()},
        **{names.reward_spread(name): _spread(values_GK) for name, values_GK in batch.parts.items()},
        **{names.reward_without_spread(name): _without_spread(values_GK) for name, values_GK in batch.parts.items()},
    }


def _spread(values_GK: Array) -> float:
    """Root mean square around the mean of each group."""
    return float(np.sqrt(values_GK.var(axis=1).mean()))


def _without_spread(values_GK: Array) -> float:
    """Share of groups whose values are all the same; rounding aside."""
    return float((np.ptp(values_GK, axis=1) < _SAME).mean())


def _means(rows: Iterable[Mapping[str, float]], name_of: Callable[[str], str]) -> dict[str, float]:
    columns: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return {name_of(key): fmean(values) for key, values in columns.items()}


def _policy(trajectories: list[Trajectory], steps: list[Step], window: int) -> dict[str, float]:
    positions = Counter(step.action.position for step in steps)
    shares = {name: positions[position] / len(steps) for position, name in enumerate(names.position_shares(window))}
    spoken = [step for step in steps if step.action.tokens]
    metrics = dict(shares)
    if spoken:
        # Minus the mean log-probability of what was sampled estimates the entropy.
        logprobs = [value for step in spoken for value in step.logprobs[1:]]
        metrics[names.POLICY_SENTENCE_ENTROPY] = -fmean(logprobs)
        metrics[names.POLICY_SENTENCE_TOKENS] = fmean(len(step.action.tokens) for step in spoken)
    sentences = [sentence.casefold() for t in trajectories for sentence in written_sentences(t.request)]
    if sentences:
        metrics[names.POLICY_DISTINCT_SENTENCES] = len(set(sentences)) / len(sentences)
    counts, openings = sentence_counts(t.request for t in trajectories)
    if counts:
        metrics[names.POLICY_COMMONEST_SENTENCE] = largest_share(counts)
        metrics[names.POLICY_COMMONEST_OPENING] = largest_share(openings)
        metrics[names.POLICY_EFFECTIVE_OPENINGS] = effective_number(openings)
    return metrics
