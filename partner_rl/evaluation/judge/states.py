"""What a frozen language model makes of a response: the mean of its hidden states, layer by layer.

The model reads the seeker's post first, so that the response's states know what it answers. Attention is causal and
rows are padded on the right: a pair's states do not depend on its neighbours in a batch.

Shapes: `_N` pair, `_B` pair in a batch, `_T` token, `_D` hidden unit, `_F` feature (`D` of each layer, one after the
other).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.models.loading import transformer_layers
from partner_rl.models.text_tokens import text_ids
from partner_rl.progress import Progress, no_progress
from partner_rl.types import PartnerError
from rewards.batching import length_batches
from rewards.language_model import start_token

SEEKER_TOKENS: Final = 48
"""Tokens of the seeker's post that are read, its first ones."""
RESPONSE_TOKENS: Final = 96
"""Tokens of the response that are read and averaged, its first ones."""
TOKENS_PER_PASS: Final = 2048
"""Most padded tokens in one forward pass."""

_BEFORE_SEEKER: Final = "User:"
_BEFORE_RESPONSE: Final = "\nReply:"

FloatArray = npt.NDArray[np.float64]
Pair = tuple[str, str]
"""Seeker's post and response."""


@dataclass(frozen=True, slots=True)
class _TokenRow:
    """A pair's tokens; the response's begin at `start`."""

    ids: tuple[int, ...]
    start: int


def candidate_layers(num_layers: int) -> tuple[tuple[int, ...], ...]:
    """The sets of layers that are worth trying, from the one that costs least on.

    Middle layers know most about how a text is meant, the highest ones about which word comes next.

    Layer `n` is the output of the model's `n`-th block.
    """
    middle, upper = math.ceil(num_layers / 2), math.ceil(3 * num_layers / 4)
    return tuple(dict.fromkeys(((middle,), (upper,), tuple(dict.fromkeys((middle, num_layers))))))


def layer_columns(layers: Sequence[int], chosen: Sequence[int], hidden_size: int) -> list[int]:
    """The features of some of the layers among those of all that were computed."""
    return [layers.index(layer) * hidden_size + unit for layer in dict.fromkeys(chosen) for unit in range(hidden_size)]


class ResponseStates:
    """Mean hidden states of responses. Blocks above the highest layer asked for are removed from the model.

    Attributes:
        layers: The layers, ascending.
        limits: Tokens of the seeker's post and of the response that are read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layers: Sequence[int],
        seeker_tokens: int = SEEKER_TOKENS,
        response_tokens: int = RESPONSE_TOKENS,
    ) -> None:
        """Takes a model over.

        Args:
            model: A causal language model on its device, without dropout.
            tokenizer: Its tokenizer.
            layers: Which layers' states to average, from 1.
            seeker_tokens: Tokens of the seeker's post.
            response_tokens: Tokens of the response.

        Raises:
            PartnerError: The model's blocks cannot be found, it has too few of them, or it has no start token.
        """
        self.layers = tuple(sorted(set(layers)))
        self.hidden_size = int(model.config.hidden_size)
        self._body: Any = model.base_model
        self._tokenizer = tokenizer
        self.limits = (seeker_tokens, response_tokens)
        self._device = next(model.parameters()).device
        self._prefix = (start_token(tokenizer), *self._tokens(_BEFORE_SEEKER))
        self._middle = self._tokens(_BEFORE_RESPONSE)
        self._blocks = transformer_layers(model)
        if not 1 <= self.layers[0] <= self.layers[-1] <= len(self._blocks):
            raise PartnerError(f"the judge reads layers {self.layers}, but the model has {len(self._blocks)}")
        del self._blocks[self.layers[-1] :]
        model.config.num_hidden_layers = len(self._blocks)

    def means(self, pairs: Sequence[Pair], progress: Progress = no_progress) -> FloatArray:
        """The features of each pair, `[N, F]`.

        Each distinct pair is computed once.
        """
        distinct = list(dict.fromkeys(pairs))
        place = {pair: i for i, pair in enumerate(distinct)}
        rows = [self._row(pair) for pair in distinct]
        means_NF = np.zeros((len(distinct), len(self.layers) * self.hidden_size))
        batches = list(length_batches([len(row.ids) for row in rows], TOKENS_PER_PASS))
        # Short and long batches in turn, so that the time that is left can be told from the time spent.
        random.Random(0).shuffle(batches)
        done = 0
        for batch in batches:
            means_NF[batch] = self._batch_means([rows[i] for i in batch])
            done += len(batch)
            progress(done, len(distinct))
        return means_NF[[place[pair] for pair in pairs]]

    def cut(self, pairs: Sequence[Pair]) -> float:
        """Share of the pairs whose response is longer than what is read of it."""
        longer = [len(self._tokens(f" {response}")) > self.limits[1] for _, response in pairs]
        return float(np.mean(longer)) if longer else 0.0

    def _row(self, pair: Pair) -> _TokenRow:
        seeker, response = (self._tokens(f" {text}")[:limit] for text, limit in zip(pair, self.limits, strict=True))
        before = (*self._prefix, *seeker, *self._middle)
        # A response without a token is represented by the token before it.
        return _TokenRow((*before, *response), len(before) if response else len(before) - 1)

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(text_ids(self._tokenizer, text))

    @torch.inference_mode()
    def _batch_means(self, rows: Sequence[_TokenRow]) -> FloatArray:
        longest = max(len(row.ids) for row in rows)
        ids_BT = torch.zeros((len(rows), longest), dtype=torch.long)
        mask_BT = torch.zeros((len(rows), longest), dtype=torch.long)
        response_BT = torch.zeros((len(rows), longest))
        for i, row in enumerate(rows):
            ids_BT[i, : len(row.ids)] = torch.tensor(row.ids)
            mask_BT[i, : len(row.ids)] = 1
            response_BT[i, row.start : len(row.ids)] = 1 / (len(row.ids) - row.start)
        weights_BT = response_BT.to(self._device)
        means: list[Tensor] = []

        def take_mean(module: nn.Module, inputs: Any, output: Any) -> None:
            states_BTD = output[0] if isinstance(output, tuple) else output
            means.append(torch.einsum("btd,bt->bd", states_BTD.float(), weights_BT))

        hooks = [self._blocks[layer - 1].register_forward_hook(take_mean) for layer in self.layers]
        try:
            self._body(
                input_ids=ids_BT.to(self._device),
                attention_mask=mask_BT.to(self._device),
                position_ids=torch.arange(longest, device=self._device).expand(len(rows), -1),
                use_cache=False,
            )
        finally:
            for hook in hooks:
                hook.remove()
        result: FloatArray = torch.cat(means, dim=1).double().cpu().numpy()
        return result
