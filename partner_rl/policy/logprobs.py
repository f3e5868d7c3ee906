"""Log-probabilities of given actions, one row a group: `[prompt | a_1 | a_2 | … | a_K]`.

Every action sees the prompt and itself, never another action; position ids restart after the prompt. The prompt is
computed once for its `K` actions, so that a group costs `P + ΣT` tokens instead of `K·P + ΣT`. The last prompt token is
stored once and predicts all `K` positions.

Axes: `G` group, `K` action of a group, `T` token of an action (0 is the position), `P` prompt token, `C` packed action
column, `L = P + C`, `A` position, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from partner_rl.policy.actions import ActionTokens
from partner_rl.policy.vocabulary import ActionVocabulary


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """A prompt and the actions taken on it.

    Attributes:
        num_sentences: Sentences in the window, which decide the valid positions.
        actions: The actions, at least one.
        kept: For each action and token the words that truncated sampling left to draw from; None without truncation.
    """

    prompt: tuple[int, ...]
    num_sentences: int
    actions: tuple[ActionTokens, ...]
    kept: tuple[tuple[tuple[int, ...], ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Groups as tensors, each with the group as its first axis.

    Attributes:
        prompt_GP: Prompt ids, padded on the left.
        prompt_mask_GP: True on prompt tokens.
        valid_GA: Valid positions.
        position_GK: Chosen positions; -1 where a group has fewer actions.
        input_GC: Packed inputs: each action's position token, then its tokens but the last.
        target_GC: The token that follows each input.
        action_GC: Which action a column belongs to; -1 on padding.
        step_GC: Place of the column within its action.
        kept_GCW: The `W` words among which each target was drawn, padded with -1; None for all words.
    """

    prompt_GP: torch.Tensor
    prompt_mask_GP: torch.Tensor
    valid_GA: torch.Tensor
    position_GK: torch.Tensor
    input_GC: torch.Tensor
    target_GC: torch.Tensor
    action_GC: torch.Tensor
    step_GC: torch.Tensor
    kept_GCW: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch on another device."""
        present = {f.name: tensor for f in fields(self) if (tensor := getattr(self, f.name)) is not None}
        return PackedBatch(**{name: tensor.to(device) for name, tensor in present.items()})


@dataclass(frozen=True, slots=True)
class ActionLogprobs:
    """What the policy makes of given actions.

    Attributes:
        logprobs_GKT: Log-probability of the position (`T` = 0) and of each token; 0 on padding.
        mask_GKT: True on positions and tokens that exist.
        position_entropy_G: Entropy of the position distribution, in nats.
        divergence_GKT: KL divergence of each decision's whole distribution from a reference's, in nats; None unless
            there is one to compare with.
    """

    logprobs_GKT: torch.Tensor
    mask_GKT: torch.Tensor
    position_entropy_G: torch.Tensor
    divergence_GKT: torch.Tensor | None = None


def pack_groups(groups: Sequence[PromptGroup], vocabulary: ActionVocabulary, pad_id: int) -> PackedBatch:
    """Packs groups into tensors on the CPU.

    Raises:
        ValueError: There is no group, or a group without actions.
    """
    if not groups or any(not g.actions for g in groups):
        raise ValueError("every batch needs a group and every group an action")
    rows = [_pack_actions(g.actions, vocabulary) for g in groups]
    prompt_width = max(len(g.prompt) for g in groups)
    columns = max(1, max(len(row) for row in rows))
    samples = max(len(g.actions) for g in groups)

    def column(index: int, fill: int) -> torch.Tensor:
        return torch.tensor([[c[index] for c in row] + [fill] * (columns - len(row)) for row in rows])

    return PackedBatch(
        prompt_GP=torch.tensor([[pad_id] * (prompt_width - len(g.prompt)) + list(g.prompt) for g in groups]),
        prompt_mask_GP=torch.tensor([[i >= prompt_width - len(g.prompt) for i in range(prompt_width)] for g in groups]),
        valid_GA=torch.stack([vocabulary.valid_positions(g.num_sentences) for g in groups]),
        position_GK=torch.tensor([[a.position for a in g.actions] + [-1] * (samples - len(g.actions)) for g in groups]),
        input_GC=column(0, pad_id),
        target_GC=column(1, 0),
        action_GC=column(2, -1),
        step_GC=column(3, 0),
        kept_GCW=_pack_kept(groups, columns),
    )


def _pack_kept(groups: Sequence[PromptGroup], columns: int) -> torch.Tensor | None:
    """The kept words of each packed column; None where no group was sampled with truncation."""
    if all(g.kept is None for g in groups):
        return None
    if any(g.kept is None for g in groups):
        raise ValueError("either all groups of a batch were sampled with truncation or none")
    rows = [[words for action in g.kept or () for words in action] for g in groups]
    width = max((len(words) for row in rows for words in row), default=1)
    kept_GCW = torch.full((len(groups), columns, max(1, width)), -1)
    for g, row in enumerate(rows):
        for c, words in enumerate(row):
            kept_GCW[g, c, : len(words)] = torch.tensor(words)
    return kept_GCW


def _pack_actions(actions: Sequence[ActionTokens], vocabulary: ActionVocabulary) -> list[tuple[int, int, int, int]]:
    """Columns `(input, target, action, step)` of a group."""
    packed = []
    for index, action in enumerate(actions):
        inputs = (vocabulary.first_position_id + action.position, *action.tokens[:-1])
        packed += [
            (token, target, index, step)
            for step, (token, target) in enumerate(zip(inputs, action.tokens, strict=False))
        ]
    return packed


def action_logprobs(
    model: Any,
    packed: PackedBatch,
    vocabulary: ActionVocabulary,
    temperature: float,
    *,
    flex: bool = False,
    reference_logits: torch.Tensor | None = None,
) -> ActionLogprobs:
    """Log-probabilities of the packed actions under the model, differentiable.

    Args:
        model: A causal language model with a dense attention over all tokens.
        packed: The groups, on the model's device.
        vocabulary: The action vocabulary.
        temperature: The temperature that the actions were sampled with.
        flex: Attend by FlexAttention, which leaves out blocks of the mask in which nothing attends to anything.
        reference_logits: `action_logits` of a reference, to compare whole distributions with; None compares nothing.
    """
    logits = action_logits(model, packed, flex=flex)
    result = logprobs_of(logits, packed, vocabulary, temperature)
    if reference_logits is None:
        return result
    return replace(result, divergence_GKT=_divergence(logits, reference_logits, packed, vocabulary, temperature))


def action_logits(model: Any, packed: PackedBatch, *, flex: bool = False) -> torch.Tensor:
    """Logits `[G, 1 + C, V]` at the last prompt token, which predicts the positions, and at each packed column."""
    columns = packed.input_GC.shape[1]
    mask_dtype = next(model.parameters()).dtype
    attention: dict[str, Any] = (
        {"attention_mask": _no_mask(packed), "block_mask": block_mask(packed)}
        if flex
        else {"attention_mask": _attention_mask(packed, mask_dtype)}
    )
    logits: torch.Tensor = model(
        input_ids=torch.cat([packed.prompt_GP, packed.input_GC], 1),
        position_ids=_position_ids(packed),
        use_cache=False,
        logits_to_keep=columns + 1,
        **attention,
    ).logits
    assert logits.shape[1] == columns + 1, (logits.shape, columns)
    return logits


def logprobs_of(
    logits: torch.Tensor, packed: PackedBatch, vocabulary: ActionVocabulary, temperature: float
) -> ActionLogprobs:
    """The packed actions' log-probabilities, from the logits of `action_logits`.

    Where truncated sampling left some words only, these alone share the probability.
    """
    log_positions_GA = vocabulary.position_logprobs(logits[:, 0], packed.valid_GA, temperature)
    chosen_GK = log_positions_GA.gather(1, packed.position_GK.clamp(min=0))
    if packed.kept_GCW is None:
        targets_GC = target_logprobs(logits[:, 1:], packed.target_GC, vocabulary, temperature)
    else:
        kept_GCW = _kept_logprobs(logits[:, 1:], packed.kept_GCW, temperature)
        is_target_GCW = packed.kept_GCW == packed.target_GC[:, :, None]
        targets_GC = torch.where(is_target_GCW, kept_GCW, 0.0).sum(2)
    mask_GK = packed.position_GK >= 0
    entropy_G = -(log_positions_GA.exp() * log_positions_GA.masked_fill(~packed.valid_GA, 0.0)).sum(1)
    words_mask_GKT = _by_action(packed, packed.action_GC >= 0)
    return ActionLogprobs(
        logprobs_GKT=torch.cat([chosen_GK.masked_fill(~mask_GK, 0.0)[:, :, None], _by_action(packed, targets_GC)], 2),
        mask_GKT=torch.cat([mask_GK[:, :, None], words_mask_GKT], 2),
        position_entropy_G=entropy_G,
    )


def _kept_logprobs(logits_GCV: torch.Tensor, kept_GCW: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities `[G, C, W]` of the kept words, among which they sum to 1; 0 on padding."""
    exists_GCW = kept_GCW >= 0
    kept_logits_GCW = logits_GCV.gather(2, kept_GCW.clamp(min=0)).float() / temperature
    # A column without any word is padding; it must not be a softmax over nothing.
    is_used_GC1 = exists_GCW.any(2, keepdim=True)
    held = kept_logits_GCW.masked_fill(~exists_GCW & is_used_GC1, float("-inf"))
    return torch.where(exists_GCW, held.log_softmax(2), 0.0)


