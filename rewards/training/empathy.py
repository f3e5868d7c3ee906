"""Training of the empathy classifier on labelled pairs (EPITOME, EMNLP 2020, section 5).

Loss of a mechanism: `lambda_EI * CE(level) + lambda_RE * CE(token in rationale)`; the three are summed. The levels
are heavily skewed, so rarer ones weigh more. The seeker encoder stays as it was pretrained; its states are computed
once.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from partner_rl.config.schema import RewardTrainingConfig
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.types import MECHANISMS, Example, MechanismLabel, PartnerError
from rewards.empathy_model import NUM_LEVELS, EmpathyClassifier, EmpathyLogits, EmpathyModel
from rewards.encoder import EncodedText, encode_states, pad_id_of, pad_states, state_batches, token_limit, tokenize
from rewards.training.frozen import PartlyFrozenEncoder, precompute_steps
from rewards.training.schedule import Progress, StepCounter, Trainer, num_batches, shuffled_batches

logger = logging.getLogger(__name__)

IGNORED = -100
"""Target of tokens that the rationale loss leaves out: special tokens and padding."""


@dataclass(frozen=True, slots=True)
class MechanismReport:
    """How well one mechanism's level is classified on the dev pairs.

    Attributes:
        accuracy: Share of pairs with the right level.
        macro_f1: Mean F1 of the levels that occur as label or prediction.
        support: Dev pairs of level 0, 1 and 2.
    """

    accuracy: float
    macro_f1: float
    support: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class EmpathyReport:
    """What a training did.

    Attributes:
        mechanisms: Mechanism name → its dev figures; empty without dev pairs.
        train_pairs: Pairs trained on.
        dev_pairs: Pairs evaluated on.
        lost_rationales: Rationales that are not a passage of their response and were left out.
        seconds: Wall time.
    """

    mechanisms: Mapping[str, MechanismReport]
    train_pairs: int
    dev_pairs: int
    lost_rationales: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Targets:
    """Labels of the training pairs: levels `[N, M]`, and per pair the tokens in rationales `[T, M]`."""

    levels_NM: Tensor
    rationales: tuple[Tensor, ...]
    lost: int


def train_empathy(
    examples_train: Sequence[Example],
    examples_dev: Sequence[Example],
    encoder_path: Path,
    settings: RewardTrainingConfig,
    output: Path,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> EmpathyReport:
    """Train the classifier and write its folder (see `EmpathyClassifier.load`).

    Args:
        examples_train: Pairs; those without labels are left out.
        examples_dev: Pairs to report on, likewise.
        encoder_path: Folder of the pretrained encoder that both encoders start from.
        settings: Epochs, learning rates, loss weights, frozen layers.
        output: Folder to write, complete or not at all.
        seed: Seed of the order, the new layers and dropout; the process's own random stream is left alone.
        device: `cpu` or `cuda`.
        progress: Called with (steps done, all steps).

    Raises:
        PartnerError: No training pair is labelled, or the encoder cannot be loaded.
    """
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    pairs = _labelled(examples_train, settings.max_pairs, rng)
    if not pairs:
        raise PartnerError(
            "no labelled pair to train the empathy classifier on: give data with levels, or a checkpoint"
        )
    dev = _labelled(examples_dev, None, rng)
    tokenizer = load_tokenizer(encoder_path)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        response_encoder = load_encoder(encoder_path)
        model = EmpathyModel(copy.deepcopy(response_encoder), response_encoder).to(device)
        targets = _train(model, tokenizer, pairs, settings, rng, progress)
    classifier = EmpathyClassifier(model, tokenizer, settings.max_tokens)
    classifier.save(output)
    if targets.lost:
        logger.warning("%d rationales are not a passage of their response and were left out", targets.lost)
    mechanisms = evaluate_empathy(classifier, dev) if dev else {}
    return EmpathyReport(mechanisms, len(pairs), len(dev), targets.lost, time.perf_counter() - start)


def evaluate_empathy(classifier: EmpathyClassifier, examples: Sequence[Example]) -> dict[str, MechanismReport]:
    """Accuracy and macro-F1 of each mechanism on labelled pairs."""
    expected_NM = _levels(examples)
    probabilities = classifier.level_probabilities([(e.seeker_post, e.response_post) for e in examples])
    found_NM = probabilities.argmax(-1).numpy()
    reports = {}
    for m, name in enumerate(MECHANISMS):
        none, weak, strong = np.bincount(expected_NM[:, m], minlength=NUM_LEVELS).tolist()
        reports[name] = MechanismReport(
            accuracy=float(accuracy_score(expected_NM[:, m], found_NM[:, m])),
            macro_f1=float(f1_score(expected_NM[:, m], found_NM[:, m], average="macro", zero_division=0.0)),
            support=(none, weak, strong),
        )
    return reports


def _labelled(examples: Sequence[Example], limit: int | None, rng: np.random.Generator) -> list[Example]:
    labelled = [example for example in examples if example.labels is not None]
    if limit is None or len(labelled) <= limit:
        return labelled
    return [labelled[i] for i in sorted(rng.permutation(len(labelled))[:limit])]


def _levels(examples: Sequence[Example]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.array([[label.level for label in example.labels or ()] for example in examples], dtype=np.int64)


def _train(
    model: EmpathyModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Example],
    settings: RewardTrainingConfig,
    rng: np.random.Generator,
    progress: Progress | None,
) -> _Targets:
    """Fit the response encoder's upper layers and the heads."""
    max_tokens = token_limit(model.response_encoder, settings.max_tokens)
    responses = tokenize(tokenizer, [pair.response_post for pair in pairs], max_tokens)
    place = {post: i for i, post in enumerate(dict.fromkeys(pair.seeker_post for pair in pairs))}
    seekers = tokenize(tokenizer, list(place), max_tokens)
    targets = _targets(pairs, responses)
    steps = settings.empathy_epochs * num_batches(len(pairs), settings.batch_size)
    passes = sum(1 for _ in state_batches(seekers)) + precompute_steps(responses, settings.frozen_layers)
    counter = StepCounter(progress, passes + steps)

    device = next(model.parameters()).device
    pad_id = pad_id_of(tokenizer)
    model.seeker_encoder.requires_grad_(False).train(False)
    seeker_states = encode_states(model.seeker_encoder, seekers, pad_id, device, counter.advance)
    encoder = PartlyFrozenEncoder(model.response_encoder, responses, settings.frozen_layers, pad_id, counter.advance)
    heads = list(model.mechanisms.parameters())
    trainer = Trainer(encoder.parameters(), heads, settings.empathy_learning_rate, settings.head_learning_rate, steps)
    weights_ML = class_weights(targets.levels_NM).to(device)
    lengths = [len(response.ids) for response in responses]
    model.train()
    model.seeker_encoder.train(False)
    for _ in range(settings.empathy_epochs):
        for batch in shuffled_batches(lengths, settings.batch_size, rng):
            seeker_BUD, seeker_mask_BU = pad_states([seeker_states[place[pairs[i].seeker_post]] for i in batch])
            logits = model(seeker_BUD, seeker_mask_BU, *encoder.states(batch))
            trainer.step(_loss(logits, targets, batch, weights_ML, settings))
            counter.advance()
    return targets


