"""Attention for models whose query heads share key and value heads, without copying the keys and values.

Hugging Face repeats keys and values to the number of query heads whenever there is a mask, in every layer and at every
decoding step: a quarter of the time of sampling on a CPU. Here the query heads of one group become more rows of the
query instead. A decoding step hands its `SharedPromptCache` through the model's keyword arguments, and an update with
FlexAttention its `BlockMask`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, cast

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from partner_rl.policy.shared_prompt import SharedPromptCache
from partner_rl.types import PartnerError

NAME: Final = "partner_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query_BHQD: torch.Tensor,
    key_BJLD: torch.Tensor,
    value_BJLD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_prompt: SharedPromptCache | None = None,
    block_mask: BlockMask | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; `H` query heads share `J` key heads in groups of `H / J`.

    With a `shared_prompt` the keys and values are those of one new token a row. With it or a `block_mask` the attention
    mask is not looked at.

    Returns:
        The output `[B, Q, H, D]`, and no attention weights.
    """
    batch, heads, length, dim = query_BHQD.shape
    shared = key_BJLD.shape[1]
    if shared_prompt is not None:
        scale = dim**-0.5 if scaling is None else scaling
        return shared_prompt.attend(int(cast(Any, module).layer_idx), query_BHQD, key_BJLD, value_BJLD, scale), None
    if block_mask is not None:
        return _flex_attention(query_BHQD, key_BJLD, value_BJLD, block_mask, scaling), None
    if attention_mask is None or heads == shared or dropout:
        return sdpa_attention_forward(
            module, query_BHQD, key_BJLD, value_BJLD, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    grouped = query_BHQD.reshape(batch, shared, heads // shared * length, dim)
    mask = attention_mask.repeat(1, 1, heads // shared, 1)
    out = torch.nn.functional.scaled_dot_product_attention(grouped, key_BJLD, value_BJLD, attn_mask=mask, scale=scaling)
    return out.reshape(batch, heads, length, dim).transpose(1, 2).contiguous(), None


def _flex_attention(
    query_BHQD: torch.Tensor,
    key_BJLD: torch.Tensor,
    value_BJLD: torch.Tensor,
    block_mask: BlockMask,
    scaling: float | None,
) -> torch.Tensor:
    """Output `[B, Q, H, D]`; compiled on a GPU, plain on a CPU, where it has no backward pass and is for tests."""
    attend = _compiled_flex_attention() if query_BHQD.is_cuda else flex_attention
    # Under autocast the rotary embedding leaves queries and keys in float32.
    query, key = query_BHQD.to(value_BJLD.dtype), key_BJLD.to(value_BJLD.dtype)
    out: torch.Tensor = attend(query, key, value_BJLD, block_mask=block_mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).contiguous()


@cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def use_grouped_attention(model: Any) -> None:
    """Switches a model to `grouped_attention`.

    Raises:
        PartnerError: The model does not attend by `sdpa`, so that its attention cannot be exchanged.
    """
    if model.config._attn_implementation != "sdpa":
        raise PartnerError(
            f"{type(model).__name__} does not use PyTorch's attention (sdpa), which sampling and training need: "
            "choose another models.policy"
        )
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
