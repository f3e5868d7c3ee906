"""How much of what the machine can compute an iteration computes: FLOPs counted on paper over FLOPs a second of a GEMM.

Counted is what the method needs, and nothing else: matrix products of the model, with attention to the tokens that a
token may see and the LM head where it is needed. What is computed in vain (masked attention, padding), elementwise
work and the optimizer are not counted, so that they lower the share. A product of a row with an `a × b` matrix is
`2ab` FLOPs.

- A token in the blocks: `2 W`, with `W` the elements of the blocks' weight matrices.
- Attention of a token to `n` tokens, itself included: `4 n A` in each of `N` layers, with `A = heads × head width`
  (`Q·K` and the weighted sum of `V`).
- The LM head for a token: `2 D V`.

An iteration on `G` prompts of `P` tokens with `K` samples of `T` tokens each, where a sample's inputs are its position
and its words but the last:

- prefill: `G P` tokens in the blocks, attention to `1…P` tokens, the LM head for `G`;
- decoding: `G K T` tokens in the blocks, attention to `P+1…P+T`, the LM head for all;
- the update's forward pass: the same again, in one pass over the packed groups;
- its backward pass: twice the forward pass, once for the inputs and once for the weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

GEMM_SIZES: Final = {"cpu": (1024, 1536, 2048), "cuda": (4096, 8192)}
"""Widths of the square matrices; the best of them counts."""
GEMM_REPEATS: Final = 4


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a language model's FLOPs depend on.

    Attributes:
        block_weights: Elements of the weight matrices of all blocks, `W`.
        layers: Number of blocks, `N`.
        attention_width: Heads × width of a head, `A`.
        head_weights: Elements of the LM head's matrix, `D V`.
    """

    block_weights: int
    layers: int
    attention_width: int
    head_weights: int


def shape_of(model: Any) -> ModelShape:
    """The shape of a Hugging Face causal language model."""
    head = model.get_output_embeddings()
    products = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(
        block_weights=sum(m.weight.numel() for m in products),
        layers=config.num_hidden_layers,
        attention_width=config.num_attention_heads * width,
        head_weights=head.weight.numel(),
    )


def iteration_flops(shape: ModelShape, prompts: Sequence[int], samples: int, new_tokens: int) -> int:
    """FLOPs of an iteration of ours, generation and update (formula in the module's docstring).

    Args:
        shape: The model.
        prompts: Tokens of each of the `G` prompts.
        samples: `K`.
        new_tokens: `T`.
    """
    # The prompt's pass, then its samples' columns: the same products whether decoded one by one or in one pass.
    forward = sum(_prompt_flops(shape, p) + samples * _columns_flops(shape, p, new_tokens) for p in prompts)
    return forward + 3 * forward


def _prompt_flops(shape: ModelShape, prompt: int) -> int:
    seen = prompt * (prompt + 1) // 2
    return 2 * shape.block_weights * prompt + _attention_flops(shape, seen) + 2 * shape.head_weights


def _columns_flops(shape: ModelShape, prompt: int, columns: int) -> int:
    seen = columns * prompt + columns * (columns + 1) // 2
    return 2 * columns * (shape.block_weights + shape.head_weights) + _attention_flops(shape, seen)


def _attention_flops(shape: ModelShape, seen: int) -> int:
    return 4 * shape.layers * shape.attention_width * seen


def gemm_flops_per_second(device: str, dtype: str) -> float:
    """FLOPs a second of the fastest of some large matrix products on this process's threads."""
    return max(_gemm(size, device, getattr(torch, dtype)) for size in GEMM_SIZES[device])


def _gemm(size: int, device: str, dtype: torch.dtype) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = left @ right
    best = float("inf")
    for _ in range(GEMM_REPEATS):
        _finish(device)
        start = time.perf_counter()
        torch.mm(left, right, out=result)
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
