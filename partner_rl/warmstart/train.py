"""Supervised training of position and sentence (PARTNER, section 4.5), with Hugging Face accelerate.

It runs in one process on a CPU or GPU, and in several under `accelerate launch`: each process takes its share of every
step's examples, and gradients are summed over processes once a step. The loss is divided by the positions and tokens of
the whole step, so that neither the number of processes nor that of the forward passes changes what is learned. Axes as
in `partner_rl.warmstart.packing`.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from partner_rl.config.schema import WarmStartConfig
from partner_rl.policy.model import Policy
from partner_rl.progress import Progress, no_progress
from partner_rl.seeds import generator_of
from partner_rl.storage.fingerprint import fingerprint_of
from partner_rl.types import PartnerError
from partner_rl.warmstart.batches import (
    Row,
    padded_tokens,
    passes_of,
    rows_of,
    share_of_process,
    shuffled_batches,
)
from partner_rl.warmstart.checkpoint import Tensors, WarmStartState, load_best, save_best
from partner_rl.warmstart.history import DevScores, EpochReport, History, WarmStartReport, position_baselines
from partner_rl.warmstart.packing import RowLogprobs, TokenExample, encode_example, pack_rows, row_logprobs
from partner_rl.warmstart.pairs import WarmStartExample
from rewards.training.schedule import GRAD_CLIP, bucketed_batches, linear_rate

logger = logging.getLogger(__name__)

SORTED_BATCHES: Final = 16
"""Batches whose examples are sorted by length together: enough to pad little, few enough to keep batches random."""

SCORED_TOGETHER: Final = 256
"""Held-out examples that are laid out in rows together."""


def train_warmstart(
    policy: Policy,
    examples_train: Sequence[WarmStartExample],
    examples_dev: Sequence[WarmStartExample],
    settings: WarmStartConfig,
    work: Path,
    seed: int,
    progress: Progress = no_progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> WarmStartReport:
    """Trains the policy in place, going on from the newest state in `work` if there is one.

    The loss of a step is the mean negative log-likelihood of the positions plus that of the sentence tokens (a mean
    over all tokens of the step), both at temperature 1. AdamW; the learning rate rises for a tenth of the steps and
    then falls linearly to zero.

    Args:
        policy: The policy; after the call it has the best epoch's weights, in every process.
        examples_train: Examples to learn from.
        examples_dev: Held-out examples that choose the best epoch; without any, the last epoch is the best.
        settings: Epochs, steps, memory, patience.
        work: Holds the state of the training while it is under way; every process must see it. The caller removes it.
        seed: Decides the order of the examples.
        progress: Told after each optimizer step, in the main process.
        should_stop: Asked after each step: True keeps a state and ends the training.

    Raises:
        PartnerError: There is nothing to train on, the gradient is not finite, or the state in `work` is another
            training's.
        KeyboardInterrupt: `should_stop` said so; the same call goes on from there.
    """
    if not examples_train and settings.epochs:
        raise PartnerError("the warm start has no training examples: use more data or set warmstart.epochs=0")
    trainer = _Trainer(policy, examples_train, examples_dev, settings, seed)
    history = trainer.restore(work)
    started = time.perf_counter() - history.seconds
    if history.initial is None:
        history.initial = trainer.score()
    with _recomputed_activations(policy.model) if settings.gradient_checkpointing else contextlib.nullcontext():
        while len(history.epochs) < settings.epochs and not history.out_of_patience(settings.patience):
            for _ in trainer.run_epoch(history, progress):
                history.seconds = time.perf_counter() - started
                stop = trainer.any_process(should_stop())
                if stop or _is_due(len(history.losses), settings.checkpoint_steps):
                    trainer.save(history, work)
                if stop:
                    raise KeyboardInterrupt
            improved = history.add_epoch(trainer.report_epoch(history))
            logger.info("warm start epoch %d: %s", len(history.epochs), _figures(history.epochs[-1]))
            history.seconds = time.perf_counter() - started
            if improved:
                trainer.save_best(history.best_epoch, work)
            trainer.save(history, work)
    trainer.take_best(history, work)
    return trainer.report(history)


def _is_due(steps: int, every: int | None) -> bool:
    return every is not None and steps % every == 0


@contextlib.contextmanager
def _recomputed_activations(model: Any) -> Iterator[None]:
    """Gradient checkpointing for the time of a block.

    Hugging Face checkpoints in training mode only; nothing else depends on the mode, because dropout is 0.
    """
    with warnings.catch_warnings():
        # The newest transformers has another name for it, which the older ones lack.
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # It also makes the embeddings' output need a gradient, which only reentrant checkpointing wants.
        model.disable_input_require_grads()
        model.train()
        try:
            yield
        finally:
            model.eval()
            model.gradient_checkpointing_disable()


def _figures(report: EpochReport) -> str:
    if report.dev is None:
        return f"training loss {report.train_loss:.3f}"
    return (
        f"training loss {report.train_loss:.3f}, held-out loss {report.dev.loss:.3f}, "
        f"position accuracy {report.dev.position_accuracy:.2f}"
    )


class _Trainer:
    """Optimizer, schedule and examples of one training."""

    def __init__(
        self,
        policy: Policy,
        examples_train: Sequence[WarmStartExample],
        examples_dev: Sequence[WarmStartExample],
        settings: WarmStartConfig,
        seed: int,
    ) -> None:
        self._policy, self._settings, self._seed = policy, settings, seed
        self._rows = [encode_example(policy, example) for example in examples_train]
        self._rows_dev = [encode_example(policy, example) for example in examples_dev]
        self._baselines = position_baselines(examples_train, examples_dev, policy.vocabulary.window)
        self._lengths = [row.length for row in self._rows]
        self.steps_per_epoch = -(-len(self._rows) // settings.batch_size)
        self._total_steps = settings.epochs * self.steps_per_epoch
        self._tokens = self._computed_tokens = 0
        self._accelerator = _accelerator(policy)
        self._trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        for parameter in self._trained.values():
            # Adapters start from random numbers, which each process draws for itself.
            broadcast(parameter.data)
        self._optimizer = torch.optim.AdamW(self._trained.values(), lr=settings.learning_rate)

    def run_epoch(self, history: History, progress: Progress) -> Iterator[None]:
        """Takes the epoch's steps that are still to be taken and notes their losses; yields after each."""
        epoch = len(history.epochs)
        rng = generator_of("warm start order", self._seed, epoch)
        size = self._settings.batch_size
        if self._settings.row_tokens is None:
            batches = bucketed_batches(self._lengths, size, rng, SORTED_BATCHES)
        else:
            batches = shuffled_batches(len(self._rows), size, rng)
        for batch in batches[len(history.losses) - epoch * self.steps_per_epoch :]:
            history.losses.append(self._step(batch, len(history.losses) + 1))
            if self._accelerator.is_main_process:
                progress(len(history.losses), self._total_steps)
            yield

    def report_epoch(self, history: History) -> EpochReport:
        """The report of the epoch whose steps have all been taken."""
        losses = history.losses[-self.steps_per_epoch :]
        return EpochReport(len(history.epochs) + 1, sum(losses) / len(losses), self.score())

    def _step(self, batch: Sequence[int], number: int) -> float:
        """One optimizer step on a batch; returns its loss, the same in every process."""
        accelerator = self._accelerator
        positions = len(batch)
        # A batch of no-ops alone has no token.
        tokens = max(1, sum(len(self._rows[example].action.tokens) for example in batch))
        mine = share_of_process(batch, self._lengths, accelerator.process_index, accelerator.num_processes)
        total = torch.zeros((), device=accelerator.device)
        for rows in _passes(mine, self._lengths, self._settings):
            self._tokens += sum(self._lengths[example] for row in rows for example in row)
            self._computed_tokens += padded_tokens(rows, self._lengths)
            scored = _logprobs(self._policy, accelerator, [[self._rows[example] for example in row] for row in rows])
            loss = -scored.log_chosen_E.sum() / positions - scored.log_tokens_N.sum() / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._apply_gradients(number)
        return float(accelerator.reduce(total, "sum"))

    def _apply_gradients(self, number: int) -> None:
        """Sums the gradients of all processes, clips them and takes a step.

        One exchange a step, of sums: processes may have different numbers of passes, none among them.
        """
        for parameter in self._trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self._accelerator.num_processes > 1:
            gradients = [parameter.grad for parameter in self._trained.values() if parameter.grad is not None]
            flat = self._accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
            for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained.values(), GRAD_CLIP))
        if not np.isfinite(norm):
            raise PartnerError(
                f"the warm start's gradient norm is {norm} at step {number}: lower warmstart.learning_rate"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * linear_rate(number - 1, self._total_steps)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def score(self) -> DevScores | None:
        """Held-out scores over all processes, or None without held-out examples."""
        return _score(self._policy, self._rows_dev, self._settings, self._accelerator)

    def any_process(self, stop: bool) -> bool:
        """Whether any process was told to stop; all of them must know before the next exchange of gradients."""
        accelerator = self._accelerator
        if accelerator.num_processes == 1:
            return stop
        return bool(accelerator.reduce(torch.tensor(float(stop), device=accelerator.device), "sum") > 0)

    def save(self, history: History, work: Path) -> None:
        """Keeps the state; the main process writes it."""
        if self._accelerator.is_main_process:
            optimizer_state = {
                f"{name}/{key}": value.detach().cpu()
                for name, parameter in self._trained.items()
                for key, value in self._optimizer.state[parameter].items()
            }
            WarmStartState(self._fingerprint(), history, self._weights(), optimizer_state).save(work)
        self._accelerator.wait_for_everyone()

    def save_best(self, epoch: int, work: Path) -> None:
        """Keeps the weights as those of the best epoch so far."""
        if self._accelerator.is_main_process:
            save_best(self._weights(), work, epoch)
        self._accelerator.wait_for_everyone()

    def restore(self, work: Path) -> History:
        """Takes up the newest state, if there is one; returns the history to go on with."""
        state = WarmStartState.load_newest(work, self._fingerprint())
        if state is None:
            return History()
        self._set_weights(state.weights)
        for path, value in state.optimizer_state.items():
            name, key = path.rsplit("/", 1)
            # AdamW keeps its step count on the CPU, its moments beside the parameter.
            parameter = self._trained[name]
            self._optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
        logger.info("resuming the warm start after step %d", len(state.history.losses))
        return state.history

    def take_best(self, history: History, work: Path) -> None:
        """Gives the policy the weights of the best epoch, if there is one."""
        if history.best_epoch:
            self._set_weights(load_best(work, history.best_epoch))
        # Nobody removes the files while another process reads them.
        self._accelerator.wait_for_everyone()

    @torch.no_grad()
    def _set_weights(self, weights: Tensors) -> None:
        for name, parameter in self._trained.items():
            parameter.copy_(weights[name])

    def _weights(self) -> Tensors:
        return {name: parameter.detach().cpu() for name, parameter in self._trained.items()}

    def _fingerprint(self) -> str:
        """Identifies what the steps depend on: examples, settings, seed and the parameters that are trained."""
        s = self._settings
        settings = (self._seed, s.epochs, s.batch_size, s.learning_rate, s.row_tokens)
        shapes = [(name, tuple(p.shape)) for name, p in self._trained.items()]
        return fingerprint_of((settings, shapes, *self._rows, None, *self._rows_dev))

    def report(self, history: History) -> WarmStartReport:
        """The metrics of the training."""
        counts = torch.tensor([self._tokens, self._computed_tokens], device=self._accelerator.device)
        tokens, computed = self._accelerator.reduce(counts, "sum").tolist()
        return WarmStartReport(
            initial=history.initial,
            epochs=tuple(history.epochs),
            best_epoch=history.best_epoch,
            baselines=self._baselines,
            examples=len(self._rows),
            dev_examples=len(self._rows_dev),
            steps_per_epoch=self.steps_per_epoch,
            losses=tuple(history.losses),
            padding=1.0 - tokens / computed if computed else 0.0,
            seconds=history.seconds,
        )


def _accelerator(policy: Policy) -> Accelerator:
    accelerator = Accelerator(cpu=policy.device.type == "cpu")
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise PartnerError(
            f"mixed precision {accelerator.mixed_precision} is not supported: use bf16 or no, "
            "by `accelerate launch --mixed_precision` or policy.dtype"
        )
    return accelerator


def score_examples(policy: Policy, examples: Sequence[WarmStartExample], settings: WarmStartConfig) -> DevScores | None:
    """How well a policy reproduces examples, over all processes; None without examples."""
    return _score(policy, [encode_example(policy, example) for example in examples], settings, _accelerator(policy))


@torch.no_grad()
def _score(
    policy: Policy, rows: Sequence[TokenExample], settings: WarmStartConfig, accelerator: Accelerator
) -> DevScores | None:
    if not rows:
        return None
    lengths = [row.length for row in rows]
    mine = share_of_process(range(len(rows)), lengths, accelerator.process_index, accelerator.num_processes)
    sums = torch.zeros(4, device=accelerator.device)
    for start in range(0, len(mine), SCORED_TOGETHER):
        for part in _passes(mine[start : start + SCORED_TOGETHER], lengths, settings):
            examples = [[rows[example] for example in row] for row in part]
            scored = _logprobs(policy, accelerator, examples)
            sums += _dev_sums(scored, [example for row in examples for example in row])
    position, token, tokens, correct = accelerator.reduce(sums, "sum").tolist()
    position_loss, token_loss = position / len(rows), token / max(tokens, 1)
    return DevScores(position_loss + token_loss, position_loss, token_loss, correct / len(rows))


def _passes(examples: Sequence[int], lengths: Sequence[int], settings: WarmStartConfig) -> list[list[Row]]:
    return passes_of(rows_of(examples, lengths, settings.row_tokens), lengths, settings.micro_batch_tokens)


def _logprobs(policy: Policy, accelerator: Accelerator, rows: Sequence[Sequence[TokenExample]]) -> RowLogprobs:
    packed = pack_rows(rows, policy.vocabulary, policy.pad_id).to(accelerator.device)
    with accelerator.autocast() if accelerator.mixed_precision == "bf16" else policy.autocast():
        return row_logprobs(policy.model, packed, policy.vocabulary)


def _dev_sums(scored: RowLogprobs, examples: Sequence[TokenExample]) -> torch.Tensor:
    """Sums over examples of: position loss, token loss, number of tokens, correct positions."""
    correct_E = scored.log_positions_EA.argmax(1).cpu() == torch.tensor([e.action.position for e in examples])
    tokens = len(scored.log_tokens_N)
    values = [-scored.log_chosen_E.sum(), -scored.log_tokens_N.sum(), float(tokens), float(correct_E.sum())]
    return torch.stack([torch.as_tensor(value, device=scored.log_chosen_E.device) for value in values])
