"""From rewards to advantages: estimators, normalisers, schedules and KL control against numbers worked out by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from partner_rl.algorithm.advantages.estimator import EPSILON
from partner_rl.algorithm.advantages.grpo import GroupRelative
from partner_rl.algorithm.advantages.self_critical import SelfCritical
from partner_rl.algorithm.kl_control import KlController
from partner_rl.algorithm.reward_signal import RewardSignal, RunningMoments, weight_at
from partner_rl.algorithm.trajectory import SampledGroup, Trajectory
from partner_rl.config.load import assignments, load_config
from partner_rl.config.reward_schema import CoherenceConfig, EmpathyConfig, FluencyConfig, RewardsConfig
from partner_rl.config.schema import AlgorithmConfigSection
from partner_rl.types import Example, PartnerError, RewardBreakdown, ScoreRequest
from rewards.registry import active_components

WEIGHTS = {"empathy": 1.0, "fluency": 10.0}
EXAMPLE = Example("s", "r", "I feel low", "Go outside.")
REQUEST = ScoreRequest("I feel low", "Go outside.", "Go outside. I hear you.", ("I hear you.",), ("Go outside.",))


def breakdown(empathy, fluency):
    return RewardBreakdown({"empathy": float(empathy), "fluency": float(fluency)})


def group(pairs, greedy=None):
    trajectories = tuple(Trajectory((), REQUEST, breakdown(*pair)) for pair in pairs)
    return SampledGroup(EXAMPLE, trajectories, Trajectory((), REQUEST, breakdown(*greedy)) if greedy else None)


def rewards_config(**sections):
    return RewardsConfig(**{"empathy": EmpathyConfig(), "fluency": FluencyConfig()} | sections)


def signal_of(rewards=None, **algorithm):
    return RewardSignal(AlgorithmConfigSection(**algorithm), rewards or rewards_config())


GROUPS = [group([(1.0, 0.1), (3.0, 0.3)]), group([(0.0, 0.2), (0.0, 0.6)])]


def test_without_normalisation_the_estimator_sees_the_totals():
    signal = signal_of().advantages(GROUPS, 1)
    # Totals 2 and 6; 2 and 6.
    np.testing.assert_allclose(signal.advantages_GK, [[-4, 4], [-4, 4]])
    assert signal.groups == tuple(g.each(lambda t: replace(t, breakdown=t.breakdown.weighed(WEIGHTS))) for g in GROUPS)
    assert signal.normalised == {}
    np.testing.assert_allclose(signal.parts["fluency"], [[1, 3], [2, 6]])


def test_group_relative_advantages_are_in_standard_deviations_of_the_group():
    advantages = GroupRelative().advantages(np.array([[1.0, 3.0], [5.0, 5.0]]))
    np.testing.assert_allclose(advantages, [[-1 / (1 + EPSILON), 1 / (1 + EPSILON)], [0, 0]])


def test_group_relative_advantages_ignore_shift_and_scale_of_the_rewards():
    rewards = np.random.default_rng(0).normal(size=(4, 6))
    found = GroupRelative().advantages(1000 * rewards - 7)
    np.testing.assert_allclose(found, GroupRelative().advantages(rewards), rtol=1e-3)
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-9)


def test_self_critical_advantages_are_what_the_greedy_rollout_is_beaten_by():
    found = SelfCritical().advantages(np.array([[1.0, 4.0], [2.0, 2.0]]), np.array([3.0, 2.0]))
    np.testing.assert_array_equal(found, [[-2, 1], [0, 0]])
    with pytest.raises(ValueError, match="greedy"):
        SelfCritical().advantages(np.zeros((1, 2)))


def test_the_greedy_reward_reaches_the_self_critical_estimator():
    groups = [group([(1.0, 0.1), (3.0, 0.3)], greedy=(2.0, 0.1)), group([(0.0, 0.2), (0.0, 0.6)], greedy=(0.0, 0.1))]
    signal = signal_of(advantage="self_critical")
    assert signal.needs_greedy
    np.testing.assert_allclose(signal.advantages(groups, 1).advantages_GK, [[-1, 3], [1, 5]])
    assert not signal_of(advantage="rloo").needs_greedy


@pytest.mark.parametrize("advantage", ["self_critical", "rloo", "grpo"])
@pytest.mark.parametrize("normalization", ["none", "group"])
def test_a_baseline_of_the_same_state_takes_a_shift_of_its_rewards_away(advantage, normalization):
    pairs = np.random.default_rng(0).normal(size=(2, 4, 2))

    def advantages(shift):
        shifts = (shift, 0.0)
        groups = [
            group([(e + moved, f) for e, f in rows], greedy=(0.5 + moved, 0.1))
            for rows, moved in zip(pairs, shifts, strict=True)
        ]
        return signal_of(advantage=advantage, normalization=normalization).advantages(groups, 1).advantages_GK

    np.testing.assert_allclose(advantages(0.0), advantages(5.0), atol=1e-9)


def test_running_moments_are_those_of_all_values():
    batches = [np.array([[1.0, 2.0]]), np.array([[4.0, 4.0, 9.0]]), np.zeros((0, 2))]
    moments = RunningMoments()
    for batch in batches:
        moments.update(batch)
    values = np.array([1.0, 2.0, 4.0, 4.0, 9.0])
    assert moments.count == 5
    assert moments.mean == pytest.approx(values.mean())
    assert moments.std == pytest.approx(values.std())
    np.testing.assert_allclose(moments.standardise(np.array([4.0 + values.std()])), [1.0], rtol=1e-4)


def test_running_moments_keep_their_precision_far_from_zero():
    rng = np.random.default_rng(0)
    moments = RunningMoments()
    for _ in range(200):
        moments.update(1e8 + rng.normal(size=(4, 8)))
    assert moments.std == pytest.approx(1.0, rel=0.05)


def test_running_normalisation_makes_components_comparable():
    signal = signal_of(normalization="running").advantages(GROUPS, 1)
    empathy, fluency = np.array([1.0, 3, 0, 0]), np.array([0.1, 0.3, 0.2, 0.6])
    z_e = (empathy - 1.0) / (math.sqrt(1.5) + EPSILON)
    z_f = (fluency - 0.3) / (math.sqrt(0.035) + EPSILON)
    np.testing.assert_allclose(signal.normalised["empathy"].ravel(), z_e, atol=1e-12)
    np.testing.assert_allclose(signal.normalised["fluency"].ravel(), z_f, atol=1e-12)
    totals = (z_e + 10 * z_f).reshape(2, 2)
    np.testing.assert_allclose(signal.advantages_GK, totals - totals[:, ::-1])
    # What is logged as the reward keeps its own units.
    assert signal.groups[0].trajectories[0].breakdown.total == 2.0


def test_component_clip_holds_normalised_values():
    signal = signal_of(normalization="running", component_clip=0.5).advantages(GROUPS, 1)
    assert abs(signal.normalised["empathy"]).max() == 0.5
    signal = signal_of(normalization="group", component_clip=0.5).advantages(GROUPS, 1)
    assert abs(signal.normalised["fluency"]).max() == 0.5


def test_group_normalisation_gives_each_component_the_same_say_in_each_group():
    signal = signal_of(normalization="group", advantage="grpo").advantages(GROUPS, 1)
    half_e, half_f, half_f2 = 1 / (1 + EPSILON), 0.1 / (0.1 + EPSILON), 0.2 / (0.2 + EPSILON)
    np.testing.assert_allclose(signal.normalised["empathy"], [[-half_e, half_e], [0, 0]])
    np.testing.assert_allclose(signal.normalised["fluency"], [[-half_f, half_f], [-half_f2, half_f2]], atol=1e-12)
    summed = np.array([[-half_e - 10 * half_f, half_e + 10 * half_f], [-10 * half_f2, 10 * half_f2]])
    np.testing.assert_allclose(signal.advantages_GK, summed / (summed.std() + EPSILON))


def test_group_normalisation_divides_rloo_once_and_grpo_not_again():
    rloo = signal_of(normalization="group", advantage="rloo").advantages(GROUPS, 1)
    grpo = signal_of(normalization="group", advantage="grpo").advantages(GROUPS, 1)
    # Leave-one-out is K / (K − 1) = 2 times the difference to the group's mean; whitening takes the factor away.
    np.testing.assert_allclose(rloo.normalised["empathy"], 2 * grpo.normalised["empathy"])
    np.testing.assert_allclose(rloo.advantages_GK, grpo.advantages_GK, rtol=1e-3)


def test_scores_without_weights_are_refused():
    groups = [SampledGroup(EXAMPLE, (Trajectory((), REQUEST, RewardBreakdown({"letters": 1.0})),) * 2)]
    with pytest.raises(PartnerError, match="no weight for the reward component letters"):
        signal_of().advantages(groups, 1)


def test_all_responses_must_have_the_same_components():
    ones = (Trajectory((), REQUEST, RewardBreakdown({name: 1.0})) for name in ("empathy", "fluency"))
    with pytest.raises(PartnerError, match="the same components"):
        signal_of().advantages([SampledGroup(EXAMPLE, tuple(ones))], 1)


def test_a_schedule_is_linear_between_its_points():
    points = ((1, 0.0), (5, 2.0), (6, 1.0))
    assert [weight_at(points, i) for i in (1, 2, 4, 5, 6, 100)] == [0.0, 0.5, 1.5, 2.0, 1.0, 1.0]
    assert weight_at(((10, 3.0),), 1) == 3.0


def test_scheduled_weights_replace_the_constant_ones_in_training():
    rewards = rewards_config(fluency=FluencyConfig(schedule=((1, 0.0), (3, 20.0))))
    signal = signal_of(rewards)
    first, second, last = (signal.advantages(GROUPS, i) for i in (1, 2, 3))
    np.testing.assert_allclose(first.advantages_GK, [[-2, 2], [0, 0]])
    np.testing.assert_allclose(second.advantages_GK, [[-4, 4], [-4, 4]])
    np.testing.assert_allclose(last.advantages_GK, [[-6, 6], [-8, 8]])
    assert last.scheduled == {"fluency": 20.0}
    assert last.groups[0].trajectories[1].breakdown.weighted == {"empathy": 3.0, "fluency": 6.0}
    assert last.groups[0].trajectories[1].breakdown.total == 9.0


def test_a_scheduled_component_must_be_scored():
    rewards = rewards_config(coherence=CoherenceConfig(schedule=((1, 0.0), (3, 1.0))))
    assert signal_of(rewards).advantages(GROUPS, 1).scheduled == {"coherence": 0.0}
    with pytest.raises(PartnerError, match=r"not scored: \['coherence'\]"):
        signal_of(rewards).advantages(GROUPS, 2)


def test_a_component_is_scored_when_it_weighs_something_at_some_time(tmp_path):
    keys = {f"rewards.{name}.weight": 0.0 for name in ("fluency", "coherence", "mutual_information")}
    schedules = {"rewards.fluency.schedule": [[1, 0.0], [9, 1.0]], "rewards.coherence.schedule": [[1, 0.0]]}
    config = load_config("smoke", assignments(keys | schedules))
    assert config.rewards.fluency.schedule == ((1, 0.0), (9, 1.0))
    assert list(active_components(config, tmp_path)) == ["empathy", "fluency"]


@pytest.mark.parametrize("schedule", [[], [[3, 1.0], [3, 2.0]], [[0, 1.0]], [[1, 1.0, 2.0]]])
def test_a_schedule_that_makes_no_sense_is_one_clear_error(schedule):
    with pytest.raises(PartnerError, match=r"rewards\.fluency"):
        load_config("smoke", assignments({"rewards.fluency.schedule": schedule}))


@pytest.mark.parametrize("advantage", ["reinforce", "grpo"])
@pytest.mark.parametrize("normalization", ["none", "running", "group"])
def test_a_restored_signal_goes_on_where_it_was(advantage, normalization):
    def fresh():
        return signal_of(advantage=advantage, normalization=normalization)

    first, second = fresh(), fresh()
    first.advantages(GROUPS, 1)
    second.restore(json.loads(json.dumps(first.state())))
    later = [group([(2.0, 0.7), (1.0, 0.1)]), group([(0.5, 0.2), (0.0, 0.3)])]
    np.testing.assert_array_equal(first.advantages(later, 2).advantages_GK, second.advantages(later, 2).advantages_GK)


def test_the_kl_coefficient_follows_the_divergence():
    control = KlController(0.5, target=0.1, horizon=10)
    control.update(0.11)
    assert control.coefficient == pytest.approx(0.5 * 1.01)
    control.update(5.0)
    assert control.coefficient == pytest.approx(0.5 * 1.01 * 1.02)
    control.update(0.0)
    assert control.coefficient == pytest.approx(0.5 * 1.01 * 1.02 * 0.98)
    again = KlController(0.5, target=0.1, horizon=10)
    again.restore(json.loads(json.dumps(control.state())))
    assert again.coefficient == control.coefficient


def test_without_a_target_the_kl_coefficient_stays():
    control = KlController(0.5, target=None, horizon=10)
    control.update(5.0)
    control.restore({"coefficient": 3.0, "scale": 1.0})
    assert (control.coefficient, control.adaptive) == (0.5, False)


MECHANISM_NAMES = ("empathy/emotional_reactions", "empathy/interpretations", "empathy/explorations")


def felt(*changes):
    """A rewrite whose mechanisms change by these."""
    details = dict(zip(MECHANISM_NAMES, map(float, changes), strict=True))
    total = float(sum(changes))
    return Trajectory((), REQUEST, RewardBreakdown({"empathy": total}, details))


def by_mechanism(normalization, weight=3.0):
    empathy = EmpathyConfig(weight=weight, normalize="mechanisms")
    return signal_of(rewards_config(empathy=empathy), normalization=normalization, component_clip=None)


def test_each_mechanism_is_normalised_on_its_own():
    # Explorations vary ten times as much as emotional reactions, and would decide alone.
    groups = [SampledGroup(EXAMPLE, (felt(0.1, 0, 0), felt(0, 0, 1), felt(0.1, 0, 1), felt(0, 0, 0)))]
    found = by_mechanism("group").advantages(groups, 1)
    assert set(found.parts) == set(MECHANISM_NAMES)
    reactions, _, explorations = (found.parts[name] for name in MECHANISM_NAMES)
    np.testing.assert_allclose(reactions, reactions[0, 0] * np.array([[1, -1, 1, -1]]), rtol=1e-6)
    np.testing.assert_allclose(reactions[0, 0], explorations[0, 1], rtol=1e-2)
    np.testing.assert_allclose(found.parts[MECHANISM_NAMES[1]], 0.0)
    assert found.advantages_GK[0, 0] == pytest.approx(found.advantages_GK[0, 1], abs=1e-2)
    # The reward itself stays the sum.
    assert [t.breakdown.raw["empathy"] for t in found.groups[0].trajectories] == [0.1, 1.0, 1.1, 0.0]


def test_a_mechanism_has_a_third_of_empathys_weight_also_while_it_changes():
    groups = [SampledGroup(EXAMPLE, (felt(1, 0, 0), felt(0, 0, 0)))]
    once, twice = (by_mechanism("running", weight).advantages(groups, 1) for weight in (3.0, 6.0))
    name = MECHANISM_NAMES[0]
    np.testing.assert_allclose(once.parts[name], once.normalised[name])
    np.testing.assert_allclose(twice.parts[name], 2 * once.parts[name])
    scheduled = EmpathyConfig(normalize="mechanisms", schedule=((1, 6.0), (3, 0.0)))
    signal = signal_of(rewards_config(empathy=scheduled), normalization="running", component_clip=None)
    np.testing.assert_allclose(signal.advantages(groups, 1).parts[name], twice.parts[name])
    np.testing.assert_allclose(signal.advantages(groups, 3).parts[name], 0.0)


def test_mechanisms_resume_where_they_stopped():
    groups = [SampledGroup(EXAMPLE, (felt(1, 0, 2), felt(0, 1, 0)))]
    ran, resumed = by_mechanism("running"), by_mechanism("running")
    ran.advantages(groups, 1)
    resumed.restore(json.loads(json.dumps(ran.state())))
    np.testing.assert_array_equal(resumed.advantages(groups, 2).advantages_GK, ran.advantages(groups, 2).advantages_GK)


def test_a_scorer_that_reports_no_mechanisms_is_named():
    with pytest.raises(PartnerError, match=r"empathy/emotional_reactions among the details.*normalize=sum"):
        by_mechanism("group").advantages([group([(1.0, 0.1), (2.0, 0.1)])], 1)


def test_mechanisms_without_normalisation_are_refused():
    with pytest.raises(PartnerError, match=r"normalize=mechanisms normalises nothing"):
        load_config("smoke", ["rewards.empathy.normalize=mechanisms", "algorithm.normalization=none"])