def _divergence(
    logits: torch.Tensor,
    reference_logits: torch.Tensor,
    packed: PackedBatch,
    vocabulary: ActionVocabulary,
    temperature: float,
) -> torch.Tensor:
    """KL(policy ‖ reference) of each decision's whole distribution, in nats, `[G, K, T]`; differentiable."""
    ours_GA, theirs_GA = (
        vocabulary.position_logprobs(each[:, 0], packed.valid_GA, temperature) for each in (logits, reference_logits)
    )
    samples = packed.position_GK.shape[1]
    positions_GK = _kl(ours_GA, theirs_GA)[:, None].expand(-1, samples)
    theirs = vocabulary.word_logits(reference_logits[:, 1:], temperature).log_softmax(-1)
    if packed.kept_GCW is None:
        words_GC = _kl(vocabulary.word_logits(logits[:, 1:], temperature).log_softmax(-1), theirs)
    else:
        ours = _kept_logprobs(logits[:, 1:], packed.kept_GCW, temperature)
        exists_GCW = packed.kept_GCW >= 0
        kept_theirs = theirs.gather(2, packed.kept_GCW.clamp(min=0))
        words_GC = torch.where(exists_GCW, ours.exp() * (ours - kept_theirs), 0.0).sum(2)
    return torch.cat([positions_GK[:, :, None], _by_action(packed, words_GC)], 2)


