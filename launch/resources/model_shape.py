"""What a model folder holds, in numbers, without loading a weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from partner_rl.types import PartnerError, first_line

_ENCODERS: Final = ("bert", "roberta", "distilbert", "mpnet", "xlm-roberta", "electra", "deberta", "deberta-v2")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that memory depends on.

    Attributes:
        parameters: Numbers in all weights; tied ones count once.
        key_value_width: Numbers that a layer keeps of a token as keys, and again as values.
        linear_width: Inputs plus outputs of all linear maps but the head, summed: numbers that a token leaves behind
            for the backward pass, about, and adapters' weights for each unit of their rank.
        is_tied: Whether the head is the embedding.
    """

    parameters: int
    layers: int
    hidden: int
    key_value_width: int
    vocabulary: int
    linear_width: int
    is_tied: bool


def is_built_on_use(name: str) -> bool:
    """Whether the model needs no download: tiny models with random weights."""
    return name.partition(":")[0] == "random"


def read_shape(folder: Path) -> ModelShape:
    """The sizes of the model in a folder, from its `config.json`: the model is built without memory for weights.

    Raises:
        PartnerError: The configuration cannot be read, is that of an unknown architecture, or the weights are pickled.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    from partner_rl.models.loading import load_config, quiet_transformers

    config: Any = load_config(folder)
    try:
        with quiet_transformers():
            auto: Any = AutoModel if config.model_type in _ENCODERS else AutoModelForCausalLM
            with torch.device("meta"):
                model = auto.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PartnerError(f"cannot read the model in {folder}: {first_line(error)}") from error
    return _shape(model, config.get_text_config())


def _shape(model: Any, config: Any) -> ModelShape:
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    linear = [tuple(m.weight.shape) for m in model.modules() if _is_linear(m) and m is not head]
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        key_value_width=(getattr(config, "num_key_value_heads", None) or heads) * dim,
        vocabulary=embedding.weight.shape[0],
        linear_width=sum(sum(sides) for sides in linear),
        is_tied=head is not None and head.weight is embedding.weight,
    )


def _is_linear(module: Any) -> bool:
    """GPT-2 has a linear class of its own, which keeps its weight transposed."""
    return type(module).__name__ in ("Linear", "Conv1D")
