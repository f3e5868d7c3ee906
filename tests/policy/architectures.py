"""Tiny random causal language models of many architectures, with one tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.models.vocabularies import gemma_like

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
}

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 1024, "initializer_range": 0.3},
        "llama": _SHAPE,
        "qwen2": _SHAPE,
        "mistral": {**_SHAPE, "sliding_window": 512},
        "gemma": _SHAPE,
        # Its attention caps scores, which PyTorch's does not.
        "gemma2": {**_SHAPE, "sliding_window": 512, "query_pre_attn_scalar": 8},
        "gemma3_text": {**_SHAPE, "sliding_window": 512, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
        # Its layers are convolutions but for one.
        "lfm2": {**_SHAPE, "layer_types": ["conv", "full_attention"]},
        # Its head has a bias.
        "phi": {**_SHAPE, "num_key_value_heads": 4},
    }
)


def build(architecture: str, folder: Path, **settings: object) -> Path:
    """Writes a model and its tokenizer into a folder, which is returned."""
    tokenizer = gemma_like()
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = AutoConfig.for_model(
        architecture, **{**ARCHITECTURES[architecture], **ids, "vocab_size": len(tokenizer), **settings}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            # What architectures initialise to 0 or 1, biases among them, hides mistakes.
            parameter.data += torch.randn(parameter.shape) * 0.05
    model.save_pretrained(folder)
    return folder
