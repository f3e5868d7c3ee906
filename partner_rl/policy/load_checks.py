"""What must hold of every policy before it samples or trains, whatever its architecture: checked when it is loaded.

Sampling decodes from a shared prompt, the update packs a group's actions behind theirs, and adapters have their
reference in the model itself. An architecture on which one of these computes something else than the plain model would
train on wrong numbers without a sign of it.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from partner_rl.config.schema import PolicyConfig
from partner_rl.models.loading import check_positions
from partner_rl.models.text_tokens import text_ids
from partner_rl.policy.actions import ActionTokens
from partner_rl.policy.logprobs import PromptGroup, action_logprobs, pack_groups
from partner_rl.policy.model import Policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.policy.shared_prompt import SharedPromptCache
from partner_rl.types import PartnerError, RewriteState, first_line

_LARGEST_GAP: Final = 0.05
"""Nats; in float32 the ways agree to 1e-4."""
_ROUGH_GAP: Final = 1.0
"""Nats, where weights are held in fewer bits."""
_STATE: Final = RewriteState("I feel so alone at night.", ("Try tea.",))
_SENTENCES: Final = (" I am so sorry.", " What helps you to rest?")
_TOKENS: Final = 3
"""Of each sentence: on a CPU, every step of decoding reads all weights."""


def check_reach(tokenizer: Any, config: Any, settings: PolicyConfig, window: int) -> None:
    """Checks that the longest prompt and sentence have positions, and see each other from end to end in every layer.

    Raises:
        PartnerError: The model has fewer positions, or attends within a window that is shorter.
    """
    reach = _reach(config.get_text_config())
    # Empty texts are a space here: a token too many each, on the safe side.
    frame = len(encode_prompt(tokenizer, RewriteState("", ("",) * window), settings))
    longest = frame + settings.max_seeker_tokens + window * settings.max_sentence_tokens + settings.max_new_tokens
    lengths = "policy.max_seeker_tokens, policy.max_sentence_tokens, policy.max_new_tokens or env.window"
    check_positions(tokenizer.name_or_path, config, longest, lengths)
    if reach is not None and longest > reach:
        raise PartnerError(
            f"{tokenizer.name_or_path} attends to {reach} tokens at once, but prompt and sentence take up to "
            f"{longest}: lower policy.max_seeker_tokens, policy.max_sentence_tokens or env.window"
        )


def _reach(config: Any) -> int | None:
    """Tokens that a query sees in the layer that sees fewest; None for all."""
    kinds = getattr(config, "layer_types", None)
    sliding = getattr(config, "sliding_window", None) if kinds is None or "sliding_attention" in kinds else None
    chunk = getattr(config, "attention_chunk_size", None) if kinds and "chunked_attention" in kinds else None
    return min((int(size) for size in (sliding, chunk) if size), default=None)


@torch.no_grad()
def check_ways(policy: Policy) -> None:
    """Checks that the ways in which the policy is computed agree, on a few tokens.

    Raises:
        PartnerError: Packed actions, decoding from a shared prompt, or the model without its adapters give other
            log-probabilities than the model does for each action by itself.
    """
    group = _group(policy)
    try:
        plain = _plain(policy, group)
        found = {
            "actions packed behind a shared prompt": _packed(policy, group),
            "decoding from a shared prompt": _decoded(policy, group),
        }
        if policy.settings.lora is not None:
            with policy.adapters_off():
                found["the model without its adapters"] = _packed(policy, group)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise PartnerError(
            f"{_name(policy)} cannot share a prompt ({type(error).__name__}: {first_line(error)}): "
            "choose another models.policy"
        ) from error
    allowed = _LARGEST_GAP if next(policy.model.parameters()).dtype == torch.float32 else _ROUGH_GAP
    for way, values in found.items():
        gap = float((values - plain).abs().max())
        # Also when it is not a number.
        if not gap <= allowed:
            raise PartnerError(
                f"{_name(policy)} is computed wrongly here: {way} gives log-probabilities that are {gap:.2g} nats off "
                "those of the plain model; choose another models.policy"
            )


def _name(policy: Policy) -> str:
    return f"{policy.tokenizer.name_or_path} ({policy.model.config.model_type})"


def _group(policy: Policy) -> PromptGroup:
    """A short prompt with two actions of as many tokens."""
    valid = policy.vocabulary.valid_positions(len(_STATE.span)).nonzero().flatten().tolist()
    words = [text_ids(policy.tokenizer, sentence) for sentence in _SENTENCES]
    length = min(_TOKENS, policy.settings.max_new_tokens, *map(len, words))
    actions = tuple(ActionTokens(p, tuple(w[:length])) for p, w in zip((valid[0], valid[-2]), words, strict=True))
    return PromptGroup(tuple(encode_prompt(policy.tokenizer, _STATE, policy.settings)), len(_STATE.span), actions)


def _plain(policy: Policy, group: PromptGroup) -> torch.Tensor:
    """Log-probabilities `[K, 1 + T]` of each action's position and tokens, by the model as it is."""
    vocabulary = policy.vocabulary
    position_K, token_KT, input_KT = _tensors(policy, group)
    prompt_KP = torch.tensor(group.prompt, device=policy.device).expand(len(group.actions), -1)
    ids_KL = torch.cat([prompt_KP, input_KT], 1)
    logits_KTV = policy.model(input_ids=ids_KL, use_cache=False, logits_to_keep=1 + token_KT.shape[1]).logits
    positions_KA = vocabulary.position_logprobs(logits_KTV[:, 0], _valid(policy, group), 1.0)
    words_KTV = vocabulary.word_logits(logits_KTV[:, 1:], 1.0).log_softmax(-1)
    tokens_KT = words_KTV.gather(2, token_KT[:, :, None]).squeeze(2)
    return torch.cat([positions_KA.gather(1, position_K[:, None]), tokens_KT], 1)


