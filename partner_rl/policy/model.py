"""Loading and saving the policy: a causal language model with position tokens and, if asked for, adapters."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from partner_rl.config.schema import PolicyConfig
from partner_rl.models.loading import load_causal_lm, load_tokenizer, open_causal_lm, quiet_transformers
from partner_rl.policy.attention import use_grouped_attention
from partner_rl.policy.load_checks import check_reach, check_ways
from partner_rl.policy.position_rows import add_position_rows, merge_position_rows, position_rows_off
from partner_rl.policy.precision import use_float32_head
from partner_rl.policy.small_batch_linear import use_few_rows_linear
from partner_rl.policy.tied_embedding import share_gradient_with_head
from partner_rl.policy.vocabulary import ActionVocabulary, add_position_tokens
from partner_rl.positions import PositionRule
from partner_rl.storage.artefact import MARK, write_mark
from partner_rl.types import PartnerError

KIND = "policy"
"""What an exported policy says that it is."""
COMPILER = "inductor"
"""The backend of `torch.compile`."""
FLEX_HEAD_WIDTH = 16
"""The narrowest attention head that FlexAttention computes on a GPU."""


@dataclass(frozen=True)
class Policy:
    """A policy ready to sample from or to train.

    Attributes:
        model: Hugging Face causal language model, wrapped by peft when it has adapters.
        tokenizer: Its tokenizer, with the position tokens.
        vocabulary: The action vocabulary.
        settings: Prompt lengths and sampling defaults.
    """

    model: Any
    tokenizer: Any
    vocabulary: ActionVocabulary
    settings: PolicyConfig

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def pad_id(self) -> int:
        """A token id for padding; padded places are masked, so that any id does."""
        pad = self.tokenizer.pad_token_id
        return int(self.vocabulary.end_id if pad is None else pad)

    def with_positions(self, rule: PositionRule) -> Policy:
        """The same model, choosing among the positions of a rule."""
        return replace(self, vocabulary=replace(self.vocabulary, positions=rule))

    @cached_property
    def decoding_step(self) -> Any:
        """The model as it is called for one more token a row; compiled when the settings ask for it."""
        if self.settings.compile:
            return torch.compile(self.model, backend=COMPILER)
        return self.model

    @property
    def uses_flex_attention(self) -> bool:
        """Whether the update attends by FlexAttention.

        Raises:
            PartnerError: The settings ask for it and the policy is not on a GPU, or its heads are too narrow.
        """
        if self.settings.attention == "sdpa":
            return False
        on_gpu, config = self.device.type == "cuda", self.model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if self.settings.attention == "flex":
            if not on_gpu:
                raise PartnerError("policy.attention flex has no backward pass on a CPU: set it to auto, or use a GPU")
            if width < FLEX_HEAD_WIDTH:
                raise PartnerError(
                    f"policy.attention flex needs attention heads of at least {FLEX_HEAD_WIDTH} numbers, and those of "
                    f"{self.tokenizer.name_or_path} have {width}: set it to auto"
                )
        return on_gpu and width >= FLEX_HEAD_WIDTH

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of every forward pass: bfloat16 autocast when the settings ask for it."""
        if self.settings.dtype == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def adapters_off(self) -> Iterator[None]:
        """The policy as it was loaded, for the time of a block; only for a policy with adapters."""
        with self.model.disable_adapter(), position_rows_off(self.model):
            yield


def load_policy(folder: str | Path, settings: PolicyConfig, window: int, device: str = "cpu") -> Policy:
    """Loads a plain language model or an exported policy, with dropout 0 and float32 weights.

    Args:
        folder: A local Hugging Face folder.
        settings: Policy settings; with `lora`, fresh adapters are added and all else is frozen.
        window: `k`, sentences in the window.
        device: Torch device.

    Raises:
        PartnerError: The folder is no causal language model, was exported with another window, attends to fewer tokens
            than the settings need, or is computed differently when prompts are shared or adapters are off.
    """
    folder = Path(folder)
    tokenizer = load_tokenizer(folder)
    model: Any = load_causal_lm(folder)
    use_grouped_attention(model)
    use_few_rows_linear(model)
    use_float32_head(model)
    vocabulary = add_position_tokens(tokenizer, model, window)
    check_reach(tokenizer, model.config, settings, window)
    if settings.lora is not None:
        model = _add_adapters(model, settings, vocabulary)
    else:
        share_gradient_with_head(model)
    policy = Policy(model.to(device).eval(), tokenizer, vocabulary, settings)
    check_ways(policy)
    return policy


def check_policy(folder: str | Path, settings: PolicyConfig, window: int) -> None:
    """Checks that `load_policy` would load the folder, without reading a weight.

    Whether the ways in which the policy is computed agree is found out when it is loaded.

    Args:
        folder: A local Hugging Face folder.
        settings: Policy settings.
        window: `k`, sentences in the window.

    Raises:
        PartnerError: As `load_policy`.
    """
    folder = Path(folder)
    tokenizer = load_tokenizer(folder)
    model = open_causal_lm(folder)
    add_position_tokens(tokenizer, model, window)
    check_reach(tokenizer, model.config, settings, window)


def _add_adapters(model: Any, settings: PolicyConfig, vocabulary: ActionVocabulary) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    assert settings.lora is not None
    adapters = LoraConfig(
        r=settings.lora.rank,
        # peft only ever divides by it or multiplies with it.
        lora_alpha=settings.lora.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules="all-linear",
        # GPT-2's projections store their weights transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, adapters)
    add_position_rows(adapted.get_base_model(), vocabulary)
    return adapted


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Writes a folder that `AutoModelForCausalLM.from_pretrained` loads, adapters merged into the weights.

    The folder also holds the tokenizer and `partner_rl.json` with the window and the policy settings.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = policy.model
    if hasattr(model, "merge_and_unload"):
        # Merging in place and undoing it would change the weights by rounding, so a copy is merged.
        model = copy.deepcopy(model).merge_and_unload()
        merge_position_rows(model)
    with quiet_transformers():
        model.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
    write_mark(folder, KIND, window=policy.vocabulary.window, policy=policy.settings.model_dump(mode="json"))


def read_metadata(folder: str | Path) -> tuple[int, PolicyConfig]:
    """The window and the policy settings of an exported policy.

    Raises:
        PartnerError: The folder holds no exported policy.
    """
    path = Path(folder) / MARK
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["window"]), PolicyConfig.model_validate(content["policy"])
    except (OSError, ValueError, KeyError) as error:
        raise PartnerError(f"{folder} is no exported policy ({MARK}: {error}): give a run or its export/") from error
