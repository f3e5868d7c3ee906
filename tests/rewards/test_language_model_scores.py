"""Log-probabilities against a model called on one whole sequence at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from partner_rl.models.sources import resolve
from rewards import language_model
from rewards.fluency import FluencyBuilder, FluencyScorer, load_language_model, pieces, repeated_tokens
from rewards.language_model import LanguageModel, Tokens
from rewards.mutual_information import (
    BACKWARD_PROMPT,
    FORWARD_PROMPT,
    MutualInformationBuilder,
    MutualInformationScorer,
)

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request: pytest.FixtureRequest, model_cache: Path) -> LanguageModel:
    return load_language_model(f"random:{request.param}", model_cache, "cpu")


def naive(lm: LanguageModel, context: Tokens, target: Tokens) -> list[float]:
    """Log-probabilities by the model's own full forward pass, one sequence, no padding, no cache."""
    with torch.inference_mode():
        logits_TV = lm.model(input_ids=torch.tensor([context + target])).logits[0]
    logprobs_TV = logits_TV.log_softmax(-1)
    return [float(logprobs_TV[len(context) - 1 + i, token]) for i, token in enumerate(target)]


def rows(lm: LanguageModel, texts: Sequence[str]) -> tuple[list[Tokens], list[Tokens]]:
    """Every text as context of every text: contexts of different lengths that repeat."""
    pairs = [(a, b) for a in texts for b in texts]
    return [FORWARD_PROMPT.context(lm, a, 40) for a, _ in pairs], [lm.encode(b, 30) for _, b in pairs]


def test_logprobs_equal_the_naive_ones(lm: LanguageModel, texts: tuple[str, ...]):
    contexts, targets = rows(lm, texts)
    found = lm.logprobs(contexts, targets)
    for context, target, logprobs in zip(contexts, targets, found, strict=True):
        np.testing.assert_allclose(logprobs, naive(lm, context, target), atol=TOLERANCE)


