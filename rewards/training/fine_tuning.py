"""Fine-tuning of a causal language model to predict target tokens after their contexts.

It runs in one process, and in several under `accelerate launch`: each then takes its share of the batches and of the
held-out rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from partner_rl.config.section import LoraSection
from partner_rl.models.adapters import merge_adapters, with_adapters
from partner_rl.models.loading import save_model, transformer_layers
from partner_rl.types import PartnerError
from rewards.language_model import LanguageModel
from rewards.training.dialogue_pairs import TargetRow, make_batch, token_batches, with_wrong_conditions, wrong_partners
from rewards.training.dialogue_scores import perplexity, score_chunks
from rewards.training.schedule import GRAD_CLIP, bfloat16_autocast, linear_schedule, process_share
from rewards.training.target_loss import TargetLoss

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FineTuning:
    """How to fine-tune.

    Attributes:
        lora: The adapters; None trains the layers themselves.
        patience: Passes without a better held-out perplexity after which the training ends; None for all passes.
        layers: The highest layers are trained, as many as this; None for all, embeddings included without adapters.
        contrast: Weight of the contrastive term of `TargetLoss`; it needs rows of two groups.
        bfloat16: Compute in bfloat16 on a GPU that has it; weights stay in float32.
    """

    model: str
    rate_key: str
    epochs: int
    learning_rate: float
    batch_tokens: int
    lora: LoraSection | None
    patience: int | None = None
    layers: int | None = None
    contrast: float = 0.0
    bfloat16: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningReport:
    """What a fine-tuning did.

    Attributes:
        dev_perplexity: On the held-out rows, before training and after each pass; empty without any.
        train_loss: Mean loss of each pass, in nats a target token.
        best_epoch: The pass that was kept, from 1; 0 where none was better than the pretrained model.
    """

    dev_perplexity: tuple[float, ...]
    train_loss: tuple[float, ...]
    best_epoch: int
    steps: int


class FineTuner:
    """A language model with its optimizer, in this process's part of the training."""

    def __init__(
        self,
        language_model: LanguageModel,
        rows: Sequence[TargetRow],
        dev: Sequence[TargetRow],
        settings: FineTuning,
        seed: int,
        accelerator: Accelerator,
        groups: Sequence[str] = (),
    ) -> None:
        """Order the batches and get the model ready; the process's own random stream is left alone.

        Args:
            language_model: The model, trained in place; it keeps its evaluation mode, as dropout is 0.
            rows: What to train on.
            dev: What chooses the best pass; without any, the last one is kept.
            settings: How.
            seed: Seed of the order, the adapters and the wrong conditions.
            accelerator: Shares the batches out over the processes.
            groups: Per row, whose it is: a wrong condition is another one's. Needed for the contrastive term.
        """
        rng = np.random.default_rng(seed)
        contrast = settings.contrast if len(set(groups)) > 1 else 0.0
        budget = settings.batch_tokens // (2 if contrast else 1)
        epochs = [token_batches(rows, budget, rng) for _ in range(settings.epochs)]
        self._partners = [wrong_partners(groups, rng) for _ in epochs] if contrast else None
        self._epochs = [process_share(b, accelerator.process_index, accelerator.num_processes) for b in epochs]
        self._language_model, self._rows, self._dev = language_model, rows, dev
        self._settings, self._accelerator = settings, accelerator
        self._steps = 0
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._adapted = _trained_part(language_model.model, settings)
        self._trained = {name: p for name, p in language_model.model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(self._trained.values(), lr=settings.learning_rate, weight_decay=0.0)
        self._schedule = linear_schedule(optimizer, sum(map(len, self._epochs)))
        self._loss, self._optimizer = accelerator.prepare(TargetLoss(language_model.model, contrast), optimizer)

    @property
    def work(self) -> int:
        """Calls of `advance` that `run` makes, unless it ends early: steps and chunks of held-out rows."""
        scored = (self._settings.epochs + 1) * score_chunks(len(self._dev), self._accelerator)
        return sum(map(len, self._epochs)) + scored

    def run(self, advance: Callable[[], None]) -> FineTuningReport:
        """Passes until the held-out perplexity stops falling; the model holds the best weights afterwards.

        Raises:
            PartnerError: The loss is not finite.
        """
        losses: list[float] = []
        perplexities = [self._perplexity(advance)] if self._dev else []
        best_epoch, best = 0, self._weights()
        for epoch in range(1, self._settings.epochs + 1):
            losses.append(self._train_epoch(epoch, advance))
            if self._dev:
                perplexities.append(self._perplexity(advance))
                logger.info("epoch %d: loss %.3f, held-out perplexity %.1f", epoch, losses[-1], perplexities[-1])
            if not self._dev or perplexities[-1] < perplexities[best_epoch]:
                best_epoch, best = epoch, self._weights()
            elif self._settings.patience is not None and epoch - best_epoch >= self._settings.patience:
                break
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(best[name])
        return FineTuningReport(
            dev_perplexity=tuple(perplexities), train_loss=tuple(losses), best_epoch=best_epoch, steps=self._steps
        )

    def save(self, output: Path) -> None:
        """Write a plain model folder, adapters merged, from the main process; the others wait."""
        if self._accelerator.is_main_process:
            save_model(merge_adapters(self._adapted), self._language_model.tokenizer, output)
        self._accelerator.wait_for_everyone()

    def _train_epoch(self, epoch: int, advance: Callable[[], None]) -> float:
        """One pass; returns the mean loss of the batches of all processes."""
        total = torch.zeros((), device=self._accelerator.device)
        batches = self._epochs[epoch - 1]
        for batch in batches:
            if self._partners is None:
                total += self._step([self._rows[i] for i in batch])
            else:
                total += self._step(with_wrong_conditions(self._rows, batch, self._partners[epoch - 1]))
            advance()
        return float(self._accelerator.reduce(total / len(batches), "mean"))

    def _step(self, rows: Sequence[TargetRow]) -> Tensor:
        self._steps += 1
        device = self._accelerator.device
        with bfloat16_autocast(device, enabled=self._settings.bfloat16):
            loss: Tensor = self._loss(*make_batch(rows).to(device))
        if not torch.isfinite(loss):
            raise PartnerError(
                f"the {self._settings.model}'s loss is {float(loss.detach())} at step {self._steps}: "
                f"lower {self._settings.rate_key}"
            )
        self._optimizer.zero_grad()
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._trained.values(), GRAD_CLIP)
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()

    def _perplexity(self, advance: Callable[[], None]) -> float:
        return perplexity(self._language_model, self._dev, self._accelerator, advance)

    def _weights(self) -> dict[str, Tensor]:
        """A copy of the trained parameters."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self._trained.items()}


def _trained_part(model: PreTrainedModel, settings: FineTuning) -> Any:
    """Freeze what is not trained; returns the model, wrapped by peft where there are adapters."""
    if settings.layers is None:
        return model if settings.lora is None else with_adapters(model, settings.lora)
    upper = transformer_layers(model)[-settings.layers :]
    if settings.lora is None:
        trained = {id(p) for layer in upper for p in layer.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        return model
    from transformers.pytorch_utils import Conv1D

    projections = {id(m) for layer in upper for m in layer.modules() if isinstance(m, nn.Linear | Conv1D)}
    return with_adapters(model, settings.lora, [name for name, m in model.named_modules() if id(m) in projections])
