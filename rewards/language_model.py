"""Log-probabilities of texts under a causal language model: what fluency and mutual information stand on.

The samples of a group are one response with different edits, so that their rows begin alike; rows that begin alike are
computed as one prefix tree, in which each shared token is computed once and attends to what leads to it.

Shapes: `_B` row of a batch, `_T` token or node, `_D` hidden unit, `_N` scored token, `_V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.models.text_tokens import text_ids
from partner_rl.types import PartnerError
from rewards.batching import common_prefix, length_batches
from rewards.encoder import padded
from rewards.scorer import FloatArray

TOKENS_PER_PASS = 4096
"""Most padded tokens (context included) in one forward pass."""
CPU_PADDING = 128
"""Most padding that a row may cause on a CPU, where a pass of its own costs less. On a GPU a pass costs as much as
thousands of tokens."""
HEAD_ROWS = 512
"""Tokens that go through the LM head at once: 100 MB of logits at a vocabulary of 50,000."""
TREE_TOKENS = 512
"""Most tokens in a tree that rows are added to. Its attention is dense: at this size it costs a sixth of a small
model's matrix products, which is less than the shared tokens save."""
LEAST_SHARED = 0.2
"""A row joins a tree if it shares at least this part of its tokens."""
DOCUMENT_START = "<|endoftext|>"
"""What separates documents in the pretraining of GPT-2, SmolLM2 and many others."""

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A sequence to score: `context + target`, of which `target` counts; `index` is its place in the answer."""

    index: int
    context: Tokens
    target: Tokens

    @property
    def inputs(self) -> Tokens:
        """What the model reads: the last token predicts nothing that counts."""
        return self.context + self.target[:-1]


@dataclass(slots=True)
class _Tree:
    """Rows that begin alike. A node is a token after those on its path from the root; parents stand before children.

    Attributes:
        tokens: Each node's token.
        parents: Each node's parent; -1 at the root.
        depths: Each node's place in its rows.
        rows: The rows, each with its nodes.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    rows: list[tuple[_Row, list[int]]] = field(default_factory=list)

    def add(self, row: _Row, shared: int) -> None:
        """Add a row that begins like the last one added, for `shared` tokens."""
        nodes = self.rows[-1][1][:shared] if shared else []
        for depth in range(shared, len(row.inputs)):
            self.parents.append(nodes[-1] if nodes else -1)
            nodes.append(len(self.tokens))
            self.tokens.append(row.inputs[depth])
            self.depths.append(depth)
        self.rows.append((row, nodes))

    def ancestors(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """True where a node (first axis) attends to a node (second axis): those on its path, itself included."""
        seen_TT = np.eye(len(self.tokens), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen_TT[node] |= seen_TT[parent]
        return seen_TT


class LanguageModel:
    """A causal language model that scores target tokens after context tokens."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a model over.

        The model is on its device, and is switched to evaluation mode.

        Raises:
            PartnerError: The model's logits are not its head applied to its last hidden states, or the tokenizer has
                no token to start a text with.
        """
        self.model = model.train(False)
        self.tokenizer = tokenizer
        self.device = next(model.parameters()).device
        self._most_padding = CPU_PADDING if self.device.type == "cpu" else None
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
        """The text's tokens, of which none is a control token, at most the first `max_tokens`."""
        ids = text_ids(self.tokenizer, text)
        return tuple(ids if max_tokens is None else ids[:max_tokens])

    def logprobs(self, contexts: Sequence[Tokens], targets: Sequence[Tokens]) -> list[FloatArray]:
        """Log-probability of each target token after its context, in nats.

        What rows have in common at their beginnings is computed once (see the module's docstring).

        Args:
            contexts: Per row, at least one token.
            targets: Per row, the tokens to score, possibly none.

        Returns:
            Per row, one number a target token.
        """
        trees = _trees(_rows(contexts, targets))
        alone = [tree.rows[0][0] for tree in trees if len(tree.rows) == 1]
        together = [tree for tree in trees if len(tree.rows) > 1]
        return _in_order([*self._score_alone(alone), *self._score_trees(together)], len(contexts))

    @torch.inference_mode()
    def _score_alone(self, rows: Sequence[_Row]) -> Iterator[tuple[_Row, FloatArray]]:
        for indices in length_batches([len(row.inputs) for row in rows], TOKENS_PER_PASS, self._most_padding):
            batch = [rows[i] for i in indices]
            ids_BT, mask_BT = _pad([row.inputs for row in batch], self.device)
            positions_BT = torch.arange(ids_BT.shape[1], device=self.device).expand_as(ids_BT)
            hidden_BTD = self._body(
                input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, use_cache=False
            ).last_hidden_state
            yield from self._score(hidden_BTD, [(row, b, range(len(row.inputs))) for b, row in enumerate(batch)])

    @torch.inference_mode()
    def _score_trees(self, trees: Sequence[_Tree]) -> Iterator[tuple[_Row, FloatArray]]:
        for indices in length_batches([len(tree.tokens) for tree in trees], TOKENS_PER_PASS, self._most_padding):
            batch = [trees[i] for i in indices]
            ids_BT, _ = _pad([tuple(tree.tokens) for tree in batch], self.device)
            depths_BT, _ = _pad([tuple(tree.depths) for tree in batch], self.device)
            hidden_BTD = self._body(
                input_ids=ids_BT, attention_mask=self._tree_mask(batch), position_ids=depths_BT, use_cache=False
            ).last_hidden_state
            wanted = [(row, b, nodes) for b, tree in enumerate(batch) for row, nodes in tree.rows]
            yield from self._score(hidden_BTD, wanted)

    def _tree_mask(self, trees: Sequence[_Tree]) -> Tensor:
        """What is added to the attention's scores, `[B, 1, T, T]`; padding attends to itself."""
        longest = max(len(tree.tokens) for tree in trees)
        seen_BTT = torch.eye(longest, dtype=torch.bool).repeat(len(trees), 1, 1)
        for b, tree in enumerate(trees):
            nodes = len(tree.tokens)
            seen_BTT[b, :nodes, :nodes] = torch.from_numpy(tree.ancestors())
        mask_BTT = torch.zeros(seen_BTT.shape, dtype=self.model.dtype)
        mask_BTT.masked_fill_(~seen_BTT, torch.finfo(self.model.dtype).min)
        return mask_BTT.unsqueeze(1).to(self.device)

    def _score(
        self, hidden_BTD: Tensor, wanted: Sequence[tuple[_Row, int, Sequence[int]]]
    ) -> Iterator[tuple[_Row, FloatArray]]:
        """Scores rows, each with its place in the batch and its nodes; what several rows ask for is computed once."""
        places: dict[tuple[int, int, int], int] = {}
        picks = []
        for row, b, nodes in wanted:
            predicting = nodes[len(row.context) - 1 :]
            asked = [(b, node, token) for node, token in zip(predicting, row.target, strict=True)]
            picks.append([places.setdefault(key, len(places)) for key in asked])
        batch_N, node_N, target_N = torch.tensor(list(places), device=self.device).unbind(1)
        parts = [slice(i, i + HEAD_ROWS) for i in range(0, len(places), HEAD_ROWS)]
        found_N = torch.cat([self._token_logprobs(hidden_BTD[batch_N[p], node_N[p]], target_N[p]) for p in parts])
        found = found_N.cpu().numpy()
        for (row, _, _), pick in zip(wanted, picks, strict=True):
            yield row, found[pick]

    def _token_logprobs(self, hidden_ND: Tensor, target_N: Tensor) -> Tensor:
        logits_NV = self._head(hidden_ND).float()
        largest_N = logits_NV.amax(1)
        target_logit_N = logits_NV.gather(1, target_N.unsqueeze(1)).squeeze(1)
        # In place: on a CPU, `logsumexp` takes nearly as long as the head's matrix product.
        normalizer_N = logits_NV.sub_(largest_N.unsqueeze(1)).exp_().sum(1).log()
        logprobs_N: Tensor = target_logit_N - largest_N - normalizer_N
        return logprobs_N


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
    ids_BT, mask_BT = padded([torch.tensor(sequence, dtype=torch.long) for sequence in sequences])
    return ids_BT.to(device), mask_BT.long().to(device)


def _trees(rows: Sequence[_Row]) -> list[_Tree]:
    """Gathers rows that begin alike; a row that shares too little is a tree alone."""
    trees: list[_Tree] = []
    last: Tokens = ()
    # In this order, what a row shares with any row before it, it shares with the last one.
    for row in sorted(rows, key=lambda row: row.inputs):
        shared = common_prefix(last, row.inputs)
        pays = shared >= LEAST_SHARED * len(row.inputs)
        if trees and pays and len(trees[-1].tokens) + len(row.inputs) - shared <= TREE_TOKENS:
            trees[-1].add(row, shared)
        else:
            trees.append(_Tree())
            trees[-1].add(row, 0)
        last = row.inputs
    return trees


def _in_order(scored: Iterable[tuple[_Row, FloatArray]], rows: int) -> list[FloatArray]:
    """One array a row asked for; empty for those without a target."""
    results: list[FloatArray] = [np.zeros(0, np.float32) for _ in range(rows)]
    for row, found in scored:
        results[row.index] = found
    return results