def test_sharing_beginnings_changes_nothing(lm: LanguageModel, texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    contexts, targets = rows(lm, texts)
    expected = [naive(lm, context, target) for context, target in zip(contexts, targets, strict=True)]
    for tree_tokens, least_shared, tokens_per_pass in ((512, 0.2, 4096), (60, 0.0, 300), (512, 0.0, 4096), (1, 1.0, 1)):
        monkeypatch.setattr(language_model, "TREE_TOKENS", tree_tokens)
        monkeypatch.setattr(language_model, "LEAST_SHARED", least_shared)
        monkeypatch.setattr(language_model, "TOKENS_PER_PASS", tokens_per_pass)
        for shared, alone in zip(lm.logprobs(contexts, targets), expected, strict=True):
            np.testing.assert_allclose(shared, alone, atol=TOLERANCE)


def test_shared_beginnings_are_computed_once(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    response = "I hear you. That must be so hard for you, and I am sorry. "
    contexts = [BACKWARD_PROMPT.context(lm, response + end, 60) for end in ("Go on.", "What happened?", "Try tea.")]
    target = lm.encode(" Nobody at work talks to me.", 30)
    read: list[int] = []
    body = lm._body
    monkeypatch.setattr(lm, "_body", lambda **kwargs: read.append(kwargs["input_ids"].numel()) or body(**kwargs))
    found = lm.logprobs(contexts, [target] * 3)
    in_common = len(lm.encode(" " + response.strip())) - 1
    assert sum(read) <= sum(len(context) + len(target) for context in contexts) - 2 * in_common
    for context, logprobs in zip(contexts, found, strict=True):
        np.testing.assert_allclose(logprobs, naive(lm, context, target), atol=TOLERANCE)


def test_chunks_of_the_head_change_nothing(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    context, target = (lm.start,), lm.encode("Nobody talks to me, and I eat alone every day.")
    expected = lm.logprobs([context], [target])[0]
    monkeypatch.setattr(language_model, "HEAD_ROWS", 3)
    np.testing.assert_allclose(lm.logprobs([context], [target])[0], expected, atol=TOLERANCE)


def test_fluency_is_the_inverse_perplexity_of_all_tokens(lm: LanguageModel, texts: tuple[str, ...]):
    found = FluencyScorer(lm, 50).score([(text,) for text in texts])
    for text, value in zip(texts, found[:, 0], strict=True):
        logprobs = naive(lm, (lm.start,), lm.encode(text.strip(), 50))
        assert value == pytest.approx(math.exp(sum(logprobs) / len(logprobs)), abs=TOLERANCE)
    assert found.dtype == np.float32


@given(st.integers(0, 300), st.integers(1, 80))
def test_every_token_of_a_text_is_in_one_piece(length: int, limit: int):
    found = pieces(length, limit)
    assert [token for piece in found for token in range(piece.start, piece.end)] == list(range(length))
    assert all(0 <= piece.context <= piece.start for piece in found)
    assert all(piece.end - piece.context <= limit for piece in found)
    assert all(piece.start - piece.context == limit - max(1, limit // 2) for piece in found[1:])


def test_fluency_reads_a_long_text_in_pieces(lm: LanguageModel):
    text = "I hear you. That must be so hard for you, and I am sorry about your exam. What happened then?"
    tokens = lm.encode(text)
    limit = len(tokens) // 3
    step = limit // 2
    expected = naive(lm, (lm.start,), tokens[:limit])
    for start in range(limit, len(tokens), step):
        context = tokens[start - (limit - step) : start]
        expected += naive(lm, (lm.start, *context), tokens[start : start + step])
    assert len(expected) == len(tokens)
    found = FluencyScorer(lm, limit).score([(text,)])[0, 0]
    assert np.log(found) == pytest.approx(np.mean(expected), abs=TOLERANCE)


def test_repeated_tokens_are_those_of_passages_that_stood_before():
    assert repeated_tokens((1, 2, 3, 4, 9, 1, 2, 3, 4, 5)).tolist() == [False] * 5 + [True] * 4 + [False]
    assert repeated_tokens((7, 7, 7, 7, 7)).tolist() == [False, True, True, True, True]
    assert repeated_tokens((1, 2, 3, 1, 2, 3)).tolist() == [False] * 6
    assert repeated_tokens(()).tolist() == []


def test_fluency_of_new_tokens_leaves_repeats_out(lm: LanguageModel):
    text = "Nobody at work talks to me."
    (plain, new, repeated) = FluencyScorer(lm, 100).score([(f"{text} {text}",)])[0]
    tokens = lm.encode(f"{text} {text}", 100)
    logprobs_T = np.array(naive(lm, (lm.start,), tokens))
    repeated_T = repeated_tokens(tokens)
    assert 0.3 < repeated == pytest.approx(repeated_T.mean())
    assert plain == pytest.approx(np.exp(logprobs_T.mean()), abs=TOLERANCE)
    assert new == pytest.approx(np.exp(logprobs_T[~repeated_T].mean()), abs=TOLERANCE)


def test_fluency_of_a_sure_model_is_one_and_of_nothing_is_zero(model_cache: Path):
    scorer = FluencyBuilder("random:gpt2", model_cache).build()
    assert scorer.score([("",), (" \n",)]).tolist() == [[0.0] * 3] * 2
    assert scorer.score([]).shape == (0, 3)
    assert 0.0 < scorer.score([("ok",)])[0, 0] < 1.0


def test_mutual_information_is_the_mean_log_probability_in_both_directions(lm: LanguageModel, texts: tuple[str, ...]):
    items = [(seeker, response) for seeker in texts[:3] for response in texts]
    found = MutualInformationScorer(lm, lm, 40).score(items)
    for (seeker, response), (forward, backward) in zip(items, found, strict=True):
        there = naive(lm, FORWARD_PROMPT.context(lm, seeker, 40), lm.encode(f" {response.strip()}", 40))
        back = naive(lm, BACKWARD_PROMPT.context(lm, response, 40), lm.encode(f" {seeker.strip()}", 40))
        assert forward == pytest.approx(np.mean(there), abs=TOLERANCE)
        assert backward == pytest.approx(np.mean(back), abs=TOLERANCE)


def test_an_empty_target_counts_as_a_uniform_guess(lm: LanguageModel):
    (forward, backward), (other_forward, other_backward) = MutualInformationScorer(lm, lm, 40).score(
        [("I am tired.", ""), (" ", "ok")]
    )
    uniform = -math.log(lm.model.config.vocab_size)
    assert forward == pytest.approx(uniform)
    assert other_backward == pytest.approx(uniform)
    assert math.isfinite(backward)
    assert math.isfinite(other_forward)


def test_scores_do_not_depend_on_batch_order_or_neighbours(lm: LanguageModel, texts: tuple[str, ...]):
    items = [(seeker, response) for seeker in texts[:4] for response in texts]
    order = np.random.default_rng(0).permutation(len(items))
    for scorer in (MutualInformationScorer(lm, lm, 40), FluencyScorer(lm, 40)):
        asked = items if scorer.name == "mutual_information" else [(response,) for _, response in items]
        together = scorer.score(asked)
        shuffled = scorer.score([asked[i] for i in order])
        alone = np.concatenate([scorer.score([item]) for item in asked])
        np.testing.assert_allclose(shuffled, together[order], atol=TOLERANCE)
        np.testing.assert_allclose(alone, together, atol=TOLERANCE)


def test_posts_longer_than_the_model_fit(model_cache: Path):
    scorer = MutualInformationBuilder("random:gpt2", "random:gpt2", model_cache, max_tokens=100_000).build()
    assert scorer.forward is scorer.backward
    assert np.isfinite(scorer.score([("word " * 3000, "other " * 3000)])).all()
    fluency = FluencyBuilder("random:gpt2", model_cache, max_tokens=100_000).build()
    assert np.isfinite(fluency.score([("word " * 3000,)])).all()


def test_the_start_token_separates_documents_before_it_opens_a_turn(model_cache: Path):
    lm = load_language_model("random:gpt2", model_cache, "cpu")
    assert lm.start == lm.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    lm = load_language_model("random:llama", model_cache, "cpu")
    assert lm.start == lm.tokenizer.bos_token_id


def test_a_builder_takes_a_folder(model_cache: Path):
    folder = str(resolve("random:gpt2", model_cache))
    assert FluencyBuilder(folder).build().score([("ok",)]).shape == (1, 3)
