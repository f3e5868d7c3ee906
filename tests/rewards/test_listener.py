"""The listener: worked examples, and guesses that depend on the post and the sentence alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partner_rl.config.schema import DataConfig, RunConfig
from partner_rl.types import PartnerError, ScoreRequest
from rewards.listener import (
    ListenerReward,
    ListenerScorer,
    distinct_posts,
    hit,
    log_posterior,
    other_posts,
    post_key,
)
from rewards.listener_models import ENCODER, BackwardListener, ListenerBuilder, training_posts
from rewards.local import LocalRewards
from rewards.registry import active_components
from rewards.scorer import FloatArray

POSTS = tuple(f"Post {number} is about thing{number}." for number in range(30))
SENTENCES = ("thing3 is hard.", "I am sorry.", "Is it thing7 or thing8?", "thing29")


def shared_words(pairs: Sequence[tuple[str, str]]) -> FloatArray:
    """Words that post and sentence have in common."""
    words = [[{word.strip(".?") for word in text.split()} for text in pair] for pair in pairs]
    return np.array([len(post & sentence) for post, sentence in words], np.float32)


def request(candidates: tuple[str, ...]) -> ScoreRequest:
    return ScoreRequest(POSTS[3], "Old one.", " ".join((*candidates, "Old one.")), candidates, ("Old one.",))


def test_a_guess_worked_out_by_hand():
    assert log_posterior([2.0, 0.0, 0.0], 1.0) == pytest.approx(2.0 - math.log(math.exp(2.0) + 2.0))
    assert log_posterior([1.0, 0.5], 0.5) == pytest.approx(-math.log(1.0 + math.exp(-1.0)))
    assert log_posterior([7.0] * 16, 0.1) == pytest.approx(-math.log(16))
    # No overflow, and no underflow to minus infinity.
    assert log_posterior([-900.0, 900.0], 1.0) == pytest.approx(-1800.0)
    assert hit([0.4, 0.3]) == 1.0
    assert hit([0.3, 0.4]) == 0.0
    assert hit([0.4, 0.4, 0.1, 0.4]) == pytest.approx(1 / 3)


def test_the_value_is_the_mean_over_the_sentences_and_chance_without_any():
    reward = ListenerReward(4)
    assert reward.items(request(("A.", " ", "B."))) == ((POSTS[3], "A."), (POSTS[3], "B."))
    score = reward.combine(request(("A.", "B.")), np.array([[-1.0, 1.0], [-2.0, 0.0]], np.float32))
    assert (score.value, score.details) == (-1.5, {"accuracy": 0.5})
    nothing = reward.combine(request(()), np.zeros((0, 2), np.float32))
    assert nothing.value == pytest.approx(-math.log(4))
    assert nothing.details == {"accuracy": 0.25}
    # A sentence that says nothing is worth what no sentence is worth.
    scorer = ListenerScorer(shared_words, distinct_posts(POSTS), 4, 1.0)
    assert scorer.score([(POSTS[3], "Hm.")])[0] == pytest.approx([nothing.value, 0.25])


@given(st.permutations(POSTS), st.sampled_from([*POSTS, "A post of another corpus."]), st.integers(1, 20))
def test_the_other_posts_depend_on_the_post_alone(order: list[str], post: str, count: int):
    others = other_posts(post, distinct_posts(POSTS), count)
    respelt = other_posts(post.upper(), distinct_posts([*order, f" {order[0].lower()}"]), count)
    assert [post_key(other) for other in others] == [post_key(other) for other in respelt]
    assert len(set(others)) == count
    assert post not in others
    # One post less changes one at most.
    fewer = other_posts(post, distinct_posts(order[1:]), count)
    assert len(set(others) - set(fewer)) == (order[0] in others)


def test_different_posts_face_different_ones():
    sets = {frozenset(other_posts(post, distinct_posts(POSTS), 15)) for post in POSTS}
    assert len(sets) == len(POSTS)
    drawn = np.array([post in other_posts(own, distinct_posts(POSTS), 15) for own in POSTS for post in POSTS])
    assert 14 / 29 - 0.1 < drawn.mean() < 16 / 29 + 0.1


@given(st.lists(st.tuples(st.sampled_from(POSTS), st.sampled_from(SENTENCES)), min_size=1, max_size=12))
def test_a_guess_depends_on_its_own_item_alone(items: list[tuple[str, str]]):
    scorer = ListenerScorer(shared_words, distinct_posts(POSTS), 16, 0.5)
    together = scorer.score(items)
    assert together.shape == (len(items), 2)
    for row, item in enumerate(items):
        alone = ListenerScorer(shared_words, distinct_posts(reversed(POSTS)), 16, 0.5).score([item])[0]
        np.testing.assert_array_equal(together[row], alone)


def test_a_sentence_about_the_post_beats_one_about_nothing_and_one_about_another():
    scorer = ListenerScorer(shared_words, distinct_posts(POSTS), 16, 0.5)
    other = other_posts(POSTS[3], distinct_posts(POSTS), 1)[0].split()[-1]
    about, nothing, wrong = scorer.score([(POSTS[3], s) for s in ("thing3 is hard.", "I am sorry.", other)])
    assert about[0] > nothing[0] > wrong[0]
    assert (about[1], nothing[1], wrong[1]) == (1.0, np.float32(1 / 16), 0.0)
    assert scorer.score([]).shape == (0, 2)


def test_too_few_posts_are_an_error():
    with pytest.raises(PartnerError, match="tells 16 posts apart, and there are 3 different training posts"):
        ListenerScorer(shared_words, distinct_posts([*POSTS[:3], POSTS[0].upper(), " "]), 16, 0.5)


def test_posts_to_choose_from_are_training_posts_chosen_by_hash():
    posts = training_posts(DataConfig())
    fewer = distinct_posts(posts.values(), 40)
    assert len(fewer) == 40
    assert fewer.items() <= posts.items()
    assert set(distinct_posts(reversed(list(posts.values())), 41)) > set(fewer)


def test_the_backward_listener_takes_off_what_a_post_is_likely_anyway():
    class Biased:
        """A language model that finds one post likely whatever it hears; a sentence makes its own post likelier."""

        start, max_positions = 0, 1000

        def encode(self, text: str, max_tokens: int | None = None) -> tuple[int, ...]:
            return tuple(map(ord, text))[:max_tokens]

        def logprobs(self, contexts, targets) -> list[FloatArray]:
            found = []
            for context, target in zip(contexts, targets, strict=True):
                common, heard = chr(target[-1]) == "c", chr(target[-1]) in map(chr, context[-12:-10])
                found.append(np.array([-5.0 + 4.0 * common + heard], np.float32))
            return found

    listener = BackwardListener(Biased(), 100)  # type: ignore[arg-type]
    np.testing.assert_allclose(listener([("c", "z"), ("b", "z"), ("z", "z")]), [0.0, 0.0, 1.0])


def test_the_configured_component_scores_in_this_process(bert: Path):
    others = {"empathy": {"weight": 0.0}, "fluency": {"weight": 0.0}, "coherence": {"weight": 0.0}}
    rewards = {**others, "mutual_information": {"weight": 0.0}, "listener": {"weight": 2.0}}
    config = RunConfig.model_validate({"models": {"encoder": str(bert)}, "rewards": rewards})
    components = active_components(config, bert)
    assert list(components) == ["listener"]
    builder = components["listener"].builder
    assert isinstance(builder, ListenerBuilder)
    assert builder.kind is ENCODER
    written, nothing = LocalRewards(components).score([request(("You sound worn out.",)), request(())])
    assert written.weighed(config.rewards.weights()).total == pytest.approx(2.0 * written.raw["listener"])
    assert written.raw["listener"] < 0.0
    assert nothing.raw["listener"] == pytest.approx(-math.log(16))
    assert set(written.details) == {"listener/accuracy"}