def _loss(
    logits: EmpathyLogits,
    targets: _Targets,
    batch: Sequence[int],
    weights_ML: Tensor,
    settings: RewardTrainingConfig,
) -> Tensor:
    """`lambda_EI * CE(level) + lambda_RE * CE(rationale)`, summed over the mechanisms."""
    device = logits.levels_BML.device
    levels_BM = targets.levels_NM[list(batch)].to(device)
    inside_BTM = torch.nn.utils.rnn.pad_sequence(
        [targets.rationales[i] for i in batch], batch_first=True, padding_value=IGNORED
    ).to(device)
    loss = logits.levels_BML.new_zeros(())
    for m, weights_L in enumerate(weights_ML):
        level = cross_entropy(logits.levels_BML[:, m], levels_BM[:, m], weight=weights_L, reduction="none").mean()
        rationale = cross_entropy(
            logits.rationales_BTM2[:, :, m].flatten(0, 1), inside_BTM[:, :, m].flatten(), ignore_index=IGNORED
        )
        loss = loss + settings.level_loss_weight * level + settings.rationale_loss_weight * rationale
    return loss


def class_weights(levels_NM: Tensor) -> Tensor:
    """Weight of each level in its mechanism's loss, `[M, L]`.

    The inverse square root of its share, scaled to a mean of 1 over the pairs. The plain inverse share would balance
    the levels fully, and then the classifier reports rare levels so often that their expectation, which is the
    reward, is far too high.
    """
    weights = []
    for level_N in levels_NM.T:
        counts_L = torch.bincount(level_N, minlength=NUM_LEVELS).float()
        inverse_L = torch.where(counts_L > 0, counts_L.clamp(min=1.0).rsqrt(), torch.zeros(()))
        weights.append(inverse_L * counts_L.sum() / (inverse_L * counts_L).sum())
    return torch.stack(weights)


def _targets(pairs: Sequence[Example], responses: Sequence[EncodedText]) -> _Targets:
    rationales = []
    lost = 0
    for pair, response in zip(pairs, responses, strict=True):
        columns = []
        for label in pair.labels or ():
            inside, missing = rationale_tokens(label, pair.response_post, response)
            columns.append(torch.tensor(inside))
            lost += missing
        rationales.append(torch.stack(columns, dim=1))
    return _Targets(torch.from_numpy(_levels(pairs)), tuple(rationales), lost)


def rationale_tokens(label: MechanismLabel, text: str, response: EncodedText) -> tuple[list[int], int]:
    """Which tokens of a response belong to a mechanism's rationale.

    Args:
        label: The mechanism's label.
        text: The response.
        response: Its tokens.

    Returns:
        Per token 1 inside, 0 outside, `IGNORED` for special tokens; and how many rationales the text does not contain.
    """
    inside = [IGNORED if special else 0 for special in response.special]
    lost = 0
    for rationale in label.rationales:
        passage = rationale.strip()
        begin = text.find(passage) if passage else -1
        if begin < 0:
            lost += 1
            continue
        finish = begin + len(passage)
        for token, (start, end) in enumerate(response.offsets):
            if inside[token] != IGNORED and start < finish and end > begin:
                inside[token] = 1
    return inside, lost
