"""Trainable rows for the position tokens beside a frozen embedding table.

With adapters all of the model is frozen, but the new tokens must be learned. peft offers this by copying the whole
table in every forward pass, which takes a quarter of the time of sampling on a CPU; here only the rows themselves are
computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from partner_rl.policy.precision import full_precision
from partner_rl.policy.vocabulary import ActionVocabulary


class PositionRows(nn.Module):
    """The trained rows, shape `[A, D]`; they start as the table's own."""

    def __init__(self, table: torch.Tensor, vocabulary: ActionVocabulary) -> None:
        super().__init__()
        self.first, self.stop = vocabulary.position_ids.start, vocabulary.position_ids.stop
        self.weight = nn.Parameter(table[self.first : self.stop].detach().clone())
        self.enabled = True


class RowsEmbedding(nn.Module):
    """An embedding whose position tokens come from the trained rows."""

    def __init__(self, base: nn.Module, rows: PositionRows) -> None:
        super().__init__()
        self.base, self.rows = base, rows

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Embeddings `[B, T, D]`."""
        states: torch.Tensor = self.base(ids_BT)
        if not self.rows.enabled:
            return states
        is_position = (ids_BT >= self.rows.first) & (ids_BT < self.rows.stop)
        index = (ids_BT - self.rows.first).clamp(0, len(self.rows.weight) - 1)
        # As an embedding, whose gradients are summed in a fixed order; those of `weight[index]` are not.
        rows_BTD = nn.functional.embedding(index, self.rows.weight)
        return torch.where(is_position[..., None], _as_looked_up(self.base, rows_BTD), states)


def _as_looked_up(embedding: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Rows of a table as its embedding returns them: Gemma's and BART's scale what they look up."""
    scale = getattr(embedding, "embed_scale", 1.0)
    return rows * (scale.to(rows.dtype) if isinstance(scale, torch.Tensor) else scale)


class RowsHead(nn.Module):
    """A language-model head whose position logits come from the trained rows."""

    def __init__(self, base: nn.Module, rows: PositionRows) -> None:
        super().__init__()
        self.base, self.rows = base, rows

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits `[..., V]`."""
        logits: torch.Tensor = self.base(states)
        if self.rows.enabled:
            bias = getattr(self.base, "bias", None)
            ours_bias = None if bias is None else bias[self.rows.first : self.rows.stop]
            with full_precision(states.device.type):
                ours = nn.functional.linear(states.float(), self.rows.weight, ours_bias)
            logits[..., self.rows.first : self.rows.stop] = ours.to(logits.dtype)
        return logits


def add_position_rows(model: Any, vocabulary: ActionVocabulary) -> None:
    """Puts trained rows around a frozen model's embedding and head; one set when the two are tied."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = PositionRows(embedding.weight, vocabulary)
    tied = head.weight is embedding.weight
    model.set_input_embeddings(RowsEmbedding(embedding, rows))
    model.set_output_embeddings(RowsHead(head, rows if tied else PositionRows(head.weight, vocabulary)))


@torch.no_grad()
def merge_position_rows(model: Any) -> None:
    """Writes the trained rows into the tables and takes the wrappers off."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for wrapper in (embedding, head):
        wrapper.base.weight[wrapper.rows.first : wrapper.rows.stop] = wrapper.rows.weight
    model.set_input_embeddings(embedding.base)
    model.set_output_embeddings(head.base)


@contextmanager
def position_rows_off(model: Any) -> Iterator[None]:
    """The tables' own rows, as they were before training, for the time of a block."""
    rows = [module for module in model.modules() if isinstance(module, PositionRows)]
    for module in rows:
        module.enabled = False
    try:
        yield
    finally:
        for module in rows:
            module.enabled = True
