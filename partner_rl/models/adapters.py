"""Low-rank adapters (peft): around a causal language model, and merged into its weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from partner_rl.config.section import LoraSection


def with_adapters(model: PreTrainedModel, lora: LoraSection, layers: str | Sequence[str] = "all-linear") -> Any:
    """The model with fresh adapters, which alone are trained; wrapped by peft.

    Args:
        model: The model; its weights stay as they are, and so do their names.
        lora: Rank and scale.
        layers: Names of the linear layers that get adapters, or peft's name for a choice of them.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    config = LoraConfig(
        r=lora.rank,
        # peft only ever divides by it or multiplies with it.
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=layers if isinstance(layers, str) else list(layers),
        # GPT-2's projections store their weights transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config)


def merge_adapters(model: Any) -> Any:
    """The plain model with the adapters added to its weights, in place; a model without adapters as it is."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
