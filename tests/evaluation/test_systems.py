"""Metrics of whole systems, with rewards that can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from launch.sweep.spec import METRICS as TRIAL_METRICS
from partner_rl.config.reward_schema import RewardSection
from partner_rl.config.schema import EnvConfig
from partner_rl.evaluation.component_scores import RewardSource, whole_response_coherence
from partner_rl.evaluation.evaluate_systems import originals
from partner_rl.evaluation.measure_systems import measure_systems
from partner_rl.evaluation.system import System
from partner_rl.evaluation.system_scores import Sources, score_pairs
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


def measured(system: System, client: RewardSource = CLIENT) -> dict[str, float]:
    scores = score_pairs(system, Sources(client, DEFINITIONS, embed), batch_size=1, with_self_bleu=False)
    (found,) = measure_systems([scores], intervals=False)
    assert not found.comparisons
    assert all(estimate.interval is None for estimate in found.metrics.values())
    return {key: estimate.value for key, estimate in found.metrics.items()}


def test_metrics_of_a_system_by_hand() -> None:
    found = measured(System("rl", REWRITES))
    # Both gain a "sorry"; both gain a question.
    assert (found["emotional_reactions"], found["interpretations"], found["explorations"]) == (1.0, 0.0, 1.0)
    assert found["change_in_empathy"] == 2.0
    # The geometric mean.
    assert found["perplexity"] == pytest.approx(np.sqrt(8 * 3))
    assert found["mutual_information"] == pytest.approx(0.25 * -1.0 + 0.75 * -3.0)
    # The first response: all its sentences begin with A; the second has one sentence.
    assert found["coherence"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["specificity"] == pytest.approx(np.sqrt(0.5))
    assert found["distinct_1"] == pytest.approx(8 / 11)
    assert found["distinct_2"] == pytest.approx(7 / 9)
    assert found["distinct_sentences"] == 0.5
    assert found["commonest_sentence"] == 1.0
    # Three words into five; two words become three.
    assert found["edit_rate"] == pytest.approx((3 / 5 + 3 / 2) / 2)
    assert found["unchanged"] == 0.0
    assert found["length"] == 5.5
    # Two posts are too few to choose among; there are no originals, no judge, and nobody asked for self-BLEU.
    assert not {"listener_accuracy", "perplexity_ratio", "judge_change", "self_bleu"} & found.keys()


def test_every_metric_of_a_trial_is_one_of_a_system() -> None:
    assert set(TRIAL_METRICS) <= measured(System("rl", REWRITES)).keys()


def test_the_original_changes_nothing() -> None:
    found = measured(originals(EXAMPLES, EnvConfig(window=2)))
    assert found["change_in_empathy"] == found["edit_rate"] == 0.0
    assert found["unchanged"] == found["perplexity_ratio"] == 1.0
    assert not {"distinct_sentences", "commonest_sentence"} & found.keys()


def test_values_do_not_depend_on_intervals() -> None:
    scores = score_pairs(System("rl", REWRITES), Sources(CLIENT, DEFINITIONS, embed), batch_size=2)
    (brief,), (full,) = measure_systems([scores], intervals=False), measure_systems([scores])
    assert {key: e.value for key, e in brief.metrics.items()} == {key: e.value for key, e in full.metrics.items()}


def test_components_without_a_weight_are_scored_too() -> None:
    class Unweighted(LocalRewards):
        """Rewards whose training reward is empathy alone, as a pool with weight 0 for the others answers."""

        def score(self, requests: Sequence[ScoreRequest]) -> list:  # type: ignore[type-arg]
            weightless = {"fluency", "coherence", "mutual_information"}
            scored = super().score(requests)
            return [replace(b, raw={k: v for k, v in b.raw.items() if k not in weightless}) for b in scored]

    components = {
        name: RewardComponent(d, CountingBuilder(name), RewardSection(weight=1.0)) for name, d in DEFINITIONS.items()
    }
    rl = System("rl", REWRITES)
    assert measured(rl, Unweighted(components)) == measured(rl)


def test_coherence_is_that_of_whole_responses() -> None:
    assert whole_response_coherence(CLIENT, ["Any one. Are two. But three."]) == pytest.approx([2 / 6])
    assert whole_response_coherence(CLIENT, ["One.", ""]) == [0.5, 0.5]


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(PartnerError, match="no pair"):
        measured(System("rl", []))


def test_what_is_no_number_is_an_error() -> None:
    class Lost(LocalRewards):
        def score(self, requests: Sequence[ScoreRequest]) -> list:  # type: ignore[type-arg]
            broken = {"fluency/inverse_perplexity": 0.0}
            return [replace(b, details={**b.details, **broken}) for b in super().score(requests)]

    components = {
        name: RewardComponent(d, CountingBuilder(name), RewardSection(weight=1.0)) for name, d in DEFINITIONS.items()
    }
    with pytest.raises(PartnerError, match="surprisal_N is not a finite number"):
        measured(System("rl", REWRITES), Lost(components))
