"""Supervised training of position and sentence (PARTNER, section 4.5), with Hugging Face accelerate.

It runs in one process on a CPU or GPU, and in several under `accelerate launch`: each process then takes its share of
the batches. Axes as in `partner_rl.policy.logprobs`: `G` example, `K` action of an example, `T` token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR

from partner_rl.config.schema import WarmStartConfig
from partner_rl.policy.actions import ActionTokens, encode_action
from partner_rl.policy.logprobs import ActionLogProbs, PackedBatch, PromptGroup, action_log_probs, pack_groups
from partner_rl.policy.model import Policy, save_policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.positions import position_mask
from partner_rl.types import PartnerError
from partner_rl.warmstart.batches import bucketed_batches, share_of_process
from partner_rl.warmstart.pairs import WarmStartExample

logger = logging.getLogger(__name__)

GRAD_CLIP: Final = 1.0
"""Global norm that gradients are clipped to."""

WARMUP_SHARE: Final = 0.1
"""Share of the steps in which the learning rate rises to its peak."""

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""


@dataclass(frozen=True, slots=True)
class DevScores:
    """How well the policy reproduces the held-out examples.

    Attributes:
        loss: `position_loss + token_loss`.
        position_loss: Mean negative log-likelihood of the position, in nats an example.
        token_loss: Mean negative log-likelihood of the sentence, in nats a token.
        position_accuracy: Share of examples whose likeliest valid position is the true one.
    """

    loss: float
    position_loss: float
    token_loss: float
    position_accuracy: float


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One pass: the mean training loss and the held-out scores after it (None without held-out examples)."""

    epoch: int
    train_loss: float
    dev: DevScores | None


@dataclass(frozen=True, slots=True)
class WarmStartReport:
    """What a warm start did.

    Attributes:
        initial: Held-out scores before training.
        epochs: One report a pass, in order.
        best_epoch: The pass whose weights were saved, from 1; 0 when no pass was made.
        examples: Training examples.
        steps: Optimizer steps.
        seconds: Wall-clock seconds of training and held-out scoring.
    """

    initial: DevScores | None
    epochs: tuple[EpochReport, ...]
    best_epoch: int
    examples: int
    steps: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        return asdict(self)


def train_warmstart(
    policy: Policy,
    examples_train: Sequence[WarmStartExample],
    examples_dev: Sequence[WarmStartExample],
    settings: WarmStartConfig,
    output: Path,
    seed: int,
    progress: Progress | None = None,
) -> WarmStartReport:
    """Trains the policy in place and saves its best epoch.

    The loss of a batch is the mean negative log-likelihood of the positions plus that of the sentence tokens (a mean
    over all tokens of the batch), both at temperature 1. AdamW; the learning rate rises for a tenth of the steps and
    then falls linearly to zero.

    Args:
        policy: The policy; after the call it holds the last epoch's weights, the folder the best epoch's.
        examples_train: Examples to learn from.
        examples_dev: Held-out examples that choose the best epoch; without any, the last epoch is saved.
        settings: Epochs, batch size, learning rate.
        output: Receives the policy (see `save_policy`).
        seed: Decides the order of the examples.
        progress: Told after each optimizer step.

    Raises:
        PartnerError: There is nothing to train on, or the loss is not finite.
    """
    if not examples_train and settings.epochs:
        raise PartnerError("the warm start has no training examples: use more data or set warmstart.epochs=0")
    started = time.perf_counter()
    trainer = _Trainer(policy, examples_train, settings, seed)
    dev = [_encode(policy, example) for example in examples_dev]
    initial = trainer.score(dev)
    epochs: list[EpochReport] = []
    best_epoch = 0
    for epoch in range(1, settings.epochs + 1):
        train_loss = trainer.train_epoch(progress)
        epochs.append(EpochReport(epoch, train_loss, trainer.score(dev)))
        logger.info("warm start epoch %d: training loss %.3f, held-out %s", epoch, train_loss, epochs[-1].dev)
        if _improves(epochs, best_epoch):
            best_epoch = epoch
            trainer.save(output)
    if not epochs:
        trainer.save(output)
    seconds = time.perf_counter() - started
    return WarmStartReport(initial, tuple(epochs), best_epoch, len(examples_train), trainer.steps_done, seconds)


def _improves(epochs: Sequence[EpochReport], best_epoch: int) -> bool:
    latest = epochs[-1].dev
    best = epochs[best_epoch - 1].dev
    return best_epoch == 0 or latest is None or best is None or latest.loss < best.loss


