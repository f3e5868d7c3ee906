"""A score belongs to its item alone: not to the batch's size, order, duplicates or padding.

Every scorer on tiny models of each build (BERT and RoBERTa encoders, GPT-2 and Llama language models), on items of very
different lengths. The last test breaks the masks on purpose, to show that leaking padding would be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.sources import resolve
from rewards import encoder, language_model
from rewards.coherence import CoherenceScorer
from rewards.coherence_model import CoherenceClassifier, CoherenceModel
from rewards.empathy import EmpathyScorer, expected_levels
from rewards.empathy_ensemble import EmpathyEnsemble
from rewards.empathy_model import EmpathyClassifier, EmpathyModel
from rewards.fluency import FluencyScorer, load_language_model
from rewards.listener import ListenerScorer, distinct_posts
from rewards.listener_models import BACKWARD, ENCODER
from rewards.mutual_information import MutualInformationScorer
from rewards.scorer import FloatArray, Item, Scorer

TOLERANCE = 1e-4
MAX_TOKENS = 60
POSTS = (
    "ok",
    "🙂🙂🙂",
    "What happened today? Do you have someone who can stay with you?",
    "Nobody at work talks to me, and I eat lunch alone every day. It makes me feel like I am not there at all.",
    "Everyone feels like this sometimes. " * 12,
)
PAIRS: tuple[Item, ...] = tuple((seeker, response) for seeker in POSTS for response in POSTS)
ITEMS: dict[str, tuple[Item, ...]] = {
    "empathy": PAIRS,
    "coherence": PAIRS,
    "mutual_information": PAIRS,
    "listener": PAIRS,
    "fluency": tuple((f"{a} {b}",) for a, b in PAIRS),
}
CASES = [
    *((name, build) for name in ("empathy", "coherence", "listener") for build in ("bert", "roberta")),
    *((name, build) for name in ("fluency", "mutual_information", "listener") for build in ("gpt2", "llama")),
]


@pytest.fixture(scope="module")
def encoders(bert: Path, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny encoder of each build."""
    folder = tmp_path_factory.mktemp("roberta")
    # RoBERTa numbers positions from the padding's id on, which is what could go wrong with padding here.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(resolve("random:llama", model_cache) / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=130,
        type_vocab_size=1,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        RobertaModel(config).save_pretrained(folder)
    return {"bert": bert, "roberta": folder}


@pytest.fixture(scope="module")
def scorer_of(encoders: dict[str, Path], model_cache: Path) -> Callable[[str, str], Scorer]:
    """Builds each scorer once, untrained and far from uniform."""
    built: dict[tuple[str, str], Scorer] = {}

    def build(name: str, kind: str) -> Scorer:
        if (name, kind) not in built:
            built[name, kind] = _scorer(name, kind, encoders, model_cache)
        return built[name, kind]

    return build


def _scorer(name: str, kind: str, encoders: dict[str, Path], cache: Path) -> Scorer:
    if name in ("fluency", "mutual_information"):
        lm = load_language_model(f"random:{kind}", cache, "cpu")
        return FluencyScorer(lm, MAX_TOKENS) if name == "fluency" else MutualInformationScorer(lm, lm, MAX_TOKENS)
    if name == "listener":
        backward = kind in ("gpt2", "llama")
        listener = BACKWARD if backward else ENCODER
        model = f"random:{kind}" if backward else str(encoders[kind])
        relate = listener.load(model, cache, MAX_TOKENS, "cpu")
        return ListenerScorer(relate, distinct_posts(POSTS), len(POSTS) - 1, listener.temperature)
    folder = encoders[kind]
    tokenizer = load_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        if name == "coherence":
            model = CoherenceModel(load_encoder(folder))
            heads = model.head.parameters()
        else:
            model = EmpathyModel.on_encoder(load_encoder(folder), MAX_TOKENS)
            heads = model.mechanisms.parameters()
        for parameter in heads:
            parameter.data += 0.1 * torch.randn_like(parameter)
    if name == "coherence":
        return CoherenceScorer(CoherenceClassifier(model, tokenizer, MAX_TOKENS))
    return EmpathyScorer(EmpathyEnsemble((EmpathyClassifier(model, tokenizer, MAX_TOKENS),)), expected_levels)


def scores(scorer: Scorer, items: Sequence[Item]) -> FloatArray:
    """The scorer's answer; fluencies as log-probabilities, for tiny models find all texts next to impossible."""
    found = scorer.score(items)
    if scorer.name == "fluency":
        found[:, :2] = np.log(found[:, :2])
    return found


def in_batches(scorer: Scorer, items: Sequence[Item], size: int) -> FloatArray:
    return np.concatenate([scores(scorer, items[i : i + size]) for i in range(0, len(items), size)])


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest, scorer_of) -> tuple[Scorer, tuple[Item, ...]]:
    name, kind = request.param
    return scorer_of(name, kind), ITEMS[name]


def test_batch_size_makes_no_difference(case: tuple[Scorer, tuple[Item, ...]]):
    scorer, items = case
    alone = in_batches(scorer, items, 1)
    # Scores that are all alike would agree whatever happens.
    assert alone.std(axis=0).max() > 50 * TOLERANCE
    for size in (3, len(items)):
        np.testing.assert_allclose(in_batches(scorer, items, size), alone, atol=TOLERANCE, rtol=0)


def test_order_makes_no_difference(case: tuple[Scorer, tuple[Item, ...]]):
    scorer, items = case
    expected = scores(scorer, items)
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(items))
        found = scores(scorer, [items[i] for i in order])
        np.testing.assert_allclose(found, expected[order], atol=TOLERANCE, rtol=0)


def test_duplicates_make_no_difference(case: tuple[Scorer, tuple[Item, ...]]):
    scorer, items = case
    expected = scores(scorer, items)
    found = scores(scorer, [item for item in items for _ in range(3)])
    np.testing.assert_allclose(found, np.repeat(expected, 3, axis=0), atol=TOLERANCE, rtol=0)


def test_a_long_neighbour_makes_no_difference(case: tuple[Scorer, tuple[Item, ...]]):
    scorer, items = case
    long = max(items, key=lambda item: sum(map(len, item)))
    for item in items[:12]:
        alone = scores(scorer, [item])[0]
        np.testing.assert_allclose(scores(scorer, [item, long])[0], alone, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_leaking_padding_would_be_seen(name: str, kind: str, scorer_of, monkeypatch: pytest.MonkeyPatch):
    """With masks that hide nothing (or, where they are causal anyway, padding on the left) scores must differ."""
    scorer = scorer_of(name, kind)
    items = ITEMS[name]
    alone = in_batches(scorer, items, 1)
    pad_ids = encoder.pad_ids

    def unmasked(*arguments):
        ids_BT, mask_BT = pad_ids(*arguments)
        return ids_BT, torch.ones_like(mask_BT)

    def on_the_left(sequences, device):
        longest = max(map(len, sequences))
        ids_BT = torch.tensor([[0] * (longest - len(s)) + list(s) for s in sequences], device=device)
        return ids_BT, torch.ones_like(ids_BT)

    monkeypatch.setattr(encoder, "pad_ids", unmasked)
    monkeypatch.setattr(language_model, "_pad", on_the_left)
    assert np.abs(scores(scorer, items) - alone).max() > 10 * TOLERANCE
