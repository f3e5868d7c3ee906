"""Scores of whole systems, with rewards that can be computed by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from partner_rl.config.reward_schema import RewardSection
from partner_rl.config.schema import EnvConfig
from partner_rl.evaluation.component_scores import whole_response_coherence
from partner_rl.evaluation.systems import SystemScores, evaluate_system, original_requests
from partner_rl.types import Example, PartnerError, ScoreRequest
from rewards.local import LocalRewards
from rewards.scorer import RewardComponent
from tests.evaluation.toy import DEFINITIONS, CountingBuilder

CLIENT = LocalRewards(
    {name: RewardComponent(d, CountingBuilder(name), RewardSection(weight=1.0)) for name, d in DEFINITIONS.items()}
)
EXAMPLES = [
    Example("s1", "r1", "I lost my job.", "Ask for help. Any friends?"),
    Example("s2", "r2", "I am alone.", "Same here."),
]
REWRITES = [
    ScoreRequest(
        "I lost my job.",
        "Ask for help. Any friends?",
        "Ask for help. Are you sorry? Any friends?",
        ("Are you sorry?",),
        ("Ask for help.", "Any friends?"),
    ),
    ScoreRequest("I am alone.", "Same here.", "Are you sorry?", ("Are you sorry?",), ()),
]


def embed(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Posts of seekers start with "I": they are at right angles to all other texts."""
    return np.array([[1.0, 0.0] if text.startswith("I ") else [1.0, 1.0] for text in texts])


def test_scores_of_a_system_by_hand() -> None:
    scores = evaluate_system("rl", REWRITES, CLIENT, DEFINITIONS, embed)
    assert (scores.name, scores.n) == ("rl", 2)
    # Both gain a "sorry"; both gain a question.
    assert scores.change_by_mechanism == {"emotional_reactions": 1.0, "interpretations": 0.0, "explorations": 1.0}
    assert scores.change_in_empathy == 2.0
    assert scores.perplexity == pytest.approx(np.sqrt(8 * 3))
    assert scores.mutual_information == pytest.approx(0.25 * -1.0 + 0.75 * -3.0)
    # The first response: all its sentences begin with A; the second has one sentence.
    assert scores.coherence == pytest.approx((1.0 + 0.5) / 2)
    assert scores.specificity == pytest.approx(np.sqrt(0.5))
    # Two posts are too few to choose among.
    assert scores.listener_accuracy is None
    assert scores.distinct_1 == pytest.approx(8 / 11)
    assert scores.distinct_2 == pytest.approx(7 / 9)
    assert scores.distinct_sentences == 0.5
    assert scores.commonest_sentence == 1.0
    # Three words into five; two words become three.
    assert scores.edit_rate == pytest.approx((3 / 5 + 3 / 2) / 2)
    assert scores.unchanged == 0.0
    assert scores.length == 5.5
    assert json.loads(json.dumps(scores.as_json(), allow_nan=False))["distinct_2"] == scores.distinct_2


def test_the_original_changes_nothing() -> None:
    requests = original_requests(EXAMPLES, EnvConfig(window=2))
    scores = evaluate_system("original", requests, CLIENT, DEFINITIONS, embed)
    assert scores.change_in_empathy == scores.edit_rate == 0.0
    assert scores.unchanged == 1.0
    assert scores.distinct_sentences is None
    assert scores.commonest_sentence is None


def test_components_without_a_weight_are_scored_too() -> None:
    class Unweighted(LocalRewards):
        """Rewards whose training reward is empathy alone, as a pool with weight 0 for the others answers."""

        def score(self, requests: Sequence[ScoreRequest]) -> list:  # type: ignore[type-arg]
            weightless = {"fluency", "coherence", "mutual_information"}
            return [
                type(b)(b.total, {k: v for k, v in b.raw.items() if k not in weightless}, {}, b.details)
                for b in super().score(requests)
            ]

    components = {
        name: RewardComponent(d, CountingBuilder(name), RewardSection(weight=1.0)) for name, d in DEFINITIONS.items()
    }
    expected = evaluate_system("rl", REWRITES, CLIENT, DEFINITIONS, embed)
    assert evaluate_system("rl", REWRITES, Unweighted(components), DEFINITIONS, embed) == expected


def test_coherence_is_that_of_whole_responses() -> None:
    assert whole_response_coherence(CLIENT, ["Any one. Are two. But three."]) == pytest.approx([2 / 6])
    assert whole_response_coherence(CLIENT, ["One.", ""]) == [0.5, 0.5]


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(PartnerError, match="no pair"):
        evaluate_system("rl", [], CLIENT, DEFINITIONS, embed)


def test_scores_are_a_frozen_record() -> None:
    scores = evaluate_system("rl", REWRITES, CLIENT, DEFINITIONS, embed)
    assert isinstance(scores, SystemScores)
    with pytest.raises(AttributeError):
        scores.n = 3  # type: ignore[misc]
