"""The position as a token: `2k+2` position tokens added to a language model's vocabulary.

At the last prompt token, the softmax over the position tokens alone is `π(position | state)`: the linear layer on the
last hidden state of PARTNER, section 4.3. The chosen token is fed back, so that the sentence is conditioned on where it
goes without a second pass over the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from partner_rl.models.text_tokens import control_ids, text_ids
from partner_rl.positions import PositionKind, PositionRule, decode_position, num_positions, position_mask
from partner_rl.types import PartnerError


@dataclass(frozen=True)
class ActionVocabulary:
    """Which token ids stand for positions and which may appear in a sentence.

    Attributes:
        window: `k`, sentences in the window.
        first_position_id: Token id of position 0; the others follow.
        end_id: Token id that ends a sentence.
        special_ids: Ids of the tokenizer's control tokens; all but `end_id` are banned from sentences.
    """

    window: int
    first_position_id: int
    end_id: int
    special_ids: tuple[int, ...]
    positions: PositionRule = "all"

    @property
    def position_ids(self) -> range:
        """The token ids of the `2k+2` positions."""
        return range(self.first_position_id, self.first_position_id + num_positions(self.window))

    @cached_property
    def banned_ids(self) -> list[int]:
        """Ids below the position tokens that no sentence may hold."""
        return [i for i in self.special_ids if i != self.end_id and i < self.first_position_id]

    def valid_positions(self, num_sentences: int) -> torch.Tensor:
        """Which positions may be chosen in a window that holds `num_sentences`, shape `[A]`."""
        return torch.from_numpy(position_mask(num_sentences, self.window, self.positions))

    def position_logprobs(self, logits_BV: torch.Tensor, valid_BA: torch.Tensor, temperature: float) -> torch.Tensor:
        """Log-probabilities of the positions, shape `[B, A]`; -inf where masked out.

        Args:
            logits_BV: Logits at the last prompt token.
            valid_BA: Which of the `A = 2k+2` positions exist in each window.
            temperature: Logits are divided by it.
        """
        logits_BA = logits_BV[:, self.first_position_id : self.position_ids.stop].float() / temperature
        return logits_BA.masked_fill(~valid_BA, float("-inf")).log_softmax(-1)

    def word_logits(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Scaled logits over the words of a sentence, shape `[..., first_position_id]`; -inf where banned."""
        # Division makes a copy, so that the caller's logits stay as they are.
        words = logits[..., : self.first_position_id].float() / temperature
        words[..., self.banned_ids] = float("-inf")
        return words


def position_token(position: int, window: int) -> str:
    """The text of a position's token, such as `<|insert_0|>`, `<|replace_2|>` or `<|noop|>`."""
    decoded = decode_position(position, window)
    if decoded.kind is PositionKind.NOOP:
        return "<|noop|>"
    return f"<|{decoded.kind}_{decoded.index}|>"


def _describe(position: int, window: int) -> str:
    decoded = decode_position(position, window)
    match decoded.kind:
        case PositionKind.INSERT:
            return f" add before {decoded.index + 1}"
        case PositionKind.REPLACE:
            return f" replace {decoded.index + 1}"
        case PositionKind.NOOP:
            return " nothing"


def add_position_tokens(tokenizer: Any, model: Any, window: int) -> ActionVocabulary:
    """Adds the position tokens to tokenizer and model where they are missing, and returns the action vocabulary.

    A new token's embedding starts as the mean embedding of words that describe it, so that the first forward pass
    reads it as something near its meaning.

    Raises:
        PartnerError: The tokenizer has no end token, or holds position tokens of another window.
    """
    if tokenizer.eos_token_id is None:
        raise PartnerError(
            f"the tokenizer of {tokenizer.name_or_path} has no end-of-sequence token: choose a causal LM"
        )
    special_ids = sorted(control_ids(tokenizer))
    names = [position_token(p, window) for p in range(num_positions(window))]
    known = tokenizer.get_vocab()
    if names[0] not in known:
        _append_tokens(tokenizer, model, names, window)
        known = tokenizer.get_vocab()
    ids = [known.get(name, -1) for name in names]
    if ids != list(range(ids[0], ids[0] + len(ids))) or f"<|replace_{window}|>" in known:
        raise PartnerError(
            f"the policy {tokenizer.name_or_path} was made for another window than env.window={window}: "
            "use its own window or start from a plain language model"
        )
    words = tuple(i for i in special_ids if i < ids[0])
    return ActionVocabulary(window, ids[0], int(tokenizer.eos_token_id), words)


def _append_tokens(tokenizer: Any, model: Any, names: list[str], window: int) -> None:
    descriptions = [text_ids(tokenizer, _describe(p, window)) for p in range(num_positions(window))]
    tokenizer.add_tokens(names, special_tokens=True)
    first = tokenizer.convert_tokens_to_ids(names[0])
    rows = model.get_input_embeddings().weight.shape[0]
    if first + len(names) > rows:
        model.resize_token_embeddings(first + len(names), mean_resizing=False)
    tables = {id(t.weight): t.weight for t in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for weight in tables.values():
            for row, words in enumerate(descriptions):
                weight[first + row] = weight[words].mean(0)
