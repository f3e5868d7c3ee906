"""The policy: a causal language model with position tokens and, if asked for, adapters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from partner_rl.config.schema import PolicyConfig
from partner_rl.policy.position_rows import position_rows_off
from partner_rl.policy.vocabulary import ActionVocabulary
from partner_rl.positions import PositionRule
from partner_rl.types import PartnerError

COMPILER = "inductor"
"""The backend of `torch.compile`."""
FLEX_HEAD_WIDTH = 16
"""The narrowest attention head that FlexAttention computes on a GPU."""


@dataclass(frozen=True)
class Policy:
    """A policy ready to sample from or to train.

    Attributes:
        model: Hugging Face causal language model, wrapped by peft when it has adapters.
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
