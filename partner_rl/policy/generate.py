"""Sampling: each prompt is computed once and decoded for all rows that start from it; a row leaves when it ends.

Axes: `G` prompt, `P` prompt token, `N` row, `M` row that is still decoded, `A` position, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from partner_rl.policy.actions import ActionTokens
from partner_rl.policy.draw import draw
from partner_rl.policy.model import Policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.policy.shared_prompt import SharedPromptCache, StaticSharedPromptCache
from partner_rl.positions import noop_position
from partner_rl.types import RewriteState

COMPILED_PROMPT_WIDTH = 64
"""With a compiled decoding step, prompts are padded to a multiple of this many tokens."""


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


@dataclass(frozen=True, slots=True)
class PromptRows:
    """A prompt and what is asked of it.

    Attributes:
        prompt: Prompt token ids.
        num_sentences: Sentences in the window, which decide the valid positions.
        samples: Actions to draw.
        greedy: Also take the likeliest position and at each step the likeliest token, as one more action at the end.
    """

    prompt: tuple[int, ...]
    num_sentences: int
    samples: int
    greedy: bool = False


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
    prompts = [
        PromptRows(tuple(encode_prompt(policy.tokenizer, state, policy.settings)), len(state.span), samples_per_state)
        for state in states
    ]
    return sample_prompts(policy, prompts, sampling, generator)


@torch.no_grad()
def sample_prompts(
    policy: Policy, prompts: Sequence[PromptRows], sampling: Sampling, generator: torch.Generator
) -> list[list[SampledAction]]:
    """Draws the actions that are asked of each prompt.

    What is drawn does not depend on whether likeliest actions are asked for beside it.

    Args:
        policy: The policy, in evaluation mode.
        prompts: `G` prompts, each with at least one row.
        sampling: How to draw.
        generator: Source of randomness, on the policy's device.

    Returns:
        `G` lists: the drawn actions, then the likeliest one where it is asked for.
    """
    if not prompts:
        return []
    rows = [(g, k == p.samples) for g, p in enumerate(prompts) for k in range(p.samples + p.greedy)]
    group_N, greedy_N = torch.tensor(rows, device=policy.device).unbind(1)
    start = _start(policy, prompts, group_N, greedy_N.bool(), sampling, generator)
    tokens, log_probs = _decode(policy, start, sampling, generator)
    samples: list[list[SampledAction]] = [[] for _ in prompts]
    positions = zip(start.position_N.tolist(), start.log_prob_N.tolist(), strict=True)
    for (g, _), (position, value), words, values in zip(rows, positions, tokens, log_probs, strict=True):
        samples[g].append(SampledAction(ActionTokens(position, tuple(words)), (value, *values)))
    return samples


@dataclass(frozen=True, slots=True)
class _Start:
    """Rows after the prompts: their positions, and what they are decoded from."""

    position_N: torch.Tensor
    log_prob_N: torch.Tensor
    greedy_N: torch.Tensor
    prompt_length_N: torch.Tensor
    cache: SharedPromptCache


def _start(
    policy: Policy,
    prompts: Sequence[PromptRows],
    group_N: torch.Tensor,
    greedy_N: torch.Tensor,
    sampling: Sampling,
    generator: torch.Generator,
) -> _Start:
    """Computes the prompts and draws each row's position."""
    vocabulary = policy.vocabulary
    width = max(len(p.prompt) for p in prompts)
    if policy.settings.compile:
        # Few widths are few compilations.
        width = -(-width // COMPILED_PROMPT_WIDTH) * COMPILED_PROMPT_WIDTH
    ids_GP, mask_GP = _pad_left([p.prompt for p in prompts], width, policy.pad_id, policy.device)
    positions_GP = (mask_GP.cumsum(-1) - 1).clamp(min=0)
    with policy.autocast():
        output = policy.model(
            input_ids=ids_GP, attention_mask=mask_GP, position_ids=positions_GP, use_cache=True, logits_to_keep=1
        )
    valid_GA = torch.stack([vocabulary.valid_positions(p.num_sentences) for p in prompts])
    log_probs_GA = vocabulary.position_log_probs(output.logits[:, -1], valid_GA.to(policy.device), sampling.temperature)
    position_N, log_prob_N = _draw(log_probs_GA[group_N], greedy_N, sampling, generator)
    layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
    make_cache = StaticSharedPromptCache if policy.settings.compile else SharedPromptCache
    cache = make_cache(layers, mask_GP, group_N, policy.settings.max_new_tokens)
    return _Start(position_N, log_prob_N, greedy_N, mask_GP.sum(-1)[group_N], cache)


def _decode(
    policy: Policy, start: _Start, sampling: Sampling, generator: torch.Generator
) -> tuple[list[list[int]], list[list[float]]]:
    """Each row's sentence tokens and their log-probabilities; a no-op has none."""
    vocabulary, cache = policy.vocabulary, start.cache
    rows = len(start.position_N)
    tokens: list[list[int]] = [[] for _ in range(rows)]
    log_probs: list[list[float]] = [[] for _ in range(rows)]
    forward = policy.decoding_step
    index_M = torch.arange(rows, device=policy.device)
    token_M = start.position_N + vocabulary.first_position_id
    alive_M = start.position_N != noop_position(vocabulary.window)
    # The attention asks the cache; a mask of four dimensions keeps the model from making one.
    no_mask = torch.zeros(1, 1, 1, 1, device=policy.device)
    for step in range(policy.settings.max_new_tokens):
        if not alive_M.any():
            break
        if not policy.settings.compile and not alive_M.all():
            keep_M = alive_M.nonzero().squeeze(-1)
            cache.select(keep_M)
            index_M, token_M, alive_M = index_M[keep_M], token_M[keep_M], alive_M[keep_M]
        cache.advance()
        with policy.autocast():
            output = forward(
                input_ids=token_M[:, None],
                attention_mask=no_mask,
                position_ids=start.prompt_length_N[index_M, None] + step,
                use_cache=False,
                shared_prompt=cache,
            )
        logits_MV = vocabulary.word_logits(output.logits[:, -1], sampling.temperature)
        # Rows that have ended, which only a compiled step keeps, use no random numbers either.
        token_M, log_prob_M = _draw(logits_MV, start.greedy_N[index_M] | ~alive_M, sampling, generator)
        drawn = zip(index_M.tolist(), alive_M.tolist(), token_M.tolist(), log_prob_M.tolist(), strict=True)
        for row, is_alive, token, value in drawn:
            if is_alive:
                tokens[row].append(token)
                log_probs[row].append(value)
        alive_M = alive_M & (token_M != vocabulary.end_id)
    return tokens, log_probs


def _draw(
    logits_NV: torch.Tensor, greedy_N: torch.Tensor, sampling: Sampling, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    return draw(logits_NV, greedy_N, top_p=sampling.top_p, top_k=sampling.top_k, generator=generator)


def _pad_left(
    prompts: Sequence[Sequence[int]], width: int, pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    ids_GP = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])
    mask_GP = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids_GP.to(device), mask_GP.to(device)
