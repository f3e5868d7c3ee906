"""From rewards to advantages: weights of this iteration → normalisation → estimator.

| `algorithm.normalization` | what the estimator sees |
|---|---|
| `none` | the total reward, `Σ w_c r_c` |
| `running` | `Σ w_c z_c`, where `z_c` is the component standardised by its mean and std over all samples so far |
| `group` | each component alone; the results are divided by their group's std, weighted, summed and whitened |

The last one is GDPO (Liu et al., 2026). With `rewards.empathy.normalize: mechanisms` the last two see the change of
each mechanism as a component of its own, with a third of the weight. Axes: `G` group, `K` sample of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from partner_rl.algorithm.advantages.estimator import Array, group_std
from partner_rl.algorithm.advantages.registry import build_estimator
from partner_rl.algorithm.honesty import with_honesty
from partner_rl.algorithm.normalization import RunningMoments, clipped, whitened
from partner_rl.algorithm.schedules import constant_weights, reweighted, scheduled_weights
from partner_rl.algorithm.trajectory import AdvantageBatch, SampledGroup, Trajectory
from partner_rl.algorithm.variety import Variety
from partner_rl.config.reward_schema import RewardsConfig, VarietyConfig
from partner_rl.config.schema import AlgorithmConfigSection
from partner_rl.types import MECHANISMS, PartnerError, RewardBreakdown

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
    """Turns the rewards of an iteration into advantages.

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
        """The signal of an iteration; also takes its rewards into the running figures.

        Args:
            sampled: The groups, all of the same size.
            iteration: Counted from 1, as schedules count.

        Raises:
            PartnerError: A component has no weight, or not every sample has every component.
        """
        scheduled = scheduled_weights(self._rewards, iteration)
        scored = self._variety.rewarded(sampled) if self._variety else sampled
        if self._rewards.honesty.is_active:
            scored = with_honesty(scored, self._rewards.honesty.weight)
        groups = tuple(_at_weights(group, scheduled) for group in scored)
        weights = constant_weights(self._rewards) | scheduled
        normalised: dict[str, Array] = {}
        match self._settings.normalization:
            case "none":
                parts = _weighted(groups)
                advantages_GK = self._estimate(_rewards(groups, lambda breakdown: breakdown.total))
            case "running":
                components, weights = self._components(groups, weights)
                standardised = self._standardised(components)
                normalised = {name: rewards.sampled_GK for name, rewards in standardised.items()}
                parts = {name: weights[name] * values for name, values in normalised.items()}
                advantages_GK = self._estimate(_weighted_sum(standardised, weights))
            case "group":
                components, weights = self._components(groups, weights)
                normalised = self._group_normalised(components)
                parts = {name: weights[name] * values for name, values in normalised.items()}
                advantages_GK = whitened(_sum(parts.values()))
        if self._settings.scale_advantages:
            advantages_GK = advantages_GK / (advantages_GK.std() + 1e-8)
        return AdvantageBatch(groups, advantages_GK, normalised, parts, scheduled)

    def _estimate(self, rewards: Rewards) -> Array:
        return self._estimator.advantages(rewards.sampled_GK, rewards.greedy_G)

    def _components(
        self, groups: Sequence[SampledGroup], weights: Mapping[str, float]
    ) -> tuple[dict[str, Rewards], dict[str, float]]:
        """What is normalised, each with its weight: the components, empathy by mechanism when that is asked for."""
        components = component_rewards(groups, weights)
        if not self._by_mechanism or EMPATHY not in components:
            return components, dict(weights)
        mechanisms = {name: _rewards(groups, partial(_detail, name)) for name in BY_MECHANISM}
        share = weights[EMPATHY] / len(mechanisms)
        others = {name: rewards for name, rewards in components.items() if name != EMPATHY}
        return {**others, **mechanisms}, {**weights, **dict.fromkeys(mechanisms, share)}

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
    return Variety(section.weight, section.window, section.sentence_share, section.tolerance, section.opening_words)


def component_rewards(groups: Sequence[SampledGroup], weights: Mapping[str, float]) -> dict[str, Rewards]:
    """Raw values of each component.

    Args:
        groups: The groups.
        weights: Component → weight; every component must have one.

    Raises:
        PartnerError: A component has no weight, or not every sample has every component.
    """
    rollouts = [t for group in groups for t in (*group.trajectories, *([group.greedy] if group.greedy else []))]
    names = list(rollouts[0].breakdown.raw)
    unknown = sorted(set(names) - weights.keys())
    if not names or unknown or any(t.breakdown.raw.keys() != set(names) for t in rollouts):
        raise PartnerError(
            f"algorithm.normalization needs the same weighted components in every reward (found {names}, no weight for "
            f"{unknown}): score with components of rewards.*, or set algorithm.normalization=none"
        )
    return {name: _rewards(groups, partial(_raw, name)) for name in names}


def _raw(name: str, breakdown: RewardBreakdown) -> float:
    return breakdown.raw[name]


def _detail(name: str, breakdown: RewardBreakdown) -> float:
    if name not in breakdown.details:
        raise PartnerError(
            f"rewards.empathy.normalize=mechanisms needs {name} among the details of every reward, and one has only "
            f"{sorted(breakdown.details)}: use the empathy scorer that comes with the package, or set normalize=sum"
        )
    return breakdown.details[name]


def _at_weights(group: SampledGroup, weights: Mapping[str, float]) -> SampledGroup:
    if not weights:
        return group

    def at_weights(trajectory: Trajectory) -> Trajectory:
        return replace(trajectory, breakdown=reweighted(trajectory.breakdown, weights))

    greedy = at_weights(group.greedy) if group.greedy else None
    return replace(group, trajectories=tuple(map(at_weights, group.trajectories)), greedy=greedy)


def _rewards(groups: Sequence[SampledGroup], value: Callable[[RewardBreakdown], float]) -> Rewards:
    greedy = [value(group.greedy.breakdown) for group in groups if group.greedy]
    return Rewards(
        np.array([[value(t.breakdown) for t in group.trajectories] for group in groups], dtype=np.float64),
        np.array(greedy, dtype=np.float64) if greedy else None,
    )


def _weighted(groups: Sequence[SampledGroup]) -> dict[str, Array]:
    """The weighted components that all samples have, by name."""
    breakdowns = [[t.breakdown.weighted for t in group.trajectories] for group in groups]
    names = [name for name in breakdowns[0][0] if all(name in weighted for row in breakdowns for weighted in row)]
    return {name: np.array([[weighted[name] for weighted in row] for row in breakdowns]) for name in names}


def _weighted_sum(components: Mapping[str, Rewards], weights: Mapping[str, float]) -> Rewards:
    greedy = [weights[name] * rewards.greedy_G for name, rewards in components.items() if rewards.greedy_G is not None]
    return Rewards(
        _sum(weights[name] * rewards.sampled_GK for name, rewards in components.items()),
        _sum(greedy) if greedy else None,
    )


def _sum(terms: Iterable[Array]) -> Array:
    total: Array = np.sum(list(terms), axis=0)
    return total
