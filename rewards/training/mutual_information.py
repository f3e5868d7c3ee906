"""Fine-tuning of the two dialogue models behind the reward for mutual information (PARTNER, section 4.3).

`p→(R|S)` and `p←(S|R)` start from one pretrained language model and are trained on the pairs of the corpus with the
prompts and tokens that the scorer uses; only the target's tokens count. It runs in one process, and in several under
`accelerate launch`: each then takes its share of the batches and of the pairs to score.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.data.splits import select_pairs
from partner_rl.models.loading import load_causal_lm, load_tokenizer, quiet_transformers
from partner_rl.progress import Progress, no_progress
from partner_rl.types import Example, PartnerError
from rewards.language_model import LanguageModel
from rewards.training.dialogue_pairs import (
    Direction,
    Row,
    conditions_and_targets,
    encode_rows,
    make_batch,
    token_batches,
    visible_pairs,
    with_wrong_conditions,
    wrong_partners,
)
from rewards.training.dialogue_scores import DialogueScores, dialogue_scores, perplexity, score_chunks
from rewards.training.schedule import StepCounter, linear_schedule, process_share
from rewards.training.target_loss import TargetLoss

logger = logging.getLogger(__name__)

GRAD_CLIP: Final = 1.0
"""Global norm that gradients are clipped to."""


@dataclass(frozen=True, slots=True)
class DialogueReport:
    """What a fine-tuning of one direction did.

    Attributes:
        direction: `forward` is p→(R|S), `backward` is p←(S|R).
        before: Test figures of the pretrained model; None without test pairs of two seekers.
        after: Test figures of the fine-tuned one.
        dev_perplexity: On the dev pairs, before training and after each pass; empty without dev pairs.
        train_loss: Mean loss of each pass, in nats a target token.
        best_epoch: The pass that was kept, from 1; 0 where none was better than the pretrained model.
        train_pairs: Pairs trained on.
        steps: Optimizer steps.
        train_seconds: Wall time of the training and the dev pairs.
        test_seconds: Wall time of the test pairs.
    """

    direction: Direction
    before: DialogueScores | None
    after: DialogueScores | None
    dev_perplexity: tuple[float, ...]
    train_loss: tuple[float, ...]
    best_epoch: int
    train_pairs: int
    steps: int
    train_seconds: float
    test_seconds: float

    def as_json(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        return asdict(self)


def train_dialogue_model(
    direction: Direction,
    examples_train: Sequence[Example],
    examples_dev: Sequence[Example],
    examples_test: Sequence[Example],
    model_path: Path,
    settings: RewardTrainingConfig,
    max_tokens: int,
    output: Path,
    seed: int,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> DialogueReport:
    """Fine-tune one direction and write it as a plain model folder, adapters merged.

    Args:
        direction: Which model.
        examples_train: Pairs to train on.
        examples_dev: Pairs that choose the best pass; without any, the last one is kept.
        examples_test: Pairs to report on, before and after.
        model_path: Folder of the pretrained causal language model.
        settings: The keys `mi_*`.
        max_tokens: Each post is cut to this many tokens, as the scorer does (`rewards.max_tokens`).
        output: Receives the folder; the caller gives it its final name when it is whole.
        seed: Seed of the order, the adapters and the wrong partners; the process's own random stream is left alone.
        device: `cpu` or `cuda`.
        progress: Called with (steps done, all steps) in the main process; scoring a chunk of pairs is a step too.

    Raises:
        PartnerError: There is nothing to train on, the model cannot be used, or the loss is not finite.
    """
    accelerator = Accelerator(cpu=device == "cpu")
    examples_train = select_pairs(visible_pairs(examples_train), settings.mi_max_pairs, str(seed))
    examples_dev = select_pairs(visible_pairs(examples_dev), settings.mi_max_dev_pairs, str(seed))
    examples_test = select_pairs(visible_pairs(examples_test), settings.mi_max_test_pairs, str(seed))
    if not examples_train:
        raise PartnerError(f"no pairs to train the {direction} dialogue model on: give more data")
    tokenizer, pretrained = load_tokenizer(model_path), load_causal_lm(model_path)
    language_model = LanguageModel(pretrained.to(accelerator.device), tokenizer)
    train = encode_rows(language_model, direction, *conditions_and_targets(examples_train, direction), max_tokens)
    dev = encode_rows(language_model, direction, *conditions_and_targets(examples_dev, direction), max_tokens)
    testable = len({example.seeker_id for example in examples_test}) > 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trainer = _Trainer(language_model, train, [e.seeker_id for e in examples_train], settings, seed, accelerator)
        total = trainer.total_steps + (settings.mi_epochs + 1) * score_chunks(len(dev), accelerator)
        total += 2 * testable * score_chunks(len(examples_test), accelerator)
        report = progress if accelerator.is_main_process else no_progress
        counter = StepCounter(report, total)

        def test() -> DialogueScores | None:
            if not testable:
                return None
            return dialogue_scores(
                language_model, direction, examples_test, max_tokens, seed, accelerator, counter.advance
            )

        start = time.perf_counter()
        before = test()
        middle = time.perf_counter()
        losses, perplexities, best_epoch = _train_epochs(trainer, dev, settings, counter)
        trained = time.perf_counter()
        after = test()
    seconds = trained - middle, time.perf_counter() - trained + middle - start
    if report is not None:
        report(total, total)  # an early stop leaves steps out
    if accelerator.is_main_process:
        _save(trainer.adapted, language_model, output)
    accelerator.wait_for_everyone()
    return DialogueReport(
        direction, before, after, perplexities, losses, best_epoch, len(train), trainer.steps_done, *seconds
    )


def _train_epochs(
    trainer: _Trainer, dev: Sequence[Row], settings: RewardTrainingConfig, counter: StepCounter
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Passes until the held-out perplexity stops falling; the model holds the best weights afterwards.

    Returns:
        Training losses, dev perplexities (the first before training), and the best pass, 0 for the pretrained model.
    """
    losses: list[float] = []
    perplexities = [trainer.perplexity(dev, counter)] if dev else []
    best_epoch, best = 0, trainer.trained_state()
    for epoch in range(1, settings.mi_epochs + 1):
        losses.append(trainer.train_epoch(counter))
        if not dev:
            best_epoch, best = epoch, {}
            continue
        perplexities.append(trainer.perplexity(dev, counter))
        logger.info("epoch %d: loss %.3f, held-out perplexity %.1f", epoch, losses[-1], perplexities[-1])
        if perplexities[-1] < perplexities[best_epoch]:
            best_epoch, best = epoch, trainer.trained_state()
        elif epoch - best_epoch >= settings.mi_patience:
            break
    if best:
        trainer.load_trained_state(best)
    return tuple(losses), tuple(perplexities), best_epoch


