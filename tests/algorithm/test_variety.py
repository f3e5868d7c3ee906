"""The reward for saying what is not said to everybody: it is distinct-2, shared out, and it forgets."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partner_rl.algorithm.reward_signal import RewardSignal
from partner_rl.algorithm.trajectory import SampledGroup, Trajectory
from partner_rl.algorithm.variety import Variety
from partner_rl.config.reward_schema import RewardsConfig, VarietyConfig
from partner_rl.config.schema import AlgorithmConfigSection
from partner_rl.types import Example, RewardBreakdown, ScoreRequest

EXAMPLE = Example("s", "r", "I feel low", "Go outside.")


def trajectory(*sentences):
    request = ScoreRequest("I feel low", "Go outside.", " ".join(sentences), sentences, ())
    return Trajectory((), request, RewardBreakdown({"empathy": 1.0}))


def group(*sentences, greedy=None):
    return SampledGroup(EXAMPLE, tuple(map(trajectory, sentences)), trajectory(greedy) if greedy else None)


def values(groups):
    return [t.breakdown.raw["variety"] for group in groups for t in group.trajectories]


def halves(groups, name):
    return [t.breakdown.details[f"variety/{name}"] for group in groups for t in group.trajectories]


def test_a_pair_is_worth_one_over_how_often_it_was_written():
    found = Variety(8, 0.5, 0.25).scored([group("I hear you", "I hear him"), group("You matter", "Yes")])
    # "i hear" twice, "hear you" and "hear him" once; one word is no pair.
    assert halves(found, "word_pairs") == pytest.approx([(1 / 2 + 1) / 2, (1 / 2 + 1) / 2, 1.0, 0.0])
    assert halves(found, "sentences") == [1.0] * 4
    assert values(found) == pytest.approx([(3 / 4 + 1) / 2, (3 / 4 + 1) / 2, 1.0, 0.5])


def test_the_commonest_sentence_of_a_rewrite_decides_and_a_candidate_may_hold_several():
    sampled = group("I'm sorry. Where is she?", "I'M SORRY! Eat.", "I'm sorry. Eat.", "Rest now.")
    found = Variety(4, 0.5, 0.25).scored([sampled])
    # Two of four other rewrites say "I'm sorry", twice the tolerance; case and punctuation make no new sentence.
    assert halves(found, "sentences") == pytest.approx([1 - np.log(2) / np.log(4)] * 3 + [1.0])


def test_what_is_said_within_the_tolerance_costs_nothing():
    found = Variety(4, 0.5, 0.25).scored([group("I'm sorry.", "I'm sorry.", "Rest now.")])
    assert halves(found, "sentences") == [1.0] * 3


def test_an_opening_that_all_share_is_common_where_openings_count():
    sampled = group("I'm sorry to hear you fell.", "I'm sorry to hear you lost it.", "I'm sorry you fell.", "Rest.")
    whole = halves(Variety(4, 0.5, 0.25).scored([sampled]), "sentences")
    assert whole == pytest.approx([1.0, 1.0, 1.0, 1.0])
    # Two others of a window of four begin with "I'm sorry": one half, twice the tolerance.
    opened = halves(Variety(4, 0.5, 0.25, opening_words=2).scored([sampled]), "sentences")
    assert opened == pytest.approx([0.5, 0.5, 0.5, 1.0])
    # With four words the third one opens in its own way.
    opened = halves(Variety(4, 0.5, 0.25, opening_words=4).scored([sampled]), "sentences")
    assert opened == pytest.approx([1.0, 1.0, 1.0, 1.0])


def test_what_everybody_says_is_worth_nothing():
    found = Variety(4, 0.5, 0.25).scored([group(*["I'm sorry. Eat."] * 5)])
    assert halves(found, "sentences") == pytest.approx([0.0] * 5)


def test_saying_nothing_is_not_new():
    empty = SampledGroup(EXAMPLE, (trajectory(), trajectory("...")), None)
    assert values(Variety(4, 0.5, 0.25).scored([empty])) == pytest.approx([0.0, 0.0])


SENTENCES = st.lists(st.lists(st.sampled_from("abc"), min_size=2, max_size=6).map(" ".join), min_size=1, max_size=8)


@given(SENTENCES)
def test_the_values_of_all_pairs_add_up_to_the_number_of_different_ones(sentences):
    found = halves(Variety(8, 0.5, 0.25).scored([group(*sentences)]), "word_pairs")
    words = [sentence.split() for sentence in sentences]
    pairs = [list(pairwise(row)) for row in words]
    total = sum(value * len(row) for value, row in zip(found, pairs, strict=True))
    assert total == pytest.approx(len({pair for row in pairs for pair in row}))


@given(st.lists(SENTENCES, min_size=1, max_size=5), st.integers(1, 6))
def test_what_is_remembered_is_the_window_and_no_more(iterations, window):
    kept = Variety(window, 0.5, 0.25)
    for sentences in iterations:
        kept.scored([group(*sentences)])
    recent = [sentence for sentences in iterations for sentence in sentences][-window:]
    fresh = Variety(window, 0.5, 0.25)
    fresh.scored([group(*recent)])
    assert values(kept.scored([group("a b c a")])) == values(fresh.scored([group("a b c a")]))


def test_a_greedy_rollout_counts_itself_and_is_not_remembered():
    variety = Variety(8, 0.5, 0.25)
    (found,) = variety.scored([group("I hear you", greedy="I hear you")])
    assert found.greedy.breakdown.raw["variety"] == pytest.approx((1 / 2 + 1) / 2)
    assert found.trajectories[0].breakdown.raw["variety"] == 1.0
    assert values(variety.scored([group("I hear you")])) == [pytest.approx((1 / 2 + 1) / 2)]


def signal(normalization="none", **section):
    rewards = RewardsConfig(variety=VarietyConfig(**{"window": 4, "sentence_share": 0.5} | section))
    return RewardSignal(AlgorithmConfigSection(normalization=normalization), rewards)


GROUPS = [group("I hear you", "I hear you", "Who is there"), group("I hear you", "What helps you", "I hear you")]


def test_it_joins_the_reward_with_its_weight():
    found = signal(weight=2.0).advantages(GROUPS, 1)
    breakdown = found.groups[0].trajectories[2].breakdown
    assert breakdown.raw["variety"] == 1.0
    assert breakdown.total == pytest.approx(sum(breakdown.weighted.values())) == pytest.approx(3.0)
    # Empathy is the same everywhere: what is new is all that there is to prefer.
    assert (found.advantages_GK[0, 2] > 0) & (found.advantages_GK[1, 1] > 0)


def test_it_is_normalised_in_its_group_as_any_component():
    found = signal("group", weight=0.5).advantages(GROUPS, 1)
    assert found.normalised["variety"].shape == (2, 3)
    np.testing.assert_allclose(found.parts["variety"], 0.5 * found.normalised["variety"])


def test_sentences_weigh_as_much_as_they_are_given():
    pairs, sentences = (
        values(Variety(2, share, 0.25).scored([group("I hear you", "Yes", "I hear you")])) for share in (0.0, 1.0)
    )
    assert pairs == pytest.approx([1 / 2, 0.0, 1 / 2])
    assert sentences == pytest.approx([1 / 2, 1.0, 1 / 2])


def test_its_weight_can_follow_a_schedule():
    scheduled = signal(schedule=((1, 0.0), (3, 1.0)))
    totals = [scheduled.advantages([group("x y", "z w")], at).groups[0].trajectories[0].breakdown for at in (1, 2, 3)]
    assert [b.weighted["variety"] / b.raw["variety"] for b in totals] == pytest.approx([0.0, 0.5, 1.0])


def test_without_a_weight_the_reward_is_left_alone():
    found = signal().advantages(GROUPS, 1)
    assert [set(t.breakdown.raw) for group in found.groups for t in group.trajectories] == [{"empathy"}] * 6


def test_a_resumed_signal_goes_on_as_the_one_that_was_saved():
    ran, resumed = signal(weight=1.0, window=4), signal(weight=1.0, window=4)
    ran.advantages(GROUPS, 1)
    resumed.restore(json.loads(json.dumps(ran.state())))
    np.testing.assert_array_equal(resumed.advantages(GROUPS, 2).advantages_GK, ran.advantages(GROUPS, 2).advantages_GK)


def test_a_window_of_none_is_refused():
    with pytest.raises(ValueError, match="greater than 0"):
        VarietyConfig(window=0)
