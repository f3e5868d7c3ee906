"""Sentences about the writer's own life are told from those about the reader; the reward and the figures count them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partner_rl.algorithm.guard_figures import GuardFigures, guard_figures
from partner_rl.algorithm.honesty import honesty
from partner_rl.algorithm.reward_signal import RewardSignal
from partner_rl.algorithm.trajectory import SampledGroup, Trajectory
from partner_rl.config.reward_schema import HonestyConfig, RewardsConfig
from partner_rl.config.schema import AlgorithmConfigSection
from partner_rl.evaluation.metrics.self_disclosure import share_disclosing
from partner_rl.self_disclosure import speaks_of_itself
from partner_rl.types import Example, RewardBreakdown, ScoreRequest

ABOUT_THE_READER = (
    "I'm sorry to hear that.",
    "I am so sorry you're going through this.",
    "I’m really glad you reached out.",
    "I hope you feel better soon.",
    "I understand how you feel.",
    "I can imagine how hard that must be.",
    "I can't imagine how painful that is.",
    "I don't know what to say, but I am here.",
    "I wish I could help.",
    "I'd love to hear more.",
    "I know this must be painful.",
    "I feel for you.",
    "My heart goes out to you.",
    "Do you want to tell me more?",
    "Let me know if you want to talk to me.",
    "We all need help sometimes.",
    "That must be really hard.",
    "What happened?",
    "You are not alone, my friend.",
    "",
    "...",
)
ABOUT_THE_WRITER = (
    "I've been feeling the same way.",
    "I’ve been there.",
    "I know that feeling.",
    "I know how you feel because it happened to me.",
    "I'm sorry, I've had this too.",
    "I'm in the same boat.",
    "I'm 21 and still feel the same way.",
    "I'm such an old man.",
    "I'm happy.",
    "I'm too.",
    "I want to die.",
    "I hope to die.",
    "I wish I were dead.",
    "My mom did the same.",
    "We went through the same.",
    "Me too.",
    "Same here.",
    "Been there.",
    "I'm just so frustrated with myself.",
)


@pytest.mark.parametrize("sentence", ABOUT_THE_READER)
def test_what_is_about_the_reader_may_be_said(sentence):
    assert not speaks_of_itself(sentence)


@pytest.mark.parametrize("sentence", ABOUT_THE_WRITER)
def test_what_is_about_the_writer_is_found(sentence):
    assert speaks_of_itself(sentence)
    assert speaks_of_itself(sentence.upper())


@given(st.text(max_size=200))
def test_any_text_has_an_answer_and_without_a_first_person_it_is_no(text):
    found = speaks_of_itself(text)
    if not set("imwous") & set(text.casefold()):
        assert not found


def request(*candidates):
    return ScoreRequest("I feel low", "Go outside.", " ".join(("Go outside.", *candidates)), candidates, ())


def test_honesty_is_the_share_of_written_sentences_and_a_candidate_may_hold_several():
    assert honesty(request()) == 1.0
    assert honesty(request("I'm sorry to hear that. What happened?")) == 1.0
    assert honesty(request("I'm sorry to hear that. I've been there.")) == 0.5
    assert honesty(request("I've been there. Me too.", "What happened? I hope you rest.")) == 0.5
    assert honesty(request("Me too.")) == 0.0


def test_the_share_of_rewrites_with_such_a_sentence():
    assert share_disclosing([("Me too.", "Same here."), ("What happened?",), (), ("I hope you rest.",)]) == 1 / 4


def trajectory(*candidates):
    return Trajectory((), request(*candidates), RewardBreakdown(1.0, {"empathy": 1.0}, {"empathy": 1.0}))


def signal(normalization="none", **section):
    rewards = RewardsConfig(honesty=HonestyConfig(**section))
    return RewardSignal(AlgorithmConfigSection(normalization=normalization), rewards)


GROUP = SampledGroup(
    Example("s", "r", "I feel low", "Go outside."),
    (trajectory("I've been there."), trajectory("That is hard."), trajectory("Me too.")),
    trajectory("I'm sorry. Same here."),
)


@pytest.mark.parametrize("normalization", ["none", "running", "group"])
def test_of_equal_empathy_the_honest_rewrite_is_preferred(normalization):
    found = signal(normalization, weight=2.0).advantages([GROUP], 1)
    first, honest, second = found.advantages_GK[0]
    assert honest > 0 > first == second
    breakdown = found.groups[0].trajectories[1].breakdown
    assert (breakdown.raw["honesty"], breakdown.weighted["honesty"]) == (1.0, 2.0)
    assert breakdown.total == pytest.approx(sum(breakdown.weighted.values())) == pytest.approx(3.0)
    assert found.groups[0].greedy.breakdown.raw["honesty"] == 0.5


def test_its_weight_can_follow_a_schedule():
    scheduled = signal(schedule=((1, 0.0), (3, 1.0)))
    weights = [
        scheduled.advantages([GROUP], at).groups[0].trajectories[1].breakdown.weighted["honesty"] for at in (1, 2, 3)
    ]
    assert weights == pytest.approx([0.0, 0.5, 1.0])


def test_without_a_weight_the_reward_is_left_alone():
    assert signal().advantages([GROUP], 1).groups == (GROUP,)


def test_the_guards_count_rewrites_with_such_a_sentence():
    figures = guard_figures([request("Me too. Same here."), request("What happened?"), request()], None, 1.0)
    assert (figures.disclosing, figures.episodes) == (1, 3)
    content = json.loads(json.dumps(figures.as_json()))
    assert GuardFigures.from_json(content) == figures
    # States that were saved before there was such a count.
    del content["disclosing"]
    assert GuardFigures.from_json(content).disclosing == 0
