"""Sampling: the prompt of each state is computed once, then decoded `K` times; a row leaves the batch when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from partner_rl.policy.actions import ActionTokens
from partner_rl.policy.model import Policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.positions import noop_position, position_mask
from partner_rl.types import RewriteState


@dataclass(frozen=True, slots=True)
class Sampling:
    """How actions are drawn.

    Attributes:
        temperature: Logits are divided by it; log-probabilities are those of the scaled distribution.
        top_p: Draw from the smallest set of tokens that holds this share of the probability.
        top_k: Draw from this many likeliest tokens; 0 for all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    @classmethod
    def greedy(cls) -> Sampling:
        """The likeliest position and at each step the likeliest token."""
        return cls(top_k=1)


@dataclass(frozen=True, slots=True)
class SampledAction:
    """An action and how likely it was.

    Attributes:
        action: Position and sentence tokens.
        log_probs: Log-probability of the position, then of each token; before truncation by top-p and top-k.
    """

    action: ActionTokens
    log_probs: tuple[float, ...]


@torch.no_grad()
def sample_actions(
    policy: Policy,
    states: Sequence[RewriteState],
    samples_per_state: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> list[list[SampledAction]]:
    """Draws `K` actions for each state.

    Args:
        policy: The policy, in evaluation mode.
        states: `G` states.
        samples_per_state: `K`.
        sampling: How to draw.
        generator: Source of randomness, on the policy's device.

    Returns:
        `G` lists of `K` sampled actions.
    """
    if not states:
        return []
    vocabulary = policy.vocabulary
    device = policy.device
    prompts = [encode_prompt(policy.tokenizer, state, policy.settings) for state in states]
    ids_GP, mask_GP = _pad_left(prompts, policy.pad_id, device)
    positions_GP = (mask_GP.cumsum(-1) - 1).clamp(min=0)
    with policy.autocast():
        output = policy.model(
            input_ids=ids_GP, attention_mask=mask_GP, position_ids=positions_GP, use_cache=True, logits_to_keep=1
        )
    valid_GA = torch.stack([torch.from_numpy(position_mask(len(s.span), vocabulary.window)) for s in states])
    log_probs_GA = vocabulary.position_log_probs(output.logits[:, -1], valid_GA.to(device), sampling.temperature)
    chosen_GK = _draw(log_probs_GA.exp(), samples_per_state, sampling, generator)
    position_N = chosen_GK.flatten()
    position_log_prob_N = log_probs_GA.gather(1, chosen_GK).flatten()

    cache = output.past_key_values
    cache.batch_repeat_interleave(samples_per_state)
    rows = _Rows(
        mask_NL=mask_GP.repeat_interleave(samples_per_state, 0),
        next_position_N=mask_GP.sum(-1).repeat_interleave(samples_per_state, 0),
        index_N=torch.arange(len(position_N), device=device),
    )
    tokens: list[list[int]] = [[] for _ in range(len(position_N))]
    log_probs: list[list[float]] = [[value] for value in position_log_prob_N.tolist()]
    token_N = position_N + vocabulary.first_position_id
    alive_N = position_N != noop_position(vocabulary.window)
    for _ in range(policy.settings.max_new_tokens):
        if not alive_N.all():
            keep = alive_N.nonzero().squeeze(-1)
            if len(keep) == 0:
                break
            cache.batch_select_indices(keep)
            rows, token_N = rows.select(keep), token_N[keep]
        rows = rows.extended()
        with policy.autocast():
            output = policy.model(
                input_ids=token_N[:, None],
                attention_mask=rows.mask_NL,
                position_ids=rows.next_position_N[:, None] - 1,
                past_key_values=cache,
                use_cache=True,
            )
        log_probs_NV = vocabulary.word_logits(output.logits[:, -1], sampling.temperature).log_softmax(-1)
        token_N = _draw(log_probs_NV.exp(), 1, sampling, generator).squeeze(-1)
        drawn = log_probs_NV.gather(1, token_N[:, None]).squeeze(-1).tolist()
        for row, token, value in zip(rows.index_N.tolist(), token_N.tolist(), drawn, strict=True):
            tokens[row].append(token)
            log_probs[row].append(value)
        alive_N = token_N != vocabulary.end_id

    samples = [
        SampledAction(ActionTokens(position, tuple(words)), tuple(values))
        for position, words, values in zip(position_N.tolist(), tokens, log_probs, strict=True)
    ]
    return [samples[g * samples_per_state : (g + 1) * samples_per_state] for g in range(len(states))]


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows still being decoded: attention mask so far, next position id, and index into the full batch."""

    mask_NL: torch.Tensor
    next_position_N: torch.Tensor
    index_N: torch.Tensor

    def select(self, keep: torch.Tensor) -> _Rows:
        return _Rows(self.mask_NL[keep], self.next_position_N[keep], self.index_N[keep])

    def extended(self) -> _Rows:
        ones = self.mask_NL.new_ones(len(self.mask_NL), 1)
        return _Rows(torch.cat([self.mask_NL, ones], 1), self.next_position_N + 1, self.index_N)


def _pad_left(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids_GP = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])
    mask_GP = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids_GP.to(device), mask_GP.to(device)


def _draw(probs_BV: torch.Tensor, samples: int, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """Draws `samples` indices a row, shape `[B, samples]`, from the distribution truncated by top-k, then top-p."""
    if sampling.top_k == 0 and sampling.top_p >= 1.0:
        return _invert(probs_BV, samples, generator)
    width = min(sampling.top_k or probs_BV.shape[-1], probs_BV.shape[-1])
    top_BW, index_BW = probs_BV.topk(width, -1)
    top_BW = top_BW / top_BW.sum(-1, keepdim=True)
    # A token stays if the mass before it is still below top_p: the likeliest one always does.
    top_BW = top_BW.masked_fill(top_BW.cumsum(-1) - top_BW >= sampling.top_p, 0.0)
    return index_BW.gather(1, _invert(top_BW, samples, generator))


def _invert(weights_BV: torch.Tensor, samples: int, generator: torch.Generator) -> torch.Tensor:
    """Draws indices by inverting the cumulative distribution: one random number a draw.

    `torch.multinomial` draws one for every word of the vocabulary, which takes longer than the decoder's last layer.
    Indices of weight 0 are never drawn: their cumulative weight is that of the index before.
    """
    cumulative_BV = weights_BV.double().cumsum(-1)
    uniform_BS = torch.rand(
        len(weights_BV), samples, generator=generator, device=weights_BV.device, dtype=torch.float64
    )
    return torch.searchsorted(cumulative_BV, uniform_BS * cumulative_BV[:, -1:], right=True).clamp(
        max=weights_BV.shape[-1] - 1
    )
