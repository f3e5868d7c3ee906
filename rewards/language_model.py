"""Log-probabilities of texts under a causal language model: what fluency and mutual information stand on.

Shapes: `_B` row, `_T` token, `_D` hidden unit, `_N` scored token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.types import PartnerError
from rewards.batching import length_batches
from rewards.scorer import FloatArray

TOKENS_PER_PASS = 4096
"""Most padded tokens (context included) in one forward pass."""
HEAD_ROWS = 512
"""Tokens that go through the LM head at once: 100 MB of logits at a vocabulary of 50,000."""
ROWS_PER_CONTEXT = 32
"""Most rows that one computed context is repeated for; it is computed again for the next ones."""
DOCUMENT_START = "<|endoftext|>"
"""What separates documents in the pretraining of GPT-2, SmolLM2 and many others."""

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A sequence to score: `context + target`, of which `target` counts; `index` is its place in the answer."""

    index: int
    context: Tokens
    target: Tokens


class LanguageModel:
    """A causal language model that scores target tokens after context tokens."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a model over.

        Args:
            model: A causal language model on its device; switched to evaluation mode.
            tokenizer: Its tokenizer.

        Raises:
            PartnerError: The model's logits are not its head applied to its last hidden states, or the tokenizer has
                no token to start a text with.
        """
        self.model = model.train(False)
        self.tokenizer = tokenizer
        self.device = next(model.parameters()).device
        self.start = start_token(tokenizer)
        self.max_positions = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        self._body: Any = model.base_model
        self._head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self.vocabulary_size = int(self._head.weight.shape[0])
        self._check_head()

    @torch.inference_mode()
    def _check_head(self) -> None:
        """Only body and head are called below, so an architecture that scales or caps its logits must be refused."""
        ids_BT = torch.tensor([[self.start, self.start]], device=self.device)
        expected = self.model(input_ids=ids_BT).logits.float()
        found = self._head(self._body(input_ids=ids_BT).last_hidden_state).float()
        if not torch.allclose(expected, found, atol=1e-2, rtol=1e-2):
            raise PartnerError(
                f"{type(self.model).__name__} changes its logits after the head, which the reward language model "
                "does not support: choose another models.reward_lm"
            )

    def encode(self, text: str, max_tokens: int | None = None) -> Tokens:
        """The text's tokens without special tokens, at most the first `max_tokens`."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tuple(ids if max_tokens is None else ids[:max_tokens])

    def log_probs(self, contexts: Sequence[Tokens], targets: Sequence[Tokens]) -> list[FloatArray]:
        """Log-probability of each target token after its context, in nats.

        A context that several targets follow is computed once and its KV cache repeated.

        Args:
            contexts: Per row, at least one token.
            targets: Per row, the tokens to score, possibly none.

        Returns:
            Per row, one number a target token.
        """
        rows = _rows(contexts, targets)
        groups: dict[Tokens, list[_Row]] = {}
        for row in rows:
            groups.setdefault(row.context, []).append(row)
        shared = [
            group[i : i + ROWS_PER_CONTEXT]
            for context, group in groups.items()
            if len(group) > 1 and len(context) > 1
            for i in range(0, len(group), ROWS_PER_CONTEXT)
        ]
        alone = [row for context, group in groups.items() if len(group) == 1 or len(context) == 1 for row in group]
        results: list[FloatArray] = [np.zeros(0, np.float32) for _ in contexts]
        for row, found in [*self._score_alone(alone), *self._score_shared(shared)]:
            results[row.index] = found
        return results

    def unshared_log_probs(self, contexts: Sequence[Tokens], targets: Sequence[Tokens]) -> list[FloatArray]:
        """What `log_probs` returns, every row computed in full: the reference that sharing is tested against."""
        results: list[FloatArray] = [np.zeros(0, np.float32) for _ in contexts]
        for row, found in self._score_alone(_rows(contexts, targets)):
            results[row.index] = found
        return results

    @torch.inference_mode()
    def _score_alone(self, rows: Sequence[_Row]) -> Iterator[tuple[_Row, FloatArray]]:
        for indices in length_batches([len(row.context) + len(row.target) for row in rows], TOKENS_PER_PASS):
            batch = [rows[i] for i in indices]
            ids_BT, mask_BT = _pad([row.context + row.target[:-1] for row in batch], self.device)
            positions_BT = torch.arange(ids_BT.shape[1], device=self.device).expand_as(ids_BT)
            hidden_BTD = self._body(
                input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, use_cache=False
            ).last_hidden_state
            yield from self._split(batch, hidden_BTD, [len(row.context) - 1 for row in batch])

    @torch.inference_mode()
    def _score_shared(self, groups: Sequence[Sequence[_Row]]) -> Iterator[tuple[_Row, FloatArray]]:
        for batch_groups in _group_batches(groups):
            # The context's last token predicts a different first token in each row: it is computed with the row.
            prefix_ids_BT, prefix_mask_BT = _pad([group[0].context[:-1] for group in batch_groups], self.device)
            cache = DynamicCache(config=self.model.config)
            self._body(
                input_ids=prefix_ids_BT,
                attention_mask=prefix_mask_BT,
                position_ids=torch.arange(prefix_ids_BT.shape[1], device=self.device).expand_as(prefix_ids_BT),
                past_key_values=cache,
                use_cache=True,
            )
            batch = [row for group in batch_groups for row in group]
            group_of_row = [number for number, group in enumerate(batch_groups) for _ in group]
            select_B = torch.tensor(group_of_row, device=self.device)
            cache.batch_select_indices(select_B)
            ids_BT, mask_BT = _pad([row.context[-1:] + row.target[:-1] for row in batch], self.device)
            first_B1 = prefix_mask_BT.sum(1)[select_B].unsqueeze(1)
            hidden_BTD = self._body(
                input_ids=ids_BT,
                attention_mask=torch.cat([prefix_mask_BT[select_B], mask_BT], dim=1),
                # Real positions: the cache's padding takes up room, but the row goes on right after its own prefix.
                position_ids=first_B1 + torch.arange(ids_BT.shape[1], device=self.device),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            yield from self._split(batch, hidden_BTD, [0] * len(batch))

    def _split(
        self, batch: Sequence[_Row], hidden_BTD: Tensor, starts: Sequence[int]
    ) -> Iterator[tuple[_Row, FloatArray]]:
        """Score `len(target)` tokens from hidden state `start` of each row on."""
        hidden_ND = torch.cat(
            [
                hidden_BTD[i, start : start + len(row.target)]
                for i, (row, start) in enumerate(zip(batch, starts, strict=True))
            ]
        )
        target_N = torch.tensor([token for row in batch for token in row.target], device=self.device)
        found_N = torch.cat(
            [
                self._token_log_probs(hidden_ND[i : i + HEAD_ROWS], target_N[i : i + HEAD_ROWS])
                for i in range(0, len(target_N), HEAD_ROWS)
            ]
        )
        ends = np.cumsum([0, *(len(row.target) for row in batch)])
        found = found_N.cpu().numpy()
        for row, (start, end) in zip(batch, pairwise(ends), strict=True):
            yield row, found[start:end]

    def _token_log_probs(self, hidden_ND: Tensor, target_N: Tensor) -> Tensor:
        logits_NV = self._head(hidden_ND).float()
        log_probs_N: Tensor = logits_NV.gather(1, target_N.unsqueeze(1)).squeeze(1) - logits_NV.logsumexp(1)
        return log_probs_N


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that every scored text starts after, so that its first token is predicted too.

    `<|endoftext|>` where the vocabulary has it, as it separated documents in pretraining; then the beginning-of-text
    token (which in chat models may instead open a turn), then the end token.

    Raises:
        PartnerError: The tokenizer has none of them.
    """
    document = tokenizer.get_vocab().get(DOCUMENT_START)
    for token in (document, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise PartnerError(
        "the reward language model's tokenizer has no start or end token: choose another models.reward_lm"
    )


def _rows(contexts: Sequence[Tokens], targets: Sequence[Tokens]) -> list[_Row]:
    rows = [_Row(i, context, target) for i, (context, target) in enumerate(zip(contexts, targets, strict=True))]
    return [row for row in rows if row.target]


def _pad(sequences: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, each `[B, T]`, padded on the right with token 0, which the mask hides."""
    longest = max(len(sequence) for sequence in sequences)
    ids_BT = torch.zeros((len(sequences), longest), dtype=torch.long)
    mask_BT = torch.zeros((len(sequences), longest), dtype=torch.long)
    for i, sequence in enumerate(sequences):
        ids_BT[i, : len(sequence)] = torch.tensor(sequence)
        mask_BT[i, : len(sequence)] = 1
    return ids_BT.to(device), mask_BT.to(device)


def _group_batches(groups: Sequence[Sequence[_Row]]) -> Iterator[list[Sequence[_Row]]]:
    """Cut groups into batches of at most `TOKENS_PER_PASS` padded tokens, prefixes counted once per row."""
    batch: list[Sequence[_Row]] = []
    rows = 0
    longest_target = 0
    for group in sorted(groups, key=lambda group: len(group[0].context)):
        target = max(len(row.target) for row in group)
        padded = (rows + len(group)) * (len(group[0].context) + max(longest_target, target))
        if batch and padded > TOKENS_PER_PASS:
            yield batch
            batch, rows, longest_target = [], 0, 0
        batch.append(group)
        rows += len(group)
        longest_target = max(longest_target, target)
    if batch:
        yield batch