class _Trainer:
    """The model with its optimizer, in this process's part of the training."""

    def __init__(
        self,
        language_model: LanguageModel,
        rows: Sequence[Row],
        seekers: Sequence[str],
        settings: RewardTrainingConfig,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        rng = np.random.default_rng(seed)
        # With one seeker there is no wrong condition.
        self._contrast = settings.mi_contrast if len(set(seekers)) > 1 else 0.0
        budget = settings.mi_batch_tokens // (2 if self._contrast else 1)
        epochs = [token_batches(rows, budget, rng) for _ in range(settings.mi_epochs)]
        self._partners = (wrong_partners(seekers, rng) for _ in epochs) if self._contrast else iter(())
        mine = [process_share(b, accelerator.process_index, accelerator.num_processes) for b in epochs]
        self._language_model = language_model
        self._rows = rows
        self._accelerator = accelerator
        self._epochs = iter(mine)
        self.total_steps = sum(len(batches) for batches in mine)
        self.steps_done = 0
        self.adapted = _with_trained_parameters(language_model.model, settings)
        self._trained = {
            name: parameter for name, parameter in language_model.model.named_parameters() if parameter.requires_grad
        }
        optimizer = torch.optim.AdamW(self._trained.values(), lr=settings.mi_learning_rate, weight_decay=0.0)
        self._schedule = linear_schedule(optimizer, self.total_steps)
        # The model keeps its evaluation mode: dropout is 0.
        self._loss, self._optimizer = accelerator.prepare(TargetLoss(language_model.model, self._contrast), optimizer)

    def train_epoch(self, counter: StepCounter) -> float:
        """One pass; returns the mean loss of the batches of all processes."""
        total = torch.zeros((), device=self._accelerator.device)
        batches = next(self._epochs)
        partners = next(self._partners, None)
        for batch in batches:
            if partners is None:
                total += self._step([self._rows[i] for i in batch])
            else:
                total += self._step(with_wrong_conditions(self._rows, batch, partners))
            self.steps_done += 1
            counter.advance()
        return float(self._accelerator.reduce(total / len(batches), "mean"))

    def _step(self, rows: Sequence[Row]) -> Tensor:
        with self._autocast():
            loss = self._loss(*make_batch(rows).to(self._accelerator.device))
        if not torch.isfinite(loss):
            raise PartnerError(
                f"the dialogue model's loss is {float(loss.detach())} at step {self.steps_done + 1}: "
                "lower reward_training.mi_learning_rate"
            )
        self._optimizer.zero_grad()
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._trained.values(), GRAD_CLIP)
        self._optimizer.step()
        self._schedule.step()
        detached: Tensor = loss.detach()
        return detached

    def perplexity(self, rows: Sequence[Row], counter: StepCounter) -> float:
        """Perplexity of rows over all processes."""
        return perplexity(self._language_model, rows, self._accelerator, counter.advance)

    def trained_state(self) -> dict[str, Tensor]:
        """A copy of the trained parameters."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self._trained.items()}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put a copy back."""
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(state[name])

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        """bfloat16 on a GPU that has it; the weights stay float32."""
        cuda = self._accelerator.device.type == "cuda"
        with torch.autocast("cuda" if cuda else "cpu", torch.bfloat16, enabled=cuda and torch.cuda.is_bf16_supported()):
            yield


