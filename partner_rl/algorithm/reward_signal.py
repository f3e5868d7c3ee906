"""From scores to advantages: weights of this iteration → normalisation → estimator.

| `algorithm.normalization` | what the estimator sees |
|---|---|
| `none` | the total reward, `Σ w_c r_c` |
| `running` | `Σ w_c z_c`, where `z_c` is the component standardised by its mean and std over all samples so far |
| `group` | each component alone; the results are divided by their group's std, weighted, summed and whitened |

The last one is GDPO (Liu et al., 2026). With `rewards.empathy.normalize: mechanisms` the last two see the change of
each mechanism as a component of its own, with a third of the weight. Axes: `G` group, `K` sample of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from envs.rewriting import written_sentences
from partner_rl.algorithm.advantages.estimator import EPSILON, Array, group_std
from partner_rl.algorithm.advantages.registry import build_estimator
from partner_rl.algorithm.trajectory import AdvantageBatch, SampledGroup, Trajectory
from partner_rl.algorithm.variety import Variety
from partner_rl.config.reward_schema import RewardsConfig, VarietyConfig
from partner_rl.config.schema import AlgorithmConfigSection
from partner_rl.types import MECHANISMS, PartnerError, RewardBreakdown
from rewards import honesty

EMPATHY: Final = "empathy"
BY_MECHANISM: Final = tuple(f"{EMPATHY}/{mechanism}" for mechanism in MECHANISMS)
"""Empathy's parts, named as in a reward's details."""


@dataclass(frozen=True, slots=True)
class Rewards:
    """One number for each sample, such as the total or a component.

    Attributes:
        sampled_GK: Of the samples.
        greedy_G: Of the greedy rollouts; None when there are none.
    """

    sampled_GK: Array
    greedy_G: Array | None


class RewardSignal:
    """Turns the scores of an iteration into advantages.

    Args:
        settings: Estimator and normalisation.
        rewards: The components' weights and schedules.
    """

    def __init__(self, settings: AlgorithmConfigSection, rewards: RewardsConfig) -> None:
        self._settings = settings
        self._rewards = rewards
        self._estimator = build_estimator(settings)
        self._by_mechanism = rewards.empathy.normalize == "mechanisms"
        names = (*rewards.components(), *(BY_MECHANISM if self._by_mechanism else ()))
        self._by_component = {name: build_estimator(settings) for name in names}
        self._moments = {name: RunningMoments() for name in names}
        self._variety = _variety(rewards.variety)

    @property
    def needs_greedy(self) -> bool:
        """Whether groups must come with their greedy rollout."""
        return self._estimator.needs_greedy

    def advantages(self, sampled: Sequence[SampledGroup], iteration: int) -> AdvantageBatch:
        """The advantages of an iteration; also takes its scores into the running statistics.

        Groups are all of the same size; iterations count from 1, as in schedules.

        Raises:
            PartnerError: A component has no weight, or not every sample has every component.
        """
        weights = weights_at(self._rewards, iteration)
        groups = tuple(group.each(lambda t: _weighed(t, weights)) for group in self._with_own_scores(sampled))
        scheduled = {name: weights[name] for name, section in self._rewards.components().items() if section.schedule}
        components = component_rewards(groups, [name for name, weight in scheduled.items() if weight != 0.0])
        if self._by_mechanism and EMPATHY in components:
            components, weights = _by_mechanism(groups, components, weights)
        match self._settings.normalization:
            case "none":
                advantages_GK = self._estimate(_weighted_sum(components, weights))
                values = {name: rewards.sampled_GK for name, rewards in components.items()}
            case "running":
                components = self._standardised(components)
                advantages_GK = self._estimate(_weighted_sum(components, weights))
                values = {name: rewards.sampled_GK for name, rewards in components.items()}
            case "group":
                values = self._group_normalised(components)
                advantages_GK = whitened(_sum(weights[name] * values_GK for name, values_GK in values.items()))
        if self._settings.scale_advantages:
            advantages_GK = advantages_GK / (advantages_GK.std() + 1e-8)
        return AdvantageBatch(
            groups,
            advantages_GK,
            normalised={} if self._settings.normalization == "none" else values,
            parts={name: weights[name] * values_GK for name, values_GK in values.items()},
            scheduled=scheduled,
        )

    def _with_own_scores(self, groups: Sequence[SampledGroup]) -> Sequence[SampledGroup]:
        """The groups with the scores of the components that need no model, where these weigh anything."""
        if self._variety:
            groups = self._variety.scored(groups)
        if self._rewards.honesty.is_active:
            groups = [group.each(_with_honesty) for group in groups]
        return groups

    def _estimate(self, rewards: Rewards) -> Array:
        return self._estimator.advantages(rewards.sampled_GK, rewards.greedy_G)

    def _standardised(self, components: Mapping[str, Rewards]) -> dict[str, Rewards]:
        """Each component by its running moments, this iteration's samples (not its greedy rollouts) included."""
        limit = self._settings.component_clip
        result = {}
        for name, rewards in components.items():
            moments = self._moments[name]
            moments.update(rewards.sampled_GK)
            greedy_G = rewards.greedy_G
            result[name] = Rewards(
                clipped(moments.standardise(rewards.sampled_GK), limit),
                None if greedy_G is None else clipped(moments.standardise(greedy_G), limit),
            )
        return result

    def _group_normalised(self, components: Mapping[str, Rewards]) -> dict[str, Array]:
        """Each component's own advantages, divided by the standard deviation of their group."""
        result = {}
        for name, rewards in components.items():
            estimator = self._by_component[name]
            advantages_GK = estimator.advantages(rewards.sampled_GK, rewards.greedy_G)
            if not estimator.divides_by_group_std:
                advantages_GK = advantages_GK / group_std(rewards.sampled_GK)
            result[name] = clipped(advantages_GK, self._settings.component_clip)
        return result

    def state(self) -> Mapping[str, Any]:
        """What must be saved for an exact resume, as JSON."""
        return {
            "total": self._estimator.state(),
            "components": {name: estimator.state() for name, estimator in self._by_component.items()},
            "moments": {name: moments.state() for name, moments in self._moments.items()},
            "variety": self._variety.state() if self._variety else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._estimator.restore(state["total"])
        for name, estimator in self._by_component.items():
            estimator.restore(state["components"][name])
        for name, moments in self._moments.items():
            moments.restore(state["moments"][name])
        if self._variety and state["variety"] is not None:
            self._variety.restore(state["variety"])


def _variety(section: VarietyConfig) -> Variety | None:
    if not section.is_active:
        return None
    return Variety(section.window, section.sentence_share, section.tolerance, section.opening_words)


def weight_at(points: Sequence[tuple[int, float]], iteration: int) -> float:
    """The weight at an iteration (counted from 1): linear between points, constant before the first, after the last."""
    return float(np.interp(iteration, [at for at, _ in points], [weight for _, weight in points]))


def weights_at(rewards: RewardsConfig, iteration: int) -> dict[str, float]:
    """Component → weight at an iteration (counted from 1)."""
    return {
        name: section.weight if section.schedule is None else weight_at(section.schedule, iteration)
        for name, section in rewards.components().items()
    }


def component_rewards(groups: Sequence[SampledGroup], needed: Iterable[str] = ()) -> dict[str, Rewards]:
    """Raw scores of each component.

    Raises:
        PartnerError: Not every sample has every component.
    """
    rollouts = [t for group in groups for t in (*group.trajectories, *([group.greedy] if group.greedy else []))]
    found = list(rollouts[0].breakdown.raw)
    missing = sorted(set(needed) - set(found))
    if missing or not found or any(t.breakdown.raw.keys() != set(found) for t in rollouts):
        raise PartnerError(
            f"every response needs a score of the same components (found {found}, not scored: {missing}): score with "
            "the components of rewards.* that have a weight or a schedule"
        )
    return {name: _rewards(groups, partial(_raw, name)) for name in found}


def _by_mechanism(
    groups: Sequence[SampledGroup], components: Mapping[str, Rewards], weights: Mapping[str, float]
) -> tuple[dict[str, Rewards], dict[str, float]]:
    """Components and weights with each mechanism in the place of empathy."""
    mechanisms = {name: _rewards(groups, partial(_detail, name)) for name in BY_MECHANISM}
    others = {name: rewards for name, rewards in components.items() if name != EMPATHY}
    return {**others, **mechanisms}, {**weights, **dict.fromkeys(mechanisms, weights[EMPATHY] / len(mechanisms))}


def _raw(name: str, breakdown: RewardBreakdown) -> float:
    return breakdown.raw[name]


def _detail(name: str, breakdown: RewardBreakdown) -> float:
    if name not in breakdown.details:
        raise PartnerError(
            f"rewards.empathy.normalize=mechanisms needs {name} among the details of every reward, and one has only "
            f"{sorted(breakdown.details)}: use the empathy scorer that comes with the package, or set normalize=sum"
        )
    return breakdown.details[name]


def _weighed(trajectory: Trajectory, weights: Mapping[str, float]) -> Trajectory:
    return replace(trajectory, breakdown=trajectory.breakdown.weighed(weights))


def _with_honesty(trajectory: Trajectory) -> Trajectory:
    return trajectory.with_score(honesty.NAME, honesty.honesty(written_sentences(trajectory.request)))


def _rewards(groups: Sequence[SampledGroup], value: Callable[[RewardBreakdown], float]) -> Rewards:
    greedy = [value(group.greedy.breakdown) for group in groups if group.greedy]
    return Rewards(
        np.array([[value(t.breakdown) for t in group.trajectories] for group in groups], dtype=np.float64),
        np.array(greedy, dtype=np.float64) if greedy else None,
    )


def _weighted_sum(components: Mapping[str, Rewards], weights: Mapping[str, float]) -> Rewards:
    greedy = [weights[name] * rewards.greedy_G for name, rewards in components.items() if rewards.greedy_G is not None]
    return Rewards(
        _sum(weights[name] * rewards.sampled_GK for name, rewards in components.items()),
        _sum(greedy) if greedy else None,
    )


def _sum(terms: Iterable[Array]) -> Array:
    total: Array = np.sum(list(terms), axis=0)
    return total


class RunningMoments:
    """Mean and standard deviation of all values so far, updated by batches (Welford, 1962; Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    @property
    def std(self) -> float:
        """Standard deviation over all values (divided by their number); 0 before the first."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def update(self, values: Array) -> None:
        """Takes values of any shape into the moments."""
        if values.size == 0:
            return
        count = self.count + values.size
        mean = float(values.mean())
        shift = mean - self.mean
        self._squares += float(((values - mean) ** 2).sum()) + shift**2 * self.count * values.size / count
        self.mean += shift * values.size / count
        self.count = count

    def standardise(self, values: Array) -> Array:
        """`(values − mean) / (std + ε)`."""
        return (values - self.mean) / (self.std + EPSILON)

    def state(self) -> Mapping[str, float]:
        """What must be saved for an exact resume, as JSON."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def restore(self, state: Mapping[str, float]) -> None:
        """Takes back what `state` returned."""
        self.count = int(state["count"])
        self.mean = state["mean"]
        self._squares = state["squares"]


def clipped(values: Array, limit: float | None) -> Array:
    """The values held within ±`limit`; as they are when it is None."""
    return values if limit is None else values.clip(-limit, limit)


def whitened(values: Array) -> Array:
    """The values with mean 0 and standard deviation 1 (0 throughout when all are alike)."""
    result: Array = (values - values.mean()) / (values.std() + EPSILON)
    return result
