"""Local folders ↔ tokenizers and models, quietly, in safetensors only and never running code from the folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from partner_rl.storage.file_names import is_plain_name
from partner_rl.types import PartnerError, first_line

Model = TypeVar("Model", bound=PreTrainedModel)

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
OUR_MODELS = "partner-rl-"
"""How the types of models begin that we register with transformers."""
_ADAPTERS = "adapter_config.json"
_UNUSED_ENCODER_WEIGHTS = ("pooler.",)
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' warnings and progress bars inside the block; errors stay."""
    settings: Any = transformers_logging  # most of it has no type annotations
    verbosity, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(verbosity)
        if bars:
            settings.enable_progress_bar()


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; one without a padding token (the GPT-2 family) pads with its end token.

    Raises:
        PartnerError: The folder holds no tokenizer, or one that cannot be read or cannot pad.
    """
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise PartnerError(
            f"no tokenizer in {path}: expected one of {', '.join(_TOKENIZER_FILES)}; see `partner-rl models list`"
        )
    with quiet_transformers():
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # tokenizers raises bare Exception for a file that it cannot parse
            raise PartnerError(f"cannot read the tokenizer in {path}: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise PartnerError(
                f"tokenizer in {path} has neither a padding nor an end token; add one to its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal language model in evaluation mode with every dropout set to 0.

    Dropout would make log-probabilities at training time differ from those at sampling time.

    Raises:
        PartnerError: The folder holds no such model, or weights are missing.
    """
    config = load_config(path)
    _zero_dropout(config)
    model = _load_weights(AutoModelForCausalLM, path, config, dtype, may_miss=())
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def open_causal_lm(path: Path) -> PreTrainedModel:
    """As `load_causal_lm`, but the weights stay on the disk: names and shapes are checked, tensors have no values.

    Raises:
        PartnerError: As `load_causal_lm`.
    """
    return _load_weights(AutoModelForCausalLM, path, load_config(path), torch.float32, may_miss=(), device_map="meta")


def open_encoder(path: Path) -> PreTrainedModel:
    """As `load_encoder`, but the weights stay on the disk.

    Raises:
        PartnerError: As `load_encoder`.
    """
    return _load_encoder(path, device_map="meta")


def load_encoder(path: Path) -> PreTrainedModel:
    """A text encoder in float32 and evaluation mode, with the dropout of its configuration.

    A pooling layer that the weights do not hold is initialised at random: use the last hidden state, not the pooler.

    Raises:
        PartnerError: The folder holds no such model, or weights are missing.
    """
    return _load_encoder(path, device_map=None)


def _load_encoder(path: Path, device_map: str | None) -> PreTrainedModel:
    config = load_config(path)
    if config.model_type.startswith(OUR_MODELS):
        raise PartnerError(f"{path} holds a {config.model_type} model, which is no text encoder: name another folder")
    return _load_weights(AutoModel, path, config, torch.float32, _UNUSED_ENCODER_WEIGHTS, device_map)


def load_registered(model_class: type[Model], path: Path, device_map: str | None = None) -> Model:
    """A model of our own that is registered with transformers' `AutoConfig`, in float32 and evaluation mode.

    With the device map `meta` the weights stay on the disk.

    Raises:
        PartnerError: The folder holds no such model, or weights are missing.
    """
    config = load_config(path)
    expected = model_class.config_class
    if expected is None or not isinstance(config, expected):
        raise PartnerError(
            f"{path} holds a {config.model_type} model, not one of ours ({model_class.__name__}): name another folder"
        )
    return cast(Model, _load_weights(model_class, path, config, torch.float32, (), device_map))


def load_config(path: Path) -> PreTrainedConfig:
    """The configuration of a model folder whose weights may be read: safetensors that lie in the folder.

    Raises:
        PartnerError: There is none, its weights are pickled or elsewhere, or it asks for code or weights of others.
    """
    if not (path / "config.json").is_file():
        raise PartnerError(f"no model in {path}: config.json is missing; see `partner-rl models list` for names")
    if not any(path.glob("*.safetensors")):
        raise PartnerError(
            f"no safetensors weights in {path}: pickled weights are not read; save the model with save_pretrained"
        )
    if (path / _ADAPTERS).is_file():
        # transformers would add them, pickled ones too.
        raise PartnerError(f"{path} holds adapters ({_ADAPTERS}): merge them into the weights first, and remove them")
    _check_shards(path)
    config = _read_config(path)
    attention = str(getattr(config, "_attn_implementation", None))
    if "/" in attention:
        raise PartnerError(f"{path / 'config.json'} asks for the code of {attention}: take its attn_implementation out")
    return config


def _check_shards(path: Path) -> None:
    """Checks that the list of a model's files names files of its folder only."""
    for index in path.glob("*.index.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            inside = all(is_plain_name(name) and name.endswith(".safetensors") for name in names)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PartnerError(f"{index} is damaged ({type(error).__name__}): save or fetch the model again") from error
        if not inside:
            raise PartnerError(f"{index} names files that are no safetensors of its folder: they are not read")
        missing = sorted(name for name in names if not (path / name).is_file())
        if missing:
            raise PartnerError(f"{path} lacks {missing[0]}, which {index.name} names: copy or fetch the model again")


def _read_config(path: Path) -> PreTrainedConfig:
    with quiet_transformers():
        try:
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            )
        except _LOADING_ERRORS as error:
            raise PartnerError(f"cannot read {path / 'config.json'}: {first_line(error)}") from error
    return config


def _load_weights(
    auto: Any,
    path: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    may_miss: tuple[str, ...],
    device_map: str | None = None,
) -> PreTrainedModel:
    with quiet_transformers():
        try:
            model, report = auto.from_pretrained(
                str(path),
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                device_map=device_map,
                output_loading_info=True,
            )
        except Exception as error:  # safetensors raises its own, bare subclass of Exception for a damaged file
            raise PartnerError(f"cannot load the model in {path}: {first_line(error)}") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(may_miss))
    if missing:
        raise PartnerError(
            f"model in {path} lacks {len(missing)} weights of a {config.model_type} model, such as {missing[0]}; "
            "is it a model of another kind?"
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a model and its tokenizer into a folder, as `load_causal_lm` or `load_encoder` read it."""
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def transformer_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of a causal language model, lowest first, whatever its architecture calls them.

    Raises:
        PartnerError: No list of modules is as long as the model has layers.
    """
    count = int(model.config.num_hidden_layers)
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise PartnerError(f"cannot find the layers of a {type(model).__name__}: choose another models.reward_lm")


def check_positions(name: str, config: Any, longest: int, remedy: str) -> None:
    """Checks that a model has positions for a text.

    `remedy` is what to lower when it has not.

    Raises:
        PartnerError: It has fewer.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise PartnerError(
            f"{name} has positions for {positions} tokens, but prompt and answer take up to {longest}: lower {remedy}"
        )


def _zero_dropout(config: PreTrainedConfig) -> None:
    for key, value in config.to_dict().items():
        if key.endswith(("dropout", "pdrop")) and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, key, 0.0)