def _with_trained_parameters(model: PreTrainedModel, settings: RewardTrainingConfig) -> Any:
    """Freeze what is not trained; returns the model that saves itself, wrapped by peft where there are adapters."""
    layers = list(_layers(model))
    upper = layers[max(0, len(layers) - (settings.mi_trained_layers or len(layers))) :]
    if settings.mi_lora is None:
        trained = {id(p) for layer in upper for p in layer.parameters()}
        if settings.mi_trained_layers is not None:
            for parameter in model.parameters():
                parameter.requires_grad_(id(parameter) in trained)
        return model
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    projections = {id(m) for layer in upper for m in layer.modules() if isinstance(m, nn.Linear | Conv1D)}
    adapters = LoraConfig(
        r=settings.mi_lora.rank,
        # peft only ever divides by it or multiplies with it.
        lora_alpha=settings.mi_lora.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=[name for name, module in model.named_modules() if id(module) in projections],
        # GPT-2's projections store their weights transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, adapters)


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of a causal language model, lowest first.

    Raises:
        PartnerError: The model is built in a way that is not known.
    """
    count = getattr(model.config, "num_hidden_layers", None)
    for module in model.base_model.children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise PartnerError(f"cannot find the layers of {type(model).__name__}: choose another models.reward_lm")


def _save(adapted: Any, language_model: LanguageModel, output: Path) -> None:
    """Write the model, adapters merged, and its tokenizer."""
    model = adapted.merge_and_unload() if hasattr(adapted, "merge_and_unload") else adapted
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    with quiet_transformers():
        model.save_pretrained(output)
        language_model.tokenizer.save_pretrained(output)
