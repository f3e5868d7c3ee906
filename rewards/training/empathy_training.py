"""Training of the empathy classifier on labelled pairs (EPITOME, EMNLP 2020, section 5), with accelerate.

Loss of a mechanism: `lambda_EI * CE(level) + lambda_RE * CE(token in rationale)`; the three are summed. The levels
are heavily skewed, so rarer ones weigh more; the probabilities are put right again afterwards. The seeker encoder stays
as it was pretrained; its states are computed once. The regression on n-grams is fitted on its own. It runs in one
process on a CPU or GPU, and in several under `accelerate launch`: each process then takes its share of the batches.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.progress import Progress, no_progress, part_of
from partner_rl.seeds import generator_of, seed_of
from partner_rl.types import MECHANISMS, Example, PartnerError
from rewards.empathy_ensemble import EmpathyEnsemble
from rewards.empathy_model import SEEKER_TOKENS, EmpathyClassifier, EmpathyLogits, EmpathyModel
from rewards.encoder import encode_states, pad_id_of, pad_states, state_batches, tokenize
from rewards.ngrams import balanced_offsets
from rewards.training.calibration import fit_temperature
from rewards.training.empathy_scores import MechanismScores, score_classifier
from rewards.training.empathy_targets import (
    IGNORED,
    EmpathyTargets,
    class_weights,
    empathy_targets,
    level_matrix,
    level_offsets,
)
from rewards.training.frozen import PartlyFrozenEncoder, precompute_steps
from rewards.training.schedule import (
    GRAD_CLIP,
    StepCounter,
    bfloat16_autocast,
    bucketed_batches,
    layer_groups,
    linear_schedule,
    process_share,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EmpathyEpoch:
    """One pass.

    Attributes:
        dev_loss: Mean negative log-likelihood of the dev pairs' levels under calibrated probabilities, in nats a
            mechanism; None without dev pairs.
    """

    train_loss: float
    dev_loss: float | None


@dataclass(frozen=True, slots=True)
class EmpathyReport:
    """What a training did.

    Attributes:
        mechanisms: Mechanism name → its dev scores; empty without dev pairs.
        best_epoch: The pass whose weights were kept, from 1.
        lost_rationales: Rationales that are not a passage of their response and were left out.
    """

    mechanisms: Mapping[str, MechanismScores]
    epochs: tuple[EmpathyEpoch, ...]
    best_epoch: int
    train_pairs: int
    dev_pairs: int
    lost_rationales: int
    seconds: float


def train_empathy(
    examples_train: Sequence[Example],
    examples_dev: Sequence[Example],
    encoder_path: Path,
    settings: RewardTrainingConfig,
    seed: int,
    device: str = "cpu",
    progress: Progress = no_progress,
    resampling: np.random.Generator | None = None,
) -> tuple[EmpathyClassifier, EmpathyReport]:
    """Train a classifier.

    Args:
        examples_train: Pairs; those without labels are left out.
        examples_dev: Pairs that choose the epoch and the temperatures, likewise.
        encoder_path: Folder of the pretrained encoder that both encoders start from.
        settings: Epochs, learning rates, loss weights, frozen layers.
        seed: Seed of the order, the new layers and dropout; the process's own random stream is left alone.
        device: `cpu` or `cuda`.
        progress: Called with (steps done, all steps).
        resampling: Draws the pairs, with replacement, that the regression on n-grams is fitted on; None for each once.

    Raises:
        PartnerError: No training pair is labelled, the loss is not finite, or the encoder cannot be loaded.
    """
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    pairs = labelled_pairs(examples_train, settings.max_pairs, rng)
    if not pairs:
        raise PartnerError(
            "no labelled pair to train the empathy classifier on: give data with levels, or a checkpoint"
        )
    dev = labelled_pairs(examples_dev, None, rng)
    tokenizer = load_tokenizer(encoder_path)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EmpathyModel.on_encoder(load_encoder(encoder_path), settings.empathy_max_tokens)
        nn.Module.to(model, device)
        classifier = EmpathyClassifier(model, tokenizer, settings.empathy_max_tokens)
        training = _Training(classifier, pairs, dev, settings, rng, progress, resampling)
        epochs, best_epoch = training.run()
    lost = training.targets.lost
    if lost:
        logger.warning("%d rationales are not a passage of their response and were left out", lost)
    mechanisms = score_classifier(classifier, dev, seed) if dev else {}
    seconds = time.perf_counter() - start
    return classifier, EmpathyReport(mechanisms, epochs, best_epoch, len(pairs), len(dev), lost, seconds)


def train_members(
    examples_train: Sequence[Example],
    examples_dev: Sequence[Example],
    encoder_path: Path,
    settings: RewardTrainingConfig,
    seed: int,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> tuple[EmpathyEnsemble, tuple[EmpathyReport, ...]]:
    """Train `empathy_members` classifiers, each from another seed; arguments and errors are those of `train_empathy`.

    The first member is what `train_empathy` makes of the seed, whatever follows it.

    Returns:
        The ensemble, and what each member's training did.
    """
    count = settings.empathy_members
    classifiers, reports = [], []
    for number in range(count):
        classifier, report = train_empathy(
            examples_train,
            examples_dev,
            encoder_path,
            settings,
            seed if number == 0 else seed_of("empathy member", seed, number),
            device,
            part_of(progress, number, count),
            resampling=None if number == 0 else generator_of("empathy resample", seed, number),
        )
        classifiers.append(classifier)
        reports.append(report)
    return EmpathyEnsemble(tuple(classifiers)), tuple(reports)


def labelled_pairs(examples: Sequence[Example], limit: int | None, rng: np.random.Generator) -> list[Example]:
    """The pairs with levels, at most `limit` of them, drawn at random and in order."""
    labelled = [example for example in examples if example.labels is not None]
    if limit is None or len(labelled) <= limit:
        return labelled
    return [labelled[i] for i in sorted(rng.permutation(len(labelled))[:limit])]


class _TrainedPart(nn.Module):
    """What gradients pass through, as one module: distributed training hooks into its forward pass."""

    def __init__(self, encoder: PartlyFrozenEncoder, mechanisms: nn.ModuleList, model: EmpathyModel) -> None:
        super().__init__()
        self.encoder = encoder.encoder
        self.mechanisms = mechanisms
        self._states = encoder.states
        self._classify = model.forward

    def forward(self, batch: Sequence[int], seeker_BUD: Tensor, seeker_mask_BU: Tensor) -> EmpathyLogits:
        return self._classify(seeker_BUD, seeker_mask_BU, *self._states(batch))


class _Training:
    """Optimizer, batches and the best weights of one training."""

    def __init__(
        self,
        classifier: EmpathyClassifier,
        pairs: Sequence[Example],
        dev: Sequence[Example],
        settings: RewardTrainingConfig,
        rng: np.random.Generator,
        progress: Progress,
        resampling: np.random.Generator | None,
    ) -> None:
        model, tokenizer, device = classifier.model, classifier.tokenizer, classifier.device
        self._classifier, self._pairs, self._dev, self._settings, self._rng = classifier, pairs, dev, settings, rng
        self._accelerator = Accelerator(cpu=device.type == "cpu")
        responses = tokenize(tokenizer, [pair.response_post for pair in pairs], classifier.max_tokens)
        self._place = {post: i for i, post in enumerate(dict.fromkeys(pair.seeker_post for pair in pairs))}
        seekers = tokenize(tokenizer, list(self._place), min(classifier.max_tokens, SEEKER_TOKENS))
        self.targets: EmpathyTargets = empathy_targets(pairs, responses)
        self._lengths = [len(response.ids) for response in responses]

        per_epoch = -(-len(pairs) // (settings.batch_size * self._processes))
        steps = settings.empathy_epochs * per_epoch
        passes = sum(1 for _ in state_batches(seekers)) + precompute_steps(responses, settings.frozen_layers)
        self._counter = StepCounter(progress if self._accelerator.is_main_process else no_progress, passes + steps)
        pad_id = pad_id_of(tokenizer)
        model.seeker_encoder.requires_grad_(False)
        model.train(False)
        self._seekers = encode_states(model.seeker_encoder, seekers, pad_id, device, self._counter.advance)
        encoder = PartlyFrozenEncoder(
            model.response_encoder, responses, settings.frozen_layers, pad_id, self._counter.advance
        )
        heads = {"params": list(model.mechanisms.parameters()), "lr": settings.head_learning_rate}
        layers = layer_groups(encoder, settings.empathy_learning_rate, settings.empathy_layer_decay)
        optimizer = torch.optim.AdamW([heads, *layers], weight_decay=0.01)
        self._schedule = linear_schedule(optimizer, steps)
        # A parameter that no gradient reaches would make distributed training wait for it.
        trained = {id(parameter) for group in (heads, *layers) for parameter in group["params"]}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self._net, self._optimizer = self._accelerator.prepare(
            _TrainedPart(encoder, model.mechanisms, model), optimizer
        )
        self._weights_ML = class_weights(self.targets.levels_NM).to(device)
        model.config.ngram_weight = share = settings.empathy_ngram_weight
        levels_NM = self.targets.levels_NM
        rows = None if resampling is None else resampling.integers(len(pairs), size=len(pairs))
        model.ngrams.fit([pair.response_post for pair in pairs], levels_NM, rows)
        balanced_ML = balanced_offsets(levels_NM if rows is None else levels_NM[rows])
        offsets_ML = (1 - share) * level_offsets(self._weights_ML).cpu() + share * balanced_ML
        model.config.level_offsets = offsets_ML.tolist()

    @property
    def _processes(self) -> int:
        return int(self._accelerator.num_processes)

    def run(self) -> tuple[tuple[EmpathyEpoch, ...], int]:
        """All epochs, or until the dev loss has not fallen for `empathy_patience` passes. Keeps the best."""
        epochs: list[EmpathyEpoch] = []
        best: tuple[int, float, dict[str, Tensor], list[float]] | None = None
        model = self._classifier.model
        for epoch in range(1, self._settings.empathy_epochs + 1):
            train_loss = self._train_epoch()
            dev_loss, temperatures = self._calibrate() if self._dev else (None, model.config.temperatures)
            epochs.append(EmpathyEpoch(train_loss, dev_loss))
            logger.info("epoch %d: training loss %.3f, dev loss %s", epoch, train_loss, _figure(dev_loss))
            if best is None or dev_loss is None or dev_loss < best[1]:
                best = (epoch, dev_loss if dev_loss is not None else 0.0, self._trained_weights(), temperatures)
            elif epoch - best[0] >= self._settings.empathy_patience:
                break
        assert best is not None
        model.load_state_dict(best[2], strict=False)
        model.config.temperatures = best[3]
        model.train(False)
        return tuple(epochs), best[0]

    def _train_epoch(self) -> float:
        model = self._classifier.model
        model.train()
        model.seeker_encoder.train(False)
        batches = bucketed_batches(self._lengths, self._settings.batch_size, self._rng)
        mine = process_share(batches, self._accelerator.process_index, self._processes)
        total = torch.zeros((), device=self._classifier.device)
        for batch in mine:
            total += self._step(batch)
            self._counter.advance()
        model.train(False)
        return float(self._accelerator.reduce(total / len(mine), "mean"))

    def _step(self, batch: Sequence[int]) -> Tensor:
        seeker_BUD, seeker_mask_BU = pad_states([self._seekers[self._place[self._pairs[i].seeker_post]] for i in batch])
        with bfloat16_autocast(self._classifier.device):
            logits: EmpathyLogits = self._net(batch, seeker_BUD, seeker_mask_BU)
        loss = empathy_loss(logits, self.targets, batch, self._weights_ML, self._settings)
        if not torch.isfinite(loss):
            raise PartnerError(
                f"the empathy classifier's loss is {float(loss.detach())}: lower reward_training.empathy_learning_rate"
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._net.parameters(), GRAD_CLIP)
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()

    def _calibrate(self) -> tuple[float, list[float]]:
        """Mean dev loss and the temperature of each mechanism at which it is smallest."""
        pairs = [(example.seeker_post, example.response_post) for example in self._dev]
        logits_NML = self._classifier.level_logits(pairs).double().numpy()
        logits_NML = logits_NML - np.array(self._classifier.model.config.level_offsets)
        levels_NM = level_matrix(self._dev)
        fits = [fit_temperature(logits_NML[:, m], levels_NM[:, m]) for m in range(len(MECHANISMS))]
        return float(np.mean([loss for _, loss in fits])), [temperature for temperature, _ in fits]

    def _trained_weights(self) -> dict[str, Tensor]:
        return {
            name: parameter.detach().clone()
            for name, parameter in self._classifier.model.named_parameters()
            if parameter.requires_grad
        }


def empathy_loss(
    logits: EmpathyLogits,
    targets: EmpathyTargets,
    batch: Sequence[int],
    weights_ML: Tensor,
    settings: RewardTrainingConfig,
) -> Tensor:
    """`lambda_EI * CE(level) + lambda_RE * CE(rationale)`, summed over the mechanisms."""
    levels_BML, rationales_BTM2 = logits.levels_BML.float(), logits.rationales_BTM2.float()
    levels_BM = targets.levels_NM[list(batch)].to(levels_BML.device)
    inside_BTM = nn.utils.rnn.pad_sequence(
        [targets.rationales[i] for i in batch], batch_first=True, padding_value=IGNORED
    ).to(levels_BML.device)
    loss = levels_BML.new_zeros(())
    for m, weights_L in enumerate(weights_ML):
        level = cross_entropy(levels_BML[:, m], levels_BM[:, m], weight=weights_L, reduction="none").mean()
        rationale = cross_entropy(
            rationales_BTM2[:, :, m].flatten(0, 1), inside_BTM[:, :, m].flatten(), ignore_index=IGNORED
        )
        loss = loss + settings.level_loss_weight * level + settings.rationale_loss_weight * rationale
    return loss


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
