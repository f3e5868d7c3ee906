"""Training of the coherence classifier on pairs of sentences (PARTNER, section 4.3).

A batch holds responses and, beside each, one of the same topic; every pair of its sentences is an example. Shapes: `_N`
sentence of a batch, `_P` pair, `_D` hidden unit, `_F` feature of style.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding
from transformers import PreTrainedTokenizerBase

from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.text_tokens import token_limit
from partner_rl.progress import Progress, no_progress
from partner_rl.types import Example, PartnerError
from rewards.batching import length_batches
from rewards.coherence_model import CoherenceClassifier, CoherenceModel
from rewards.encoder import mean_pool, pad_id_of, tokenize
from rewards.sentence_style import style_matrix
from rewards.training.coherence_scores import CoherenceScores, classifier_scores
from rewards.training.frozen import PartlyFrozenEncoder, precompute_steps
from rewards.training.schedule import GRAD_CLIP, StepCounter, linear_schedule
from rewards.training.sentence_pairs import (
    SplitResponse,
    SplitSentences,
    draw_trials,
    embed_texts,
    same_topic,
    split_responses,
    training_batches,
)

SENTENCES_PER_RESPONSE: Final = 4
"""Sentences of a response in one batch, drawn anew each time."""
EASY_PAIRS: Final = 2048
"""Easy negatives of a batch that the head compares; there are far more."""
TOKENS_PER_PASS: Final = 1024
"""Padded tokens of a batch that go through the encoder together: sentences differ in length, and padding costs time."""


@dataclass(frozen=True, slots=True)
class CoherenceReport:
    """What a training did.

    Attributes:
        dev: Scores of the dev pairs; None where these give no pair.
        seconds: Wall time, the dev pairs included.
    """

    dev: CoherenceScores | None
    train_responses: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BatchPairs:
    """The pairs of a batch.

    Attributes:
        first_P: Row of the first sentence.
        second_P: Row of the second sentence, above the first one's.
        together_P: 1.0 where they stand in one response, else 0.0.
        weight_P: Weight in the loss; positives and negatives sum to one half each, hard negatives to their share of it.
    """

    first_P: Tensor
    second_P: Tensor
    together_P: Tensor
    weight_P: Tensor


def train_coherence(
    examples_train: Sequence[Example],
    examples_dev: Sequence[Example],
    encoder_path: Path,
    settings: RewardTrainingConfig,
    output: Path,
    seed: int,
    split_sentences: SplitSentences,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> CoherenceReport:
    """Train the classifier and write its folder (see `CoherenceClassifier.load`).

    Args:
        examples_train: Pairs whose responses are split into sentences; labels are not needed.
        examples_dev: Pairs to report on.
        encoder_path: Folder of the pretrained encoder.
        settings: Epochs, learning rates, frozen layers, hard negatives.
        output: Receives the folder; the caller gives it its final name when it is whole.
        seed: Seed of the pairs, their order, the new layers and dropout; the process's own random stream is left alone.
        split_sentences: A response's sentences.
        device: `cpu` or `cuda`.
        progress: Called with (steps done, all steps).

    Raises:
        PartnerError: There are no two responses of which one has two sentences, or the encoder cannot be loaded.
    """
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    examples = _limited(examples_train, settings.coherence_max_responses, rng)
    responses = split_responses(examples, split_sentences)
    if len({response.seeker_id for response in responses}) < 2 or not any(len(r.sentences) > 1 for r in responses):
        raise PartnerError(
            "no sentence pairs to train the coherence classifier on: it needs responses to different seekers, "
            "some of more than one sentence; give more data or a checkpoint"
        )
    topics = _topics(examples, responses, encoder_path, settings, device)
    tokenizer = load_tokenizer(encoder_path)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CoherenceModel(load_encoder(encoder_path)).to(device)
        steps = _train(model, tokenizer, responses, topics, settings, rng, progress)
    classifier = CoherenceClassifier(model, tokenizer, settings.max_tokens)
    classifier.save(output)
    dev_responses = split_responses(examples_dev, split_sentences)
    dev_topics = _topics(examples_dev, dev_responses, encoder_path, settings, device)
    trials = draw_trials(dev_responses, dev_topics, np.random.default_rng(seed))
    dev = classifier_scores(classifier, trials, seed) if trials else None
    return CoherenceReport(dev, len(responses), steps, time.perf_counter() - start)


def _topics(
    examples: Sequence[Example],
    responses: Sequence[SplitResponse],
    encoder_path: Path,
    settings: RewardTrainingConfig,
    device: str,
) -> list[tuple[int, ...]]:
    vectors = embed_texts(encoder_path, [example.seeker_post for example in examples], settings.max_tokens, device)
    return same_topic(responses, vectors, settings.coherence_neighbours)


def _limited(examples: Sequence[Example], limit: int | None, rng: np.random.Generator) -> Sequence[Example]:
    if limit is None or len(examples) <= limit:
        return examples
    return [examples[i] for i in sorted(rng.permutation(len(examples))[:limit])]


def _train(
    model: CoherenceModel,
    tokenizer: PreTrainedTokenizerBase,
    responses: Sequence[SplitResponse],
    topics: Sequence[Sequence[int]],
    settings: RewardTrainingConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> int:
    """Fit the encoder's upper layers and the head; returns the steps."""
    place = {s: i for i, s in enumerate(dict.fromkeys(s for response in responses for s in response.sentences))}
    encoded = tokenize(tokenizer, list(place), token_limit(model.encoder, settings.max_tokens))
    frozen = settings.coherence_frozen_layers
    epochs = [
        training_batches(responses, topics, settings.coherence_batch_size, rng)
        for _ in range(settings.coherence_epochs)
    ]
    steps = sum(len(batches) for batches in epochs)
    counter = StepCounter(progress, precompute_steps(encoded, frozen) + steps)
    device = next(model.parameters()).device
    encoder = PartlyFrozenEncoder(model.encoder, encoded, frozen, pad_id_of(tokenizer), counter.advance)
    upper, head = encoder.parameters(), list(model.head.parameters())
    groups = [{"params": head, "lr": settings.coherence_head_learning_rate}]
    if upper:
        groups.append({"params": upper, "lr": settings.coherence_learning_rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = linear_schedule(optimizer, steps)
    model.train()
    for batches in epochs:
        for batch in batches:
            sentences, owners = _sentences_of_batch([responses[i] for i in batch], rng)
            pairs = batch_pairs(sentences, owners, [responses[i] for i in batch], _near(batch, topics), settings, rng)
            indices = [place[sentence] for sentence in sentences]
            pooled_ND = _pooled(encoder, indices, [len(encoded[i].ids) for i in indices])
            optimizer.zero_grad(set_to_none=True)
            _loss(model, pooled_ND, style_matrix(sentences, device), pairs).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([*upper, *head], GRAD_CLIP)
            optimizer.step()
            schedule.step()
            counter.advance()
    return steps


def _pooled(encoder: PartlyFrozenEncoder, indices: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Vectors of some sentences, `[N, D]`; those of similar length go through the encoder together."""
    passes = list(length_batches(lengths, TOKENS_PER_PASS))
    pooled_ND = torch.cat([mean_pool(*encoder.states([indices[i] for i in rows])) for rows in passes])
    order = torch.tensor([i for rows in passes for i in rows], device=pooled_ND.device)
    return pooled_ND[order.argsort()]


def _sentences_of_batch(responses: Sequence[SplitResponse], rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Some sentences of each response, and per sentence which response of the batch it is of."""
    sentences: list[str] = []
    owners: list[int] = []
    for number, response in enumerate(responses):
        drawn = rng.permutation(len(response.sentences))[:SENTENCES_PER_RESPONSE]
        sentences += [response.sentences[i] for i in drawn]
        owners += [number] * len(drawn)
    return sentences, owners


def _near(batch: Sequence[int], topics: Sequence[Sequence[int]]) -> set[tuple[int, int]]:
    """Pairs of a batch's responses, lower place first, of which one is of the other's topic."""
    row = {index: number for number, index in enumerate(batch)}
    found = [(row[index], row[other]) for index in batch for other in topics[index] if other in row]
    return {(min(pair), max(pair)) for pair in found}


def batch_pairs(
    sentences: Sequence[str],
    owners: Sequence[int],
    responses: Sequence[SplitResponse],
    near: set[tuple[int, int]],
    settings: RewardTrainingConfig,
    rng: np.random.Generator,
) -> BatchPairs:
    """All pairs of a batch's sentences but for most of the easy negatives, with their weights.

    Args:
        sentences: The sentences.
        owners: Per sentence, which response it was drawn from.
        responses: The responses of the batch.
        near: Pairs of responses whose sentences make hard negatives, lower index first.
        settings: Share of the hard negatives.
        rng: Chooses the easy negatives.
    """
    groups: dict[str, list[tuple[int, int]]] = {"together": [], "hard": [], "easy": []}
    for j in range(len(sentences)):
        for i in range(j):
            a, b = owners[i], owners[j]
            if a == b:
                groups["together"].append((i, j))
            elif sentences[i] not in responses[b].sentences and sentences[j] not in responses[a].sentences:
                groups["hard" if (a, b) in near else "easy"].append((i, j))
    easy = groups["easy"]
    groups["easy"] = [easy[i] for i in rng.permutation(len(easy))[:EASY_PAIRS]]
    share = settings.coherence_hard_negatives
    if not groups["hard"] or not groups["easy"]:
        share = 1.0 if groups["hard"] else 0.0
    total = {"together": 0.5, "hard": 0.5 * share, "easy": 0.5 * (1 - share)}
    pairs = [pair for group in groups.values() for pair in group]
    weights = [total[name] / len(group) for name, group in groups.items() for _ in group]
    together = [float(name == "together") for name, group in groups.items() for _ in group]
    indices = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return BatchPairs(indices[:, 0], indices[:, 1], torch.tensor(together), torch.tensor(weights))


def _loss(model: CoherenceModel, pooled_ND: Tensor, style_NF: Tensor, pairs: BatchPairs) -> Tensor:
    device = pooled_ND.device
    first_P, second_P = pairs.first_P.to(device), pairs.second_P.to(device)
    # As an embedding, whose gradients are summed in a fixed order; those of `pooled_ND[first_P]` are not.
    one_PD, other_PD = embedding(first_P, pooled_ND), embedding(second_P, pooled_ND)
    log_odds_P = model.head(one_PD, other_PD, style_NF[first_P], style_NF[second_P])
    return binary_cross_entropy_with_logits(
        log_odds_P, pairs.together_P.to(device), weight=pairs.weight_P.to(device), reduction="sum"
    )