class _Trainer:
    """Optimizer, schedule and batches of one training."""

    def __init__(
        self, policy: Policy, examples: Sequence[WarmStartExample], settings: WarmStartConfig, seed: int
    ) -> None:
        self.policy = policy
        self.steps_done = 0
        self._settings = settings
        self._rng = np.random.default_rng(seed)
        self._rows = [_encode(policy, example) for example in examples]
        self._lengths = [len(row.prompt) + len(row.actions[0].tokens) for row in self._rows]
        self._accelerator = Accelerator(cpu=policy.device.type == "cpu")
        processes = self._accelerator.num_processes
        batches = len(bucketed_batches(self._lengths, settings.batch_size, np.random.default_rng(0)))
        self._total_steps = settings.epochs * -(-batches // processes)
        trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate)
        self._schedule = LambdaLR(optimizer, lambda step: _rate_factor(step, self._total_steps))
        # The model keeps its evaluation mode: dropout stays 0, as in the RL phase that follows.
        self._model, self._optimizer = self._accelerator.prepare(policy.model, optimizer)

    def train_epoch(self, progress: Progress | None) -> float:
        """One pass over the examples; returns the mean loss of the batches of all processes."""
        accelerator = self._accelerator
        batches = bucketed_batches(self._lengths, self._settings.batch_size, self._rng)
        mine = share_of_process(batches, accelerator.process_index, accelerator.num_processes)
        total = torch.zeros(1, device=accelerator.device)
        for batch in mine:
            total += self._step([self._rows[row] for row in batch])
            self.steps_done += 1
            if progress is not None and accelerator.is_main_process:
                progress(self.steps_done, self._total_steps)
        return float(accelerator.reduce(total / len(mine), "mean"))

    def _step(self, rows: Sequence[PromptGroup]) -> torch.Tensor:
        scored = self._log_probs(self._model, rows)
        loss = _batch_loss(scored)
        if not torch.isfinite(loss):
            raise PartnerError(
                f"the warm start's loss is {float(loss.detach())} at step {self.steps_done + 1}: "
                "lower warmstart.learning_rate"
            )
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._model.parameters(), GRAD_CLIP)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        return loss.detach()

    @torch.no_grad()
    def score(self, rows: Sequence[PromptGroup]) -> DevScores | None:
        """Held-out scores over all processes, or None without rows."""
        if not rows:
            return None
        accelerator = self._accelerator
        order = sorted(range(len(rows)), key=lambda row: len(rows[row].prompt))
        size = self._settings.batch_size
        mine = [order[i : i + size] for i in range(0, len(order), size)]
        sums = torch.zeros(4, dtype=torch.float64)
        for batch in mine[accelerator.process_index :: accelerator.num_processes]:
            groups = [_with_all_positions(rows[row], self.policy.vocabulary.window) for row in batch]
            # Not the wrapped model: its forward pass waits for all processes, which may have unequal shares here.
            sums += _dev_sums(self._log_probs(self.policy.model, groups), groups)
        # Accelerate's reduction needs the tensor on its device; GPUs of Apple have no float64.
        position, token, tokens, correct = accelerator.reduce(sums.float().to(accelerator.device), "sum").tolist()
        position_loss, token_loss = position / len(rows), token / max(tokens, 1)
        return DevScores(position_loss + token_loss, position_loss, token_loss, correct / len(rows))

    def save(self, output: Path) -> None:
        if self._accelerator.is_main_process:
            save_policy(self.policy, output)
        self._accelerator.wait_for_everyone()

    def _log_probs(self, model: Any, groups: Sequence[PromptGroup]) -> ActionLogProbs:
        packed: PackedBatch = pack_groups(groups, self.policy.vocabulary, self.policy.pad_id)
        with self.policy.autocast():
            return action_log_probs(model, packed.to(self._accelerator.device), self.policy.vocabulary, 1.0)


def _encode(policy: Policy, example: WarmStartExample) -> PromptGroup:
    prompt = encode_prompt(policy.tokenizer, example.state, policy.settings)
    return PromptGroup(tuple(prompt), len(example.state.span), (encode_action(policy, example.action),))


def _with_all_positions(row: PromptGroup, window: int) -> PromptGroup:
    """The same example with every valid position as a further action: their likelihoods cost no further tokens."""
    valid = np.flatnonzero(position_mask(row.num_sentences, window)).tolist()
    return PromptGroup(row.prompt, row.num_sentences, (*row.actions, *(ActionTokens(p, ()) for p in valid)))


def _batch_loss(scored: ActionLogProbs) -> torch.Tensor:
    token_mask = scored.mask_GKT[:, :, 1:]
    position_loss = -scored.log_probs_GKT[:, :, 0].mean()
    # A batch of no-ops alone has no token.
    token_loss = -(scored.log_probs_GKT[:, :, 1:] * token_mask).sum() / token_mask.sum().clamp(min=1)
    return position_loss + token_loss


def _dev_sums(scored: ActionLogProbs, groups: Sequence[PromptGroup]) -> torch.Tensor:
    """Sums over examples of: position loss, token loss, number of tokens, correct positions."""
    log_probs_GKT, mask_GKT = scored.log_probs_GKT.double().cpu(), scored.mask_GKT.cpu()
    positions_GK = log_probs_GKT[:, 1:, 0].masked_fill(~mask_GKT[:, 1:, 0], float("-inf"))
    chosen = positions_GK.argmax(1).tolist()
    correct = sum(
        group.actions[1 + index].position == group.actions[0].position
        for group, index in zip(groups, chosen, strict=True)
    )
    token_loss = -(log_probs_GKT[:, 0, 1:] * mask_GKT[:, 0, 1:]).sum()
    return torch.stack(
        [-log_probs_GKT[:, 0, 0].sum(), token_loss, mask_GKT[:, 0, 1:].sum().double(), torch.tensor(float(correct))]
    )


def _rate_factor(step: int, total: int) -> float:
    """Learning rate at a step as a share of the peak: up over a tenth of the steps, then down to zero."""
    warmup = max(1, round(WARMUP_SHARE * total))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))
