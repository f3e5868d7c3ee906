"""Training of the coherence classifier on pairs of sentences (PARTNER, section 4.3).

Positive: two sentences of one response. Negative: the same first sentence with one of another seeker's response, so
that no sentence gives its class away by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedTokenizerBase

from partner_rl.config.schema import RewardTrainingConfig
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.types import Example, PartnerError
from rewards.coherence_model import CoherenceClassifier, CoherenceModel
from rewards.encoder import mean_pool, pad_id_of, token_limit, tokenize
from rewards.training.frozen import PartlyFrozenEncoder, precompute_steps
from rewards.training.schedule import Progress, StepCounter, Trainer, num_batches, shuffled_batches

SplitSentences = Callable[[str], Sequence[str]]

PAIRS_PER_RESPONSE = 4
"""Positive pairs drawn from one response, so that long responses do not dominate."""
DRAWS = 50
"""Attempts to find a response of another seeker for a negative pair."""


@dataclass(frozen=True, slots=True)
class SentencePair:
    """Two sentences and whether they belong to one response."""

    first: str
    second: str
    together: bool


@dataclass(frozen=True, slots=True)
class CoherenceReport:
    """What a training did.

    Attributes:
        accuracy: Share of dev pairs on the right side of 0.5; None without dev pairs.
        auc: Area under the ROC curve on the dev pairs; None without dev pairs.
        train_pairs: Sentence pairs trained on, half of them positive.
        dev_pairs: Sentence pairs evaluated on, half of them positive.
        seconds: Wall time.
    """

    accuracy: float | None
    auc: float | None
    train_pairs: int
    dev_pairs: int
    seconds: float


def train_coherence(
    examples_train: Sequence[Example],
    examples_dev: Sequence[Example],
    encoder_path: Path,
    settings: RewardTrainingConfig,
    output: Path,
    seed: int,
    split_sentences: SplitSentences,
    device: str = "cpu",
    progress: Progress | None = None,
) -> CoherenceReport:
    """Train the classifier and write its folder (see `CoherenceClassifier.load`).

    Args:
        examples_train: Pairs whose responses are split into sentences; labels are not needed.
        examples_dev: Pairs to report on.
        encoder_path: Folder of the pretrained encoder.
        settings: Epochs, learning rates, frozen layers.
        output: Folder to write, complete or not at all.
        seed: Seed of the pairs, their order, the new layers and dropout; the process's own random stream is left alone.
        split_sentences: A response's sentences.
        device: `cpu` or `cuda`.
        progress: Called with (steps done, all steps).

    Raises:
        PartnerError: There are no two responses of different seekers of which one has two sentences, or the encoder
            cannot be loaded.
    """
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    pairs = sentence_pairs(_limited(examples_train, settings.coherence_max_responses, rng), split_sentences, rng)
    if not pairs:
        raise PartnerError(
            "no sentence pairs to train the coherence classifier on: it needs responses to different seekers, "
            "some of more than one sentence; give more data or a checkpoint"
        )
    dev = sentence_pairs(examples_dev, split_sentences, rng)
    tokenizer = load_tokenizer(encoder_path)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CoherenceModel(load_encoder(encoder_path)).to(device)
        _train(model, tokenizer, pairs, settings, rng, progress)
    classifier = CoherenceClassifier(model, tokenizer, settings.max_tokens)
    classifier.save(output)
    accuracy, auc = evaluate_coherence(classifier, dev) if dev else (None, None)
    return CoherenceReport(accuracy, auc, len(pairs), len(dev), time.perf_counter() - start)


def evaluate_coherence(classifier: CoherenceClassifier, pairs: Sequence[SentencePair]) -> tuple[float, float]:
    """Accuracy at 0.5 and area under the ROC curve."""
    probabilities = classifier.probabilities([(pair.first, pair.second) for pair in pairs]).numpy()
    together = np.array([pair.together for pair in pairs])
    return float(((probabilities > 0.5) == together).mean()), float(roc_auc_score(together, probabilities))


def sentence_pairs(
    examples: Sequence[Example], split_sentences: SplitSentences, rng: np.random.Generator
) -> list[SentencePair]:
    """Positive and negative pairs, one of each for every drawn first sentence.

    A sentence that stands in both responses gives no negative pair; such a draw is left out with its positive.
    """
    responses = [
        (example.seeker_id, list(dict.fromkeys(s.strip() for s in split_sentences(example.response_post) if s.strip())))
        for example in examples
    ]
    pairs = []
    for seeker, sentences in responses:
        ordered = list(permutations(sentences, 2)) if len(sentences) <= 12 else _some_pairs(sentences, rng)
        for i in rng.permutation(len(ordered))[:PAIRS_PER_RESPONSE]:
            first, second = ordered[i]
            other = _foreign_sentence(seeker, sentences, responses, rng)
            if other is not None:
                pairs += [SentencePair(first, second, True), SentencePair(first, other, False)]
    return pairs


def _some_pairs(sentences: Sequence[str], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Ordered pairs of a long response, without listing all of them."""
    drawn = [rng.choice(len(sentences), 2, replace=False) for _ in range(PAIRS_PER_RESPONSE)]
    return list(dict.fromkeys((sentences[i], sentences[j]) for i, j in drawn))


