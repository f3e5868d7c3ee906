"""Examples packed into rows, `[prompt_1 | edit_1 | prompt_2 | edit_2 | …]`, and their log-probabilities.

An example sees itself alone: attention is causal within it and blind to the others, and its position ids start at 0.
Loss and gradient therefore equal those of an example in a row of its own, which is the special case of one example a
row. The language-model head, the dearest layer of a small model, runs on the columns that predict something.

Axes: `R` row, `L` column, `E` example, `N` sentence token, `A` position, `V` vocabulary, `W = E + N` predicting column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch

from partner_rl.policy.actions import ActionTokens, encode_action
from partner_rl.policy.logprobs import target_logprobs
from partner_rl.policy.model import Policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.policy.vocabulary import ActionVocabulary
from partner_rl.positions import position_mask
from partner_rl.warmstart.pairs import WarmStartExample


@dataclass(frozen=True, slots=True)
class TokenExample:
    """An example as tokens.

    Attributes:
        num_sentences: Sentences in the window, which decide the valid positions.
    """

    prompt: tuple[int, ...]
    num_sentences: int
    action: ActionTokens

    @property
    def length(self) -> int:
        """Columns that it takes: the prompt, and for an edit the position token and all words but the last."""
        return len(self.prompt) + len(self.action.tokens)


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of examples as tensors, padded on the right.

    Attributes:
        input_RL: Input ids.
        position_id_RL: Place of each column within its example.
        example_RL: Which of its row's examples a column belongs to; -1 on padding.
        place_E: Each example's last prompt column, which predicts the position, as an index into `R·L`.
        valid_EA: Valid positions.
        position_E: The positions to be chosen.
        place_N: The columns that predict the sentence tokens, as indices into `R·L`.
        target_N: The sentence tokens.
    """

    input_RL: torch.Tensor
    position_id_RL: torch.Tensor
    example_RL: torch.Tensor
    place_E: torch.Tensor
    valid_EA: torch.Tensor
    position_E: torch.Tensor
    place_N: torch.Tensor
    target_N: torch.Tensor

    def to(self, device: torch.device | str) -> PackedRows:
        """The rows on another device."""
        return PackedRows(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class RowLogprobs:
    """What the policy makes of the packed examples.

    Attributes:
        log_positions_EA: Log-probabilities of all positions; -inf where masked out.
        log_chosen_E: Those of the positions to be chosen.
        log_tokens_N: Those of the sentence tokens.
    """

    log_positions_EA: torch.Tensor
    log_chosen_E: torch.Tensor
    log_tokens_N: torch.Tensor


def encode_example(policy: Policy, example: WarmStartExample) -> TokenExample:
    """The example as the policy's tokens."""
    prompt = encode_prompt(policy.tokenizer, example.state, policy.settings)
    return TokenExample(tuple(prompt), len(example.state.span), encode_action(policy, example.action))


def pack_rows(rows: Sequence[Sequence[TokenExample]], vocabulary: ActionVocabulary, pad_id: int) -> PackedRows:
    """Packs examples into tensors on the CPU; their order is that of the rows.

    Raises:
        ValueError: There is no row, or a row without examples.
    """
    if not rows or not all(rows):
        raise ValueError("every batch needs a row and every row an example")
    width = max(sum(example.length for example in row) for row in rows)
    inputs, positions, owners = ([[fill] * width for _ in rows] for fill in (pad_id, 0, -1))
    place_E: list[int] = []
    place_N: list[int] = []
    for number, row in enumerate(rows):
        column = 0
        for index, example in enumerate(row):
            ids = _input_ids(example, vocabulary)
            end = column + len(ids)
            inputs[number][column:end] = ids
            positions[number][column:end] = range(len(ids))
            owners[number][column:end] = [index] * len(ids)
            edit = number * width + column + len(example.prompt)
            place_E.append(edit - 1)
            place_N += range(edit, edit + len(example.action.tokens))
            column = end
    examples = [example for row in rows for example in row]
    valid = [torch.from_numpy(position_mask(e.num_sentences, vocabulary.window)) for e in examples]
    return PackedRows(
        input_RL=torch.tensor(inputs),
        position_id_RL=torch.tensor(positions),
        example_RL=torch.tensor(owners),
        place_E=torch.tensor(place_E),
        valid_EA=torch.stack(valid),
        position_E=torch.tensor([example.action.position for example in examples]),
        place_N=torch.tensor(place_N, dtype=torch.long),
        target_N=torch.tensor([token for e in examples for token in e.action.tokens], dtype=torch.long),
    )


def _input_ids(example: TokenExample, vocabulary: ActionVocabulary) -> list[int]:
    if not example.action.tokens:
        return list(example.prompt)
    position = vocabulary.first_position_id + example.action.position
    return [*example.prompt, position, *example.action.tokens[:-1]]


def row_logprobs(model: Any, rows: PackedRows, vocabulary: ActionVocabulary) -> RowLogprobs:
    """Log-probabilities of the packed examples at temperature 1, differentiable."""
    with _head_on_columns(model, torch.cat([rows.place_E, rows.place_N])):
        output = model(
            input_ids=rows.input_RL,
            attention_mask=_attention_mask(rows.example_RL, next(model.parameters()).dtype),
            position_ids=rows.position_id_RL,
            use_cache=False,
        )
    examples = len(rows.place_E)
    logits_1WV = output.logits
    assert logits_1WV.shape[:2] == (1, examples + len(rows.place_N)), logits_1WV.shape
    log_positions_EA = vocabulary.position_logprobs(logits_1WV[0, :examples], rows.valid_EA, 1.0)
    return RowLogprobs(
        log_positions_EA=log_positions_EA,
        log_chosen_E=log_positions_EA.gather(1, rows.position_E[:, None]).squeeze(1),
        log_tokens_N=target_logprobs(logits_1WV[:, examples:], rows.target_N[None], vocabulary, 1.0).squeeze(0),
    )


@contextmanager
def _head_on_columns(model: Any, place_W: torch.Tensor) -> Iterator[None]:
    """Lets the language-model head see the given columns alone, as one row, for the time of a block.

    A model's own `logits_to_keep` can only name the same columns for every row.
    """

    def choose(head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states_RLD, *rest = inputs
        return states_RLD.flatten(0, 1)[place_W][None], *rest

    hook = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def _attention_mask(example_RL: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask `[R, 1, L, L]`: block-diagonal over the examples of a row, causal within each."""
    length = example_RL.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=example_RL.device).tril()
    # Padding is one more block, so that no row is without any key, which would be NaN.
    allowed = causal & (example_RL[:, None, :] == example_RL[:, :, None])
    mask = torch.zeros(len(example_RL), 1, length, length, dtype=dtype, device=example_RL.device)
    return mask.masked_fill(~allowed[:, None], torch.finfo(dtype).min)