def _kl(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    # Where both are -inf nothing can happen, and the difference is NaN.
    exists = ours > float("-inf")
    return torch.where(exists, ours.exp() * torch.where(exists, ours - theirs, 0.0), 0.0).sum(-1)


def target_logprobs(
    logits_GCV: torch.Tensor, target_GC: torch.Tensor, vocabulary: ActionVocabulary, temperature: float
) -> torch.Tensor:
    """Log-probability `[G, C]` of one word a column, differentiable, without keeping a copy of the logits.

    Args:
        logits_GCV: Logits over the whole vocabulary, position tokens included.
        target_GC: The words.
        vocabulary: Which words a sentence may hold.
        temperature: The temperature of the distribution.
    """
    words_GCV = logits_GCV[..., : vocabulary.first_position_id]
    logprobs_GC: torch.Tensor = _TargetLogprobs.apply(  # type: ignore[no-untyped-call]
        words_GCV, target_GC, vocabulary.banned_ids, temperature
    )
    return logprobs_GC


class _TargetLogprobs(torch.autograd.Function):
    """Log-probability of one target a column, without keeping a copy of the logits.

    The logits of a packed batch are its largest tensor by far; autograd's own chain of scaling, masking and logsumexp
    would keep three more of the same size.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_GCV: torch.Tensor, target_GC: torch.Tensor, banned: list[int], temperature: float
    ) -> torch.Tensor:
        """Log-probabilities `[G, C]` under the scaled distribution over the words that are not banned."""
        normalizer_GC = _log_normalizer(_scaled(logits_GCV, banned, temperature))
        chosen_GC = logits_GCV.gather(2, target_GC[:, :, None]).squeeze(2).float() / temperature
        ctx.save_for_backward(logits_GCV, target_GC, normalizer_GC)
        ctx.banned, ctx.temperature = banned, temperature
        return chosen_GC - normalizer_GC

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """`(one-hot target − softmax) · gradient / temperature`."""
        (gradient_GC,) = gradients
        logits_GCV, target_GC, normalizer_GC = ctx.saved_tensors
        result = _scaled(logits_GCV, ctx.banned, ctx.temperature)
        factor_GC1 = gradient_GC[:, :, None].float() / ctx.temperature
        result.sub_(normalizer_GC[:, :, None]).exp_().mul_(-factor_GC1)
        result.scatter_add_(2, target_GC[:, :, None], factor_GC1)
        return result.to(logits_GCV.dtype), None, None, None


def _scaled(logits_GCV: torch.Tensor, banned: list[int], temperature: float) -> torch.Tensor:
    """A float32 copy of the logits, scaled, with banned words at -inf."""
    scaled = logits_GCV.float() / temperature
    scaled[..., banned] = float("-inf")
    return scaled


def _log_normalizer(scaled_GCV: torch.Tensor) -> torch.Tensor:
    """`logsumexp` over the words, `[G, C]`, in place: many times as fast on a CPU, and without a tensor of its own."""
    largest_GC1 = scaled_GCV.amax(2, keepdim=True)
    total_GC: torch.Tensor = scaled_GCV.sub_(largest_GC1).exp_().sum(2)
    return total_GC.log() + largest_GC1.squeeze(2)


def _segments(packed: PackedBatch) -> torch.Tensor:
    """What each of the `L` columns is part of, `[G, L]`: 0 is the prompt, 1…K are the actions, -1 is padding."""
    prompt_segment_GP = packed.prompt_mask_GP.long() - 1
    action_segment_GC = torch.where(packed.action_GC >= 0, packed.action_GC + 1, -1)
    return torch.cat([prompt_segment_GP, action_segment_GC], 1)


def _attention_mask(packed: PackedBatch, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask `[G, 1, L, L]`: the prompt is causal; an action sees the prompt and its own earlier columns."""
    groups = packed.prompt_GP.shape[0]
    segment_GL = _segments(packed)
    length = segment_GL.shape[1]
    key, query = segment_GL[:, None, :], segment_GL[:, :, None]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_GL.device).tril()
    allowed = causal & (key >= 0) & ((key == 0) | (key == query))
    # Padding attends to itself: a row without any key would be NaN.
    allowed |= torch.eye(length, dtype=torch.bool, device=segment_GL.device)
    mask = torch.zeros(groups, 1, length, length, dtype=dtype, device=segment_GL.device)
    return mask.masked_fill(~allowed[:, None], torch.finfo(dtype).min)


