"""Sampling: each prompt is computed once and decoded for all rows that start from it; a row leaves when it ends.

Axes: `G` prompt, `P` prompt token, `N` row, `M` row that is still decoded, `A` position, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from partner_rl.policy.actions import ActionTokens
from partner_rl.policy.model import Policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.policy.sampling import SampledTokens, sample_tokens
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
        top_p: Draw a sentence's tokens from the smallest set that holds this share of the probability.
        top_k: Draw them from this many likeliest ones; 0 for all. The position is never truncated.
        likeliest: Take the likeliest position and at each step the likeliest token instead of drawing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    likeliest: bool = False

    @property
    def truncates(self) -> bool:
        """Whether tokens are drawn from some of the words only."""
        return self.top_k > 0 or self.top_p < 1.0

    @classmethod
    def greedy(cls) -> Sampling:
        """The likeliest position and at each step the likeliest token."""
        return cls(likeliest=True)


@dataclass(frozen=True, slots=True)
class SampledAction:
    """An action and how likely it was.

    Attributes:
        logprobs: Log-probability of the position, then of each token, in the distribution that it was drawn from.
        kept: For each token the words that top-k and top-p left to draw from; None without truncation.
    """

    action: ActionTokens
    logprobs: tuple[float, ...]
    kept: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class PromptRows:
    """A prompt and what is asked of it.

    Attributes:
        num_sentences: Sentences in the window, which decide the valid positions.
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

    Returns:
        `G` lists: the drawn actions, then the likeliest one where it is asked for.
    """
    if not prompts:
        return []
    rows = [
        (g, sampling.likeliest or k == p.samples) for g, p in enumerate(prompts) for k in range(p.samples + p.greedy)
    ]
    group_N, greedy_N = torch.tensor(rows, device=policy.device).unbind(1)
    start = _start(policy, prompts, group_N, greedy_N.bool(), sampling, generator)
    sentences = _decode(policy, start, sampling, generator)
    samples: list[list[SampledAction]] = [[] for _ in prompts]
    positions = zip(start.position_N.tolist(), start.logprob_N.tolist(), strict=True)
    for (g, is_greedy), (position, value), sentence in zip(rows, positions, sentences, strict=True):
        action = ActionTokens(position, tuple(sentence.tokens))
        kept = tuple(sentence.kept) if sampling.truncates and not is_greedy else None
        samples[g].append(SampledAction(action, (value, *sentence.logprobs), kept))
    return samples


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A row's tokens so far, their log-probabilities and what they were drawn from."""

    tokens: list[int]
    logprobs: list[float]
    kept: list[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Start:
    """Rows after the prompts: their positions, and what they are decoded from."""

    position_N: torch.Tensor
    logprob_N: torch.Tensor
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
    logprobs_GA = vocabulary.position_logprobs(output.logits[:, -1], valid_GA.to(policy.device), sampling.temperature)
    drawn = sample_tokens(logprobs_GA[group_N], greedy_N, generator=generator)
    layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
    make_cache = StaticSharedPromptCache if policy.settings.compile else SharedPromptCache
    cache = make_cache(layers, mask_GP, group_N, policy.settings.max_new_tokens)
    return _Start(drawn.tokens_N, drawn.logprobs_N, greedy_N, mask_GP.sum(-1)[group_N], cache)


def _decode(policy: Policy, start: _Start, sampling: Sampling, generator: torch.Generator) -> list[_Sentence]:
    """Each row's sentence; a no-op has no tokens."""
    vocabulary, cache = policy.vocabulary, start.cache
    rows = len(start.position_N)
    sentences = [_Sentence([], [], []) for _ in range(rows)]
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
        drawn = sample_tokens(
            logits_MV,
            start.greedy_N[index_M] | ~alive_M,
            generator=generator,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
        )
        token_M = drawn.tokens_N
        _append(drawn, [sentences[row] for row in index_M.tolist()], alive_M)
        alive_M = alive_M & (token_M != vocabulary.end_id)
    return sentences


def _append(drawn: SampledTokens, sentences: Sequence[_Sentence], alive_M: torch.Tensor) -> None:
    """Adds what was drawn to the sentences that have not ended."""
    kept = [[]] * len(sentences) if drawn.kept_NW is None else drawn.kept_NW.tolist()
    values = zip(alive_M.tolist(), drawn.tokens_N.tolist(), drawn.logprobs_N.tolist(), kept, strict=True)
    for sentence, (is_alive, token, logprob, words) in zip(sentences, values, strict=True):
        if is_alive:
            sentence.tokens.append(token)
            sentence.logprobs.append(logprob)
            sentence.kept.append(tuple(word for word in words if word >= 0))


def _pad_left(
    prompts: Sequence[Sequence[int]], width: int, pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    ids_GP = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])
    mask_GP = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids_GP.to(device), mask_GP.to(device)