def _valid(policy: Policy, group: PromptGroup) -> torch.Tensor:
    """The valid positions, `[1, A]`."""
    return policy.vocabulary.valid_positions(group.num_sentences)[None].to(policy.device)


def _tensors(policy: Policy, group: PromptGroup) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions `[K]`, tokens `[K, T]`, and what each token follows in its action, `[K, T]`."""
    position_K = torch.tensor([action.position for action in group.actions], device=policy.device)
    token_KT = torch.tensor([action.tokens for action in group.actions], device=policy.device)
    first_K1 = policy.vocabulary.first_position_id + position_K[:, None]
    return position_K, token_KT, torch.cat([first_K1, token_KT[:, :-1]], 1)


def _packed(policy: Policy, group: PromptGroup) -> torch.Tensor:
    """As `_plain`, as the update computes them."""
    packed = pack_groups([group], policy.vocabulary, policy.pad_id).to(policy.device)
    return action_logprobs(policy.model, packed, policy.vocabulary, 1.0).logprobs_GKT[0]


def _decoded(policy: Policy, group: PromptGroup) -> torch.Tensor:
    """As `_plain`, as sampling computes them."""
    vocabulary = policy.vocabulary
    position_K, token_KT, input_KT = _tensors(policy, group)
    rows, steps = token_KT.shape
    prompt_1P = torch.tensor([group.prompt], device=policy.device)
    output = policy.model(input_ids=prompt_1P, use_cache=True, logits_to_keep=1)
    positions_A = vocabulary.position_logprobs(output.logits[:, -1], _valid(policy, group), 1.0)[0]
    layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
    cache = SharedPromptCache(layers, torch.ones_like(prompt_1P), torch.zeros_like(position_K), steps)
    columns = [positions_A[position_K]]
    for step in range(steps):
        cache.advance()
        logits_KV = policy.model(
            input_ids=input_KT[:, step, None],
            # Of four dimensions, so that the model makes none; the attention asks the cache.
            attention_mask=torch.zeros(1, 1, 1, 1, device=policy.device),
            position_ids=torch.full((rows, 1), len(group.prompt) + step, device=policy.device),
            use_cache=False,
            shared_prompt=cache,
        ).logits[:, -1]
        words_KV = vocabulary.word_logits(logits_KV, 1.0).log_softmax(-1)
        columns.append(words_KV.gather(1, token_KT[:, step, None]).squeeze(1))
    return torch.stack(columns, 1)