def block_mask(packed: PackedBatch) -> BlockMask:
    """The mask of `_attention_mask` as FlexAttention reads it: by blocks, none of it stored entry by entry."""
    segment_GL = _segments(packed)
    groups, length = segment_GL.shape

    def allowed(group: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        of_key, of_query = segment_GL[group, key], segment_GL[group, query]
        seen = (key <= query) & (of_key >= 0) & ((of_key == 0) | (of_key == of_query))
        return seen | (key == query)

    return create_block_mask(allowed, groups, None, length, length, device=segment_GL.device)


def _no_mask(packed: PackedBatch) -> torch.Tensor:
    """A mask of four dimensions, which keeps the model from making one; the attention does not look at it."""
    return torch.zeros(1, 1, 1, 1, device=packed.prompt_GP.device)


def _position_ids(packed: PackedBatch) -> torch.Tensor:
    prompt_GP = (packed.prompt_mask_GP.long().cumsum(1) - 1).clamp(min=0)
    length_G1 = packed.prompt_mask_GP.sum(1, keepdim=True)
    return torch.cat([prompt_GP, length_G1 + packed.step_GC], 1)


def _by_action(packed: PackedBatch, values_GC: torch.Tensor) -> torch.Tensor:
    """Values of packed columns as `[G, K, T]`, by action and token; 0 on padding."""
    groups, samples = packed.position_GK.shape
    steps = int(packed.step_GC.max()) + 1
    # Column (action, step) goes to flat place action * steps + step; padding goes to one place past the end.
    place_GC = torch.where(packed.action_GC >= 0, packed.action_GC * steps + packed.step_GC, samples * steps)
    flat = values_GC.new_zeros(groups, samples * steps + 1).scatter(1, place_GC, values_GC)
    return flat[:, :-1].view(groups, samples, steps)
