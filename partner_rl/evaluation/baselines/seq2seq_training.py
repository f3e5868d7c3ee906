"""Fine-tuning of the baseline `seq2seq`, in one process or in several under `accelerate launch`."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from partner_rl.config.schema import BaselinesConfig
from partner_rl.config.section import LoraSection
from partner_rl.evaluation.baselines.base_model import Cut
from partner_rl.evaluation.baselines.generation import LENGTHS
from partner_rl.evaluation.baselines.seq2seq import source_ids, target_ids
from partner_rl.models.loading import check_positions, load_causal_lm, load_tokenizer, quiet_transformers
from partner_rl.positions import PositionKind, decode_position
from partner_rl.progress import Progress, no_progress
from partner_rl.types import EditAction, Example, PartnerError, RewriteState
from rewards.language_model import LanguageModel
from rewards.training.dialogue_pairs import Row, make_batch, token_batches
from rewards.training.dialogue_scores import perplexity, score_chunks
from rewards.training.schedule import StepCounter, linear_schedule, process_share
from rewards.training.target_loss import TargetLoss

logger = logging.getLogger(__name__)

GRAD_CLIP: Final = 1.0
"""Global norm that gradients are clipped to."""


@dataclass(frozen=True, slots=True)
class WholeRewrite:
    """A response and what it should become.

    Attributes:
        seeker_post: The seeker's post.
        source: The response.
        target: The kinder response.
    """

    seeker_post: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Seq2SeqReport:
    """What a fine-tuning did.

    Attributes:
        dev_perplexity: On the held-out examples, before training and after each pass; empty without any.
        train_loss: Mean loss of each pass, in nats a target token.
        best_epoch: The pass that was kept, from 1; 0 where none was better than the pretrained model.
        examples: Examples trained on.
        steps: Optimizer steps.
        seconds: Wall time.
    """

    dev_perplexity: tuple[float, ...]
    train_loss: tuple[float, ...]
    best_epoch: int
    examples: int
    steps: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        return asdict(self)


def whole_rewrite(state: RewriteState, action: EditAction, window: int) -> WholeRewrite:
    """An example of the warm start as a pair of whole texts: the window before and after the edit.

    Args:
        state: What the policy sees.
        action: The edit that it should make.
        window: `k` of the window that the edit's position belongs to.
    """
    position, span = decode_position(action.position, window), list(state.span)
    if position.kind is PositionKind.INSERT:
        span.insert(position.index, action.sentence)
    elif position.kind is PositionKind.REPLACE:
        span[position.index] = action.sentence
    return WholeRewrite(state.seeker_post, " ".join(state.span), " ".join(span))


def train_seq2seq(
    examples_train: Sequence[WholeRewrite],
    examples_dev: Sequence[WholeRewrite],
    model_path: Path,
    settings: BaselinesConfig,
    output: Path,
    seed: int,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Seq2SeqReport:
    """Fine-tunes a language model to write the whole response, and writes it as a plain model folder.

    Args:
        examples_train: Examples to train on.
        examples_dev: Examples that choose the best pass; without any, the last one is kept.
        model_path: Folder of the pretrained causal language model.
        settings: The keys `max_post_tokens`, `max_new_tokens` and `seq2seq_*`.
        output: Receives the folder, from the main process; the caller gives it its final name.
        seed: Seed of order and adapters; the process's own random stream is left alone.
        device: `cpu` or `cuda`.
        progress: Called with (steps done, all steps) in the main process.

    Raises:
        PartnerError: There is nothing to train on, the model cannot be used, or the loss is not finite.
    """
    if not examples_train:
        raise PartnerError("no examples to train the sequence-to-sequence model on: give more data")
    start = time.perf_counter()
    accelerator = Accelerator(cpu=device == "cpu")
    language_model = LanguageModel(load_causal_lm(model_path).to(accelerator.device), load_tokenizer(model_path))
    train, dev = (_rows(language_model, examples, settings) for examples in (examples_train, examples_dev))
    longest = max(row.length for row in (*train, *dev))
    check_positions(language_model.tokenizer.name_or_path, language_model.model.config, longest, LENGTHS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trainer = _Trainer(language_model, train, settings, seed, accelerator)
        total = trainer.total_steps + (settings.seq2seq_epochs + 1) * score_chunks(len(dev), accelerator)
        counter = StepCounter(progress if accelerator.is_main_process else no_progress, total)
        losses: list[float] = []
        perplexities = [perplexity(language_model, dev, accelerator, counter.advance)] if dev else []
        best_epoch, best = 0, trainer.trained_state()
        for epoch in range(1, settings.seq2seq_epochs + 1):
            losses.append(trainer.train_epoch(counter))
            if dev:
                perplexities.append(perplexity(language_model, dev, accelerator, counter.advance))
                logger.info("epoch %d: loss %.3f, held-out perplexity %.2f", epoch, losses[-1], perplexities[-1])
            if not dev or perplexities[-1] < perplexities[best_epoch]:
                best_epoch, best = epoch, trainer.trained_state()
        trainer.load_trained_state(best)
    if accelerator.is_main_process:
        _save(trainer.adapted, language_model, output)
    accelerator.wait_for_everyone()
    seconds = time.perf_counter() - start
    return Seq2SeqReport(tuple(perplexities), tuple(losses), best_epoch, len(train), trainer.total_steps, seconds)


def _rows(language_model: LanguageModel, examples: Sequence[WholeRewrite], settings: BaselinesConfig) -> list[Row]:
    tokenizer, cut = language_model.tokenizer, Cut(language_model.tokenizer, settings.max_post_tokens)
    return [
        Row(
            tuple(source_ids(tokenizer, cut(Example("", "", example.seeker_post, example.source)))),
            tuple(target_ids(tokenizer, example.target, settings.max_new_tokens)),
        )
        for example in examples
    ]


class _Trainer:
    """The model with its optimizer, in this process's part of the training."""

    def __init__(
        self,
        language_model: LanguageModel,
        rows: Sequence[Row],
        settings: BaselinesConfig,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        rng = np.random.default_rng(seed)
        epochs = [token_batches(rows, settings.seq2seq_batch_tokens, rng) for _ in range(settings.seq2seq_epochs)]
        mine = [process_share(b, accelerator.process_index, accelerator.num_processes) for b in epochs]
        self._rows, self._accelerator, self._epochs = rows, accelerator, iter(mine)
        self.total_steps = sum(map(len, mine))
        self.adapted = _with_adapters(language_model.model, settings.seq2seq_lora)
        self._trained = {name: p for name, p in language_model.model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(self._trained.values(), lr=settings.seq2seq_learning_rate, weight_decay=0.0)
        self._schedule = linear_schedule(optimizer, self.total_steps)
        # The model keeps its evaluation mode: dropout is 0.
        self._loss, self._optimizer = accelerator.prepare(TargetLoss(language_model.model), optimizer)

    def train_epoch(self, counter: StepCounter) -> float:
        """One pass; returns the mean loss of the batches of all processes."""
        total = torch.zeros((), device=self._accelerator.device)
        batches = next(self._epochs)
        for batch in batches:
            total += self._step([self._rows[i] for i in batch])
            counter.advance()
        return float(self._accelerator.reduce(total / len(batches), "mean"))

    def _step(self, rows: Sequence[Row]) -> Tensor:
        loss: Tensor = self._loss(*make_batch(rows).to(self._accelerator.device))
        if not torch.isfinite(loss):
            raise PartnerError(
                f"the sequence-to-sequence model's loss is {float(loss.detach())}: "
                "lower baselines.seq2seq_learning_rate"
            )
        self._optimizer.zero_grad()
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._trained.values(), GRAD_CLIP)
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()

    def trained_state(self) -> dict[str, Tensor]:
        """A copy of the trained parameters."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self._trained.items()}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put a copy back."""
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(state[name])


def _with_adapters(model: PreTrainedModel, lora: LoraSection | None) -> Any:
    """The model with fresh adapters and all else frozen; without `lora` the model itself."""
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    adapters = LoraConfig(
        r=lora.rank,
        # peft only ever divides by it or multiplies with it.
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules="all-linear",
        # GPT-2's projections store their weights transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, adapters)


def _save(adapted: Any, language_model: LanguageModel, output: Path) -> None:
    """Write the model, adapters merged, and its tokenizer."""
    model = adapted.merge_and_unload() if hasattr(adapted, "merge_and_unload") else adapted
    with quiet_transformers():
        model.save_pretrained(output)
        language_model.tokenizer.save_pretrained(output)
