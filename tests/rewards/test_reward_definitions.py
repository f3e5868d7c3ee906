"""The pure halves of the components against sums done by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from partner_rl.types import MECHANISMS, PartnerError, RewardBreakdown, ScoreRequest
from rewards.assembly import assemble, collect_items
from rewards.coherence import NEUTRAL, CoherenceReward, mean_probability, whole_response_items
from rewards.empathy import EmpathyReward
from rewards.fluency import FluencyReward
from rewards.mutual_information import MutualInformationReward
from rewards.scorer import ComponentScore, FloatArray, Item


def request(
    candidates: tuple[str, ...] = ("New.",), others: tuple[str, ...] = ("Old one.", "Old two.")
) -> ScoreRequest:
    return ScoreRequest("Seeker.", "Old one. Old two.", "New. Old one. Old two.", candidates, others)


def test_empathy_is_rewritten_minus_original_summed_over_mechanisms():
    reward = EmpathyReward()
    old, new = "Old one. Old two.", "New. Old one. Old two."
    assert reward.items(request()) == (("Seeker.", new, old), ("Seeker.", old, new))
    unchanged = ScoreRequest("Seeker.", old, old, (), ("Old one.", "Old two."))
    assert reward.items(unchanged) == (("Seeker.", old), ("Seeker.", old))
    score = reward.combine(request(), np.array([[2.0, 0.5, 1.0], [0.5, 0.5, 1.25]], np.float32))
    assert score.value == pytest.approx(1.25)
    assert score.details == pytest.approx(dict(zip(MECHANISMS, (1.5, 0.0, -0.25), strict=True)))


def test_fluency_is_the_inverse_perplexity_where_nothing_is_repeated():
    reward = FluencyReward()
    assert reward.items(request()) == (("New. Old one. Old two.",),)
    assert reward.combine(request(), np.array([[0.125, 0.125, 0.0]], np.float32)).value == 0.125


def test_repeats_earn_nothing_and_cost_their_share():
    values = np.array([[0.5, 0.125, 0.75]], np.float32)
    assert FluencyReward().combine(request(), values).value == 0.125 * 0.25
    assert FluencyReward(2.0).combine(request(), values).value == 0.125 * 0.0625
    assert FluencyReward(0.0).combine(request(), values).value == 0.125
    assert FluencyReward(None).combine(request(), values).value == 0.5
    # Repeats that the language model did not expect are not worth more for being repeats.
    assert FluencyReward(0.0).combine(request(), np.array([[0.125, 0.5, 0.75]], np.float32)).value == 0.125
    assert FluencyReward().combine(request(), values).details == {"inverse_perplexity": 0.5, "repeated": 0.75}


def test_coherence_is_the_mean_over_candidates_and_others():
    reward = CoherenceReward()
    two = request(("A.", "B."), ("x.", "y.", "z."))
    items = reward.items(two)
    assert items == (("A.", "x."), ("A.", "y."), ("A.", "z."), ("B.", "x."), ("B.", "y."), ("B.", "z."))
    values = np.array([[0.1], [0.2], [0.3], [0.4], [0.5], [0.9]], np.float32)
    assert reward.combine(two, values).value == pytest.approx(0.4)


@pytest.mark.parametrize("nothing", [request((), ("x.",)), request(("A.",), ()), request((" ",), ("x.", "\n"))])
def test_coherence_of_nothing_to_compare_is_neutral(nothing: ScoreRequest):
    reward = CoherenceReward()
    assert reward.items(nothing) == ()
    assert reward.combine(nothing, np.zeros((0, 1), np.float32)).value == NEUTRAL


def test_whole_response_coherence_asks_for_all_ordered_pairs():
    assert set(whole_response_items(["a.", "b.", " "])) == {("a.", "b."), ("b.", "a.")}
    assert len(whole_response_items(["a.", "b.", "c."])) == 6
    assert mean_probability(np.zeros((0, 1), np.float32)) == NEUTRAL


@pytest.mark.parametrize(
    ("share", "expected", "details"),
    [
        (0.0, -4.0, {"backward": -4.0}),
        (0.5, -3.0, {"forward": -2.0, "backward": -4.0}),
        (1.0, -2.0, {"forward": -2.0}),
    ],
)
def test_mutual_information_weighs_forward_and_backward(share: float, expected: float, details: dict[str, float]):
    reward = MutualInformationReward(share)
    assert reward.items(request()) == (("Seeker.", "New. Old one. Old two.", "Old one. Old two."),)
    score = reward.combine(request(), np.array([[-2.0, -4.0]], np.float32))
    assert score.value == pytest.approx(expected)
    assert score.details == details


@dataclass(frozen=True)
class Constant:
    """A component without a model."""

    score: ComponentScore
    name: str = "a"
    width: int = 1

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        return ()

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        return self.score


def assembled(*definitions: Constant) -> RewardBreakdown:
    tables = {definition.name: collect_items(definition, [request()]) for definition in definitions}
    values = {definition.name: np.zeros((0, 1), np.float32) for definition in definitions}
    (breakdown,) = assemble([request()], definitions, tables, values)
    return breakdown


def test_the_reward_is_the_weighted_sum_of_the_components():
    breakdown = assembled(Constant(ComponentScore(2.0, {"x": 7.0})), Constant(ComponentScore(0.5), "b"))
    assert (breakdown.raw, breakdown.details) == ({"a": 2.0, "b": 0.5}, {"a/x": 7.0})
    weighed = breakdown.weighed({"a": 1.5, "b": -4.0, "c": 3.0})
    assert weighed.weighted == {"a": 3.0, "b": -2.0}
    assert sum(weighed.weighted.values()) == weighed.total == pytest.approx(1.0)
    assert (weighed.raw, weighed.details) == (breakdown.raw, breakdown.details)
    with pytest.raises(PartnerError, match="no weight for the reward component a"):
        breakdown.weighed({"b": 1.0})


@pytest.mark.parametrize(
    "score", [ComponentScore(math.nan), ComponentScore(math.inf), ComponentScore(1.0, {"detail": -math.inf})]
)
def test_scores_that_are_not_finite_are_refused(score: ComponentScore):
    with pytest.raises(PartnerError, match="'a"):
        assembled(Constant(score))
