"""Texts into token states with a bidirectional encoder: what the empathy and coherence classifiers stand on.

Shapes: `_B` text, `_T` token, `_D` hidden unit. States of a text are kept unpadded, `[T, D]`, so that what is cached
or shared does not depend on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.masking_utils import create_bidirectional_mask

from partner_rl.models.text_tokens import framed_texts
from partner_rl.types import PartnerError
from rewards.batching import length_batches

TOKENS_PER_PASS = 4096
"""Most padded tokens in one forward pass of an encoder."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A tokenised text.

    Attributes:
        ids: Token ids with the encoder's special tokens, T of them.
        offsets: Per token, its first and one-past-last character in the text; (0, 0) for special tokens.
        special: Per token, whether it is a special token.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    special: tuple[bool, ...]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int | None) -> list[EncodedText]:
    """Tokenise texts, keeping the first `max_tokens` tokens of each (special tokens included); None keeps all."""
    return [
        EncodedText(tuple(found.ids), tuple(found.offsets), tuple(bool(x) for x in found.special_tokens_mask))
        for found in framed_texts(tokenizer, texts, max_tokens)
    ]


def in_pieces(text: EncodedText, limit: int) -> list[EncodedText]:
    """Cut a text into as few pieces of about equal length as have at most `limit` tokens each.

    Every piece has the special tokens that the text begins and ends with; the pieces' other tokens are the text's.
    """
    if len(text.ids) <= limit:
        return [text]
    first = next((i for i, special in enumerate(text.special) if not special), 0)
    last = len(text.ids) - next((i for i, special in enumerate(reversed(text.special)) if not special), 0)
    room = max(1, limit - first - (len(text.ids) - last))
    count = -(-(last - first) // room)
    bounds = [first + (last - first) * i // count for i in range(count + 1)]
    return [_piece(text, start, end, first, last) for start, end in pairwise(bounds)]


def _piece(text: EncodedText, start: int, end: int, first: int, last: int) -> EncodedText:
    def cut(column: tuple[T, ...]) -> tuple[T, ...]:
        return column[:first] + column[start:end] + column[last:]

    return EncodedText(cut(text.ids), cut(text.offsets), cut(text.special))


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills up short rows; any id serves, as padding is masked."""
    return int(tokenizer.pad_token_id) if isinstance(tokenizer.pad_token_id, int) else 0


def pad_ids(encoded: Sequence[EncodedText], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask of a batch, each `[B, T]`, padded on the right; the mask is True on tokens."""
    ids_BT, mask_BT = padded([torch.tensor(text.ids, dtype=torch.long) for text in encoded], pad_id)
    return ids_BT.to(device), mask_BT.to(device)


def pad_states(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """States of several texts, each `[T, D]`, as one `[B, T, D]` with its mask `[B, T]`."""
    return padded(states)


def padded(sequences: Sequence[Tensor], padding: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences, each `[T, …]`, as one `[B, T, …]`, padded on the right, and its mask `[B, T]`: True on what exists."""
    found = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=found.device)
    return found, torch.arange(found.shape[1], device=found.device)[None, :] < lengths[:, None]


def mean_pool(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean state over a text's tokens, special tokens included, `[B, D]`."""
    weight_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
    return (states_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1.0)


def num_layers(encoder: PreTrainedModel) -> int:
    """Transformer layers of the encoder."""
    return int(encoder.config.num_hidden_layers)


def encode_states(
    encoder: PreTrainedModel,
    encoded: Sequence[EncodedText],
    pad_id: int,
    device: torch.device,
    advance: Callable[[], None] = lambda: None,
) -> list[Tensor]:
    """Last hidden states of each text, `[T, D]` without padding, in the order given; no gradient.

    The encoder is in evaluation mode; `advance` is called after each forward pass.
    """
    states: list[Tensor | None] = [None] * len(encoded)
    # Not inference_mode: training keeps these states as inputs of layers that need gradients.
    with torch.no_grad():
        for batch in state_batches(encoded):
            ids_BT, mask_BT = pad_ids([encoded[i] for i in batch], pad_id, device)
            hidden_BTD = encoder(input_ids=ids_BT, attention_mask=mask_BT.long()).last_hidden_state
            for row, index in enumerate(batch):
                # A copy: a view would keep the whole padded batch alive.
                states[index] = hidden_BTD[row, : len(encoded[index].ids)].clone()
            advance()
    return cast(list[Tensor], states)


def state_batches(encoded: Sequence[EncodedText]) -> Iterator[list[int]]:
    """The batches of `encode_states`, as indices."""
    return length_batches([len(text.ids) for text in encoded], TOKENS_PER_PASS)


@contextmanager
def lowest_layers(encoder: PreTrainedModel, count: int) -> Iterator[None]:
    """Within the block the encoder ends after its lowest `count` layers."""
    stack = layer_stack(encoder)
    layers = stack.layer
    stack.layer = layers[:count]
    try:
        yield
    finally:
        stack.layer = layers


def run_upper_layers(encoder: PreTrainedModel, states_BTD: Tensor, mask_BT: Tensor, first: int) -> Tensor:
    """Run layers `first…` of the encoder on the states below them; equals the full encoder's last hidden states."""
    attention_mask = create_bidirectional_mask(
        config=encoder.config, inputs_embeds=states_BTD, attention_mask=mask_BT.long()
    )
    for layer in list(layer_stack(encoder).layer)[first:]:
        states_BTD = layer(states_BTD, attention_mask)
    return states_BTD


def layer_stack(encoder: PreTrainedModel) -> Any:
    """The module that holds the encoder's layers as `layer`, in encoders of BERT's and RoBERTa's build.

    Raises:
        PartnerError: The encoder is built otherwise.
    """
    stack = getattr(encoder, "encoder", None)
    if not isinstance(getattr(stack, "layer", None), nn.ModuleList) or not hasattr(encoder, "embeddings"):
        raise PartnerError(
            f"layers of {type(encoder).__name__} cannot be frozen one by one: "
            "set reward_training.frozen_layers to 0, or take an encoder of BERT's or RoBERTa's build"
        )
    return stack
