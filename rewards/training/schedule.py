"""The order of the examples, the learning rate and the progress of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from partner_rl.progress import Progress
from rewards.encoder import layer_stack
from rewards.training.frozen import PartlyFrozenEncoder

T = TypeVar("T")


WARMUP = 0.1
"""Share of the steps in which the learning rate rises."""
GRAD_CLIP = 1.0
"""Global norm that gradients are clipped to."""
SORTED_BATCHES = 8
"""Batches whose examples are sorted by length together: little padding, and still another mix each epoch."""


class StepCounter:
    """Counts steps and passes them on."""

    def __init__(self, progress: Progress, total: int) -> None:
        """Count to `total`; no callback is fine."""
        self._progress = progress
        self._total = total
        self._done = 0
        self._progress(0, total)

    def advance(self) -> None:
        """One more step is done."""
        self._done += 1
        self._progress(self._done, self._total)


def num_batches(size: int, batch_size: int) -> int:
    """Batches of `shuffled_batches`."""
    return -(-size // batch_size)


def shuffled_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """Indices in random batches of similar length; every index occurs exactly once."""
    order = rng.permutation(len(lengths))
    pool = batch_size * SORTED_BATCHES
    batches = []
    for start in range(0, len(order), pool):
        indices = sorted((int(i) for i in order[start : start + pool]), key=lambda i: lengths[i])
        batches += [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def process_share(batches: Sequence[T], process: int, processes: int) -> list[T]:
    """The batches of one of several processes, as many for each: the first ones fill up the last round."""
    rounds = -(-len(batches) // processes)
    return [batches[i % len(batches)] for i in range(process, rounds * processes, processes)]


def layer_groups(encoder: PartlyFrozenEncoder, rate: float, decay: float) -> list[dict[str, Any]]:
    """Optimizer groups of an encoder's trained layers (ULMFiT, ACL 2018, section 3.2).

    Args:
        encoder: The encoder.
        rate: Learning rate of the highest layer.
        decay: Each layer below learns this many times as fast as the one above it; the embeddings come last.
    """
    layers = list(layer_stack(encoder.encoder).layer) if decay != 1.0 or encoder.frozen_layers else []
    depth = {id(p): len(layers) - 1 - i for i, layer in enumerate(layers) for p in layer.parameters()}
    groups: dict[int, list[nn.Parameter]] = {}
    for parameter in encoder.parameters():
        groups.setdefault(depth.get(id(parameter), len(layers)), []).append(parameter)
    return [{"params": parameters, "lr": rate * decay**below} for below, parameters in sorted(groups.items())]


def linear_schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Rates that rise over the first tenth of the steps and then fall linearly to zero."""
    warmup = max(1, round(WARMUP * steps))
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
    )


class Trainer:
    """AdamW with two learning rates that rise over the first tenth of the steps and then fall linearly to zero."""

    def __init__(
        self,
        encoder: Sequence[nn.Parameter],
        heads: Sequence[nn.Parameter],
        encoder_rate: float,
        head_rate: float,
        steps: int,
    ) -> None:
        """Train `encoder` at peak rate `encoder_rate` and `heads` at `head_rate` for `steps` steps."""
        groups = [{"params": list(heads), "lr": head_rate}]
        if encoder:
            groups.append({"params": list(encoder), "lr": encoder_rate})
        self._parameters = [*encoder, *heads]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self._schedule = linear_schedule(self._optimizer, steps)

    def step(self, loss: Tensor) -> None:
        """One update down the gradient of `loss`."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, GRAD_CLIP)
        self._optimizer.step()
        self._schedule.step()