def _foreign_sentence(
    seeker: str, sentences: Sequence[str], responses: Sequence[tuple[str, list[str]]], rng: np.random.Generator
) -> str | None:
    """A sentence of a response to another seeker that this response does not contain, or None when none is found."""
    for _ in range(DRAWS):
        other_seeker, other = responses[int(rng.integers(len(responses)))]
        if other_seeker != seeker and other:
            candidate = other[int(rng.integers(len(other)))]
            if candidate not in sentences:
                return candidate
    return None


def _limited(examples: Sequence[Example], limit: int | None, rng: np.random.Generator) -> Sequence[Example]:
    if limit is None or len(examples) <= limit:
        return examples
    return [examples[i] for i in sorted(rng.permutation(len(examples))[:limit])]


def _train(
    model: CoherenceModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[SentencePair],
    settings: RewardTrainingConfig,
    rng: np.random.Generator,
    progress: Progress | None,
) -> None:
    """Fit the encoder's upper layers and the head."""
    place = {s: i for i, s in enumerate(dict.fromkeys(s for pair in pairs for s in (pair.first, pair.second)))}
    sentences = tokenize(tokenizer, list(place), token_limit(model.encoder, settings.max_tokens))
    first = [place[pair.first] for pair in pairs]
    second = [place[pair.second] for pair in pairs]
    lengths = [len(sentences[i].ids) + len(sentences[j].ids) for i, j in zip(first, second, strict=True)]
    steps = settings.coherence_epochs * num_batches(len(pairs), settings.batch_size)
    counter = StepCounter(progress, precompute_steps(sentences, settings.coherence_frozen_layers) + steps)

    encoder = PartlyFrozenEncoder(
        model.encoder, sentences, settings.coherence_frozen_layers, pad_id_of(tokenizer), counter.advance
    )
    trainer = Trainer(
        encoder.parameters(),
        list(model.head.parameters()),
        settings.empathy_learning_rate,
        settings.head_learning_rate,
        steps,
    )
    device = next(model.parameters()).device
    model.train()
    for _ in range(settings.coherence_epochs):
        for batch in shuffled_batches(lengths, settings.batch_size, rng):
            indices = list(dict.fromkeys([first[i] for i in batch] + [second[i] for i in batch]))
            row = {index: r for r, index in enumerate(indices)}
            pooled_BD = mean_pool(*encoder.states(indices))
            log_odds_B = model.head(
                pooled_BD[[row[first[i]] for i in batch]], pooled_BD[[row[second[i]] for i in batch]]
            )
            together_B = torch.tensor([float(pairs[i].together) for i in batch], device=device)
            trainer.step(binary_cross_entropy_with_logits(log_odds_B, together_B))
            counter.advance()
