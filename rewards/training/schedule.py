"""What trainings share: the order of the examples, the learning rate, the precision and the progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

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
        """Count to `total`."""
        self._progress = progress
        self._total = total
        self._done = 0
        self._progress(0, total)

    def advance(self) -> None:
        """One more step is done."""
        self._done += 1
        self._progress(self._done, self._total)


def bucketed_batches(
    lengths: Sequence[int], batch_size: int, rng: np.random.Generator, sorted_batches: int = SORTED_BATCHES
) -> list[list[int]]:
    """A pass over all examples in random batches whose examples are of similar length.

    Args:
        lengths: Tokens of each example.
        batch_size: Examples of a batch; one batch may be smaller.
        rng: Decides everything.
        sorted_batches: Batches whose examples are sorted by length together.

    Returns:
        Batches of indices; every index is in exactly one.
    """
    order = rng.permutation(len(lengths)).tolist()
    pool_size = sorted_batches * batch_size
    batches = []
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lambda i: lengths[i])
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
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


def linear_rate(step: int, steps: int) -> float:
    """Learning rate at a step, from 0, as a share of the peak: up over a tenth of the steps, then down to zero."""
    warmup = max(1, round(WARMUP * steps))
    return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))


def linear_schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The rates of `linear_rate`."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: linear_rate(step, steps))


def bfloat16_autocast(device: torch.device, *, enabled: bool = True) -> torch.autocast:
    """bfloat16 on a GPU that has it; the weights stay in float32."""
    enabled = enabled and device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
