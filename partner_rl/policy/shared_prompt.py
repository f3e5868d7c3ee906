"""Keys and values while sentences are decoded: each prompt's once, for all rows that go on from it.

A decoding step of `N` rows over `G` prompts of `P` tokens reads `G·P + N·t` cached tokens a layer instead of
`N·(P + t)`, and writes `N` of them: nothing is repeated, concatenated or padded on the way.

Axes: `G` prompt, `S` place of a row among those of its prompt, `N` row, `H` query head, `J` key head, `R` query heads
of a key head (`H / J`), `P` prompt token, `T` decoded token, `D` head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from partner_rl.policy.precision import full_precision

PromptLayer = tuple[torch.Tensor, torch.Tensor]
"""A layer's keys and values of the prompts, each `[G, J, P, D]`."""


class SharedPromptCache:
    """The attention of rows that share prompts; `grouped_attention` asks it once a layer and step."""

    def __init__(
        self, layers: Sequence[PromptLayer], prompt_mask_GP: torch.Tensor, group_N: torch.Tensor, capacity: int
    ) -> None:
        """Take over the prompts' keys and values.

        Args:
            layers: Those of each layer.
            prompt_mask_GP: True on prompt tokens, False on padding.
            group_N: Each row's prompt, in ascending order; every prompt has a row.
            capacity: Most tokens that a row is decoded for.
        """
        # Rounded as the update's attention rounds them, and kept in float32, so that no step casts them again.
        self._layers = [(keys.to(values.dtype).float(), values.float()) for keys, values in layers]
        self._bias_G11P = _bias(prompt_mask_GP)
        self._length = 0
        self._tails = [
            (self._buffer(k, len(group_N), capacity), self._buffer(v, len(group_N), capacity)) for k, v in self._layers
        ]
        self._place_rows(group_N)

    @staticmethod
    def _buffer(like_GJPD: torch.Tensor, rows: int, capacity: int) -> torch.Tensor:
        _, heads, _, dim = like_GJPD.shape
        return like_GJPD.new_zeros(rows, heads, capacity, dim)

    def _place_rows(self, group_N: torch.Tensor) -> None:
        """Give each row a place `g·S + s` in a grid of prompts by rows; `S` is the largest number of rows."""
        self._group_N = group_N
        counts_G = group_N.bincount(minlength=len(self._layers[0][0]))
        self._slots = int(counts_G.max())
        first_G = counts_G.cumsum(0) - counts_G
        slot_N = torch.arange(len(group_N), device=group_N.device) - first_G[group_N]
        self._place_N = group_N * self._slots + slot_N
        self._is_full = len(group_N) == len(counts_G) * self._slots

    def select(self, keep_M: torch.Tensor) -> None:
        """Go on with these rows alone, in ascending order; prompts without a row are dropped."""
        self._tails = [(self._kept(k, keep_M), self._kept(v, keep_M)) for k, v in self._tails]
        group_M = self._group_N[keep_M]
        stays_G = group_M.bincount(minlength=len(self._layers[0][0])) > 0
        if not stays_G.all():
            self._layers = [(k[stays_G], v[stays_G]) for k, v in self._layers]
            self._bias_G11P = None if self._bias_G11P is None else self._bias_G11P[stays_G]
        self._place_rows((stays_G.cumsum(0) - 1)[group_M])

    def _kept(self, tail_NJTD: torch.Tensor, keep_M: torch.Tensor) -> torch.Tensor:
        kept = torch.empty_like(tail_NJTD[: len(keep_M)])
        kept[:, :, : self._length] = tail_NJTD[keep_M, :, : self._length]
        return kept

    def advance(self) -> None:
        """Make room for the next token; call it before each step."""
        self._length += 1

    def append(
        self, layer: int, key_NJ1D: torch.Tensor, value_NJ1D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Keep a step's keys and values.

        Returns:
            Keys and values `[N, J, T, D]` of the rows' own tokens so far, and what to add to their scores, if anything.
        """
        keys, values = (tail[:, :, : self._length] for tail in self._tails[layer])
        keys[:, :, -1:].copy_(key_NJ1D)
        values[:, :, -1:].copy_(value_NJ1D)
        return keys, values, None

    def attend(
        self, layer: int, query_NH1D: torch.Tensor, key_NJ1D: torch.Tensor, value_NJ1D: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """The attention of one new token a row over its prompt and its own tokens.

        The softmax goes over both parts at once; their scores are small beside the keys. Products add up in float32,
        as in the kernels that the update uses.

        Returns:
            `[N, 1, H, D]`.
        """
        with full_precision(query_NH1D.device.type):
            query_NH1D, key_NJ1D = (each.to(value_NJ1D.dtype).float() for each in (query_NH1D, key_NJ1D))
            return self._attend(layer, query_NH1D, key_NJ1D, value_NJ1D.float(), scale).to(value_NJ1D.dtype)

    def _attend(
        self, layer: int, query_NH1D: torch.Tensor, key_NJ1D: torch.Tensor, value_NJ1D: torch.Tensor, scale: float
    ) -> torch.Tensor:
        keys_NJTD, values_NJTD, bias_T = self.append(layer, key_NJ1D, value_NJ1D)
        prompt_keys_GJPD, prompt_values_GJPD = self._layers[layer]
        rows, heads, _, dim = query_NH1D.shape
        query_NJRD = (query_NH1D * scale).view(rows, key_NJ1D.shape[1], -1, dim)
        own_NJRT = query_NJRD @ keys_NJTD.transpose(2, 3)
        if bias_T is not None:
            own_NJRT = own_NJRT + bias_T
        shared_GJQP = self._to_prompts(query_NJRD) @ prompt_keys_GJPD.transpose(2, 3)
        if self._bias_G11P is not None:
            shared_GJQP = shared_GJQP + self._bias_G11P
        scores = torch.cat([self._to_rows(shared_GJQP), own_NJRT], 3)
        probs = scores.softmax(3)
        width = prompt_keys_GJPD.shape[2]
        from_prompt_GJQD = self._to_prompts(probs[..., :width]) @ prompt_values_GJPD
        out_NJRD = self._to_rows(from_prompt_GJQD) + probs[..., width:] @ values_NJTD
        return out_NJRD.reshape(rows, 1, heads, dim)

    def _to_prompts(self, rows_NJRX: torch.Tensor) -> torch.Tensor:
        """The rows of a prompt side by side as queries of one attention, `[G, J, S·R, X]`; 0 where there is no row."""
        _, heads, shared, width = rows_NJRX.shape
        grid = rows_NJRX
        if not self._is_full:
            grid = rows_NJRX.new_zeros(len(self._layers[0][0]) * self._slots, heads, shared, width)
            grid[self._place_N] = rows_NJRX
        return (
            grid.view(-1, self._slots, heads, shared, width)
            .transpose(1, 2)
            .reshape(-1, heads, self._slots * shared, width)
        )

    def _to_rows(self, prompts_GJQX: torch.Tensor) -> torch.Tensor:
        """The inverse of `_to_prompts`: `[N, J, R, X]`."""
        groups, heads, _, width = prompts_GJQX.shape
        grid = prompts_GJQX.view(groups, heads, self._slots, -1, width).transpose(1, 2)
        grid = grid.reshape(groups * self._slots, heads, -1, width)
        return grid if self._is_full else grid[self._place_N]


class StaticSharedPromptCache(SharedPromptCache):
    """One whose tensors keep their shapes and places from step to step, so that a compiled step fits all of them.

    Rows that have ended stay, and each step attends to the whole buffer, of which a mask hides what is not written yet.
    """

    def __init__(
        self, layers: Sequence[PromptLayer], prompt_mask_GP: torch.Tensor, group_N: torch.Tensor, capacity: int
    ) -> None:
        """As `SharedPromptCache`."""
        super().__init__(layers, prompt_mask_GP, group_N, capacity)
        device = prompt_mask_GP.device
        self._written = torch.full((1,), -1, dtype=torch.long, device=device)
        self._bias_T = torch.full((capacity,), float("-inf"), device=device)

    def select(self, keep_M: torch.Tensor) -> None:
        """Not possible.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("rows of a static cache stay until the last one has ended")

    def advance(self) -> None:
        """Make room for the next token; call it before each step."""
        self._written += 1
        self._bias_T.index_fill_(0, self._written, 0.0)

    def append(
        self, layer: int, key_NJ1D: torch.Tensor, value_NJ1D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """As `SharedPromptCache.append`, with `T` the buffer's length."""
        keys, values = self._tails[layer]
        keys.index_copy_(2, self._written, key_NJ1D.to(keys.dtype))
        values.index_copy_(2, self._written, value_NJ1D.to(values.dtype))
        return keys, values, self._bias_T


def _bias(mask_GP: torch.Tensor) -> torch.Tensor | None:
    """What is added to the scores of the prompts' tokens, `[G, 1, 1, P]`; None when there is no padding."""
    if bool(mask_GP.all()):
        return None
    bias_GP = torch.zeros(mask_GP.shape, device=mask_GP.device).masked_fill(~mask_GP.bool(), float("-inf"))
    return bias_GP[:, None, None]
