"""What stays in float32 while the model computes in bfloat16: the head and the attention's scores.

bfloat16 has 8 bits of mantissa: a logit near −110, as GPT-2 has them, is rounded to a multiple of 0.5, and sampler and
learner, which add up in another order, then disagree about log-probabilities by as much.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from partner_rl.policy.small_batch_linear import SmallBatchLinear


def full_precision(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """A context in which products are computed in their operands' own type, also under autocast."""
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


class Float32Linear(nn.Linear):
    """A head whose logits are float32, under autocast, too."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits `[..., V]`."""
        with full_precision(states.device.type):
            return super().forward(states.float())


class Float32SmallBatchLinear(SmallBatchLinear):
    """The same without bias, quick for few rows on a CPU."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits `[..., V]`."""
        with full_precision(states.device.type):
            return super().forward(states.float())


def use_float32_head(model: Any) -> None:
    """Makes a linear head one of float32, in place: parameters and their names stay."""
    head = model.get_output_embeddings()
    if type(head) is SmallBatchLinear:
        head.__class__ = Float32SmallBatchLinear
    elif type(head) is nn.Linear:
        head.__class__ = Float32Linear
