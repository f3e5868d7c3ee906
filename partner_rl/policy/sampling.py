"""Drawing words: from logits to a word and its log-probability, in few passes over the vocabulary.

`logsumexp`, `multinomial` and a cumulative sum over 50,000 words each take longer than a layer of a small model. One
exponential and one sum by chunks of words are enough: the distribution is inverted first over chunks, then in one.

With top-k or top-p the words that were kept are told too: whoever trains on a word must know among which ones it was
drawn, and logits that differ in their last digits would keep others.

Axes: `N` row, `V` word, `W` word kept by top-k, `C` chunk of words, `X` word of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from partner_rl.types import PartnerError

CHUNK = 512
"""Words whose weights are added up before the distribution is inverted."""


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """What was drawn for each row.

    Attributes:
        logprobs_N: Their log-probabilities in the distribution that they were drawn from, in nats.
        kept_NW: The words that top-k and top-p left, the likeliest first, padded with -1; None without truncation.
    """

    tokens_N: torch.Tensor
    logprobs_N: torch.Tensor
    kept_NW: torch.Tensor | None = None


def sample_tokens(
    logits_NV: torch.Tensor,
    greedy_N: torch.Tensor,
    *,
    generator: torch.Generator,
    top_p: float = 1.0,
    top_k: int = 0,
) -> SampledTokens:
    """Draws a word for each row.

    Args:
        logits_NV: Scaled float32 logits, -inf where banned.
        greedy_N: True for rows that take their likeliest word; they use no random number, so that what stands beside
            them draws the same as without them, and their log-probability is that of the whole distribution.
        generator: Source of randomness, on the logits' device.
        top_p: The other rows draw from the smallest set of words that holds this share of the probability.
        top_k: And from this many likeliest words; 0 for all.

    Raises:
        PartnerError: A row's logits are no distribution: one is NaN or infinite, or all are banned.
    """
    shift_N1, likeliest_N1 = logits_NV.max(1, keepdim=True)
    weights_NV = (logits_NV - shift_N1).exp_()
    sums_NC = _chunk_sums(weights_NV)
    total_N1, kept_NW = sums_NC.sum(1, keepdim=True), None
    if not total_N1.isfinite().all():
        raise PartnerError(
            "the policy has diverged: its logits are not finite numbers; lower algorithm.learning_rate (after a warm "
            "start alone warmstart.learning_rate) and go back to an earlier checkpoint"
        )
    drawing_N = ~greedy_N
    uniform_N1 = torch.zeros(len(logits_NV), 1, device=logits_NV.device, dtype=torch.float64)
    uniform_N1[drawing_N] = torch.rand(
        int(drawing_N.sum()), 1, generator=generator, device=logits_NV.device, dtype=torch.float64
    )
    if top_k == 0 and top_p >= 1.0:
        drawn_N1 = _invert_by_chunks(weights_NV, sums_NC, uniform_N1)
    else:
        kept_NW, mass_NW = _kept(weights_NV, top_p, top_k)
        cumulative_NW = mass_NW.cumsum(1)
        drawn_N1 = kept_NW.gather(1, _first_above(cumulative_NW, uniform_N1 * cumulative_NW[:, -1:]))
        total_N1 = torch.where(greedy_N[:, None], total_N1, cumulative_NW[:, -1:])
    chosen_N1 = torch.where(greedy_N[:, None], likeliest_N1, drawn_N1)
    logprob_N1 = (logits_NV.gather(1, chosen_N1) - shift_N1).double() - total_N1.log()
    return SampledTokens(chosen_N1.squeeze(1), logprob_N1.squeeze(1).float(), kept_NW)


def _chunk_sums(weights_NV: torch.Tensor) -> torch.Tensor:
    """Sums over each `CHUNK` words, the last over what is left; float64 `[N, C]`."""
    words = weights_NV.shape[1]
    whole = words // CHUNK * CHUNK
    # In float32 within a chunk: a sum in double would first copy the weights.
    sums = weights_NV[:, :whole].view(len(weights_NV), whole // CHUNK, CHUNK).sum(2)
    if whole < words:
        sums = torch.cat([sums, weights_NV[:, whole:].sum(1, keepdim=True)], 1)
    return sums.double()


def _invert_by_chunks(weights_NV: torch.Tensor, sums_NC: torch.Tensor, uniform_N1: torch.Tensor) -> torch.Tensor:
    """The word at which the cumulative distribution passes a uniform number: its chunk, then the word in the chunk."""
    cumulative_NC = sums_NC.cumsum(1)
    mass_N1 = uniform_N1 * cumulative_NC[:, -1:]
    chunk_N1 = _first_above(cumulative_NC, mass_N1)
    before_N1 = (cumulative_NC - sums_NC).gather(1, chunk_N1)
    words = weights_NV.shape[1]
    index_NX = chunk_N1 * CHUNK + torch.arange(CHUNK, device=weights_NV.device)
    inside_NX = weights_NV.gather(1, index_NX.clamp(max=words - 1)).double().masked_fill_(index_NX >= words, 0.0)
    return chunk_N1 * CHUNK + _first_above(inside_NX.cumsum(1), mass_N1 - before_N1)


def _kept(weights_NV: torch.Tensor, top_p: float, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The words that top-k, then top-p leave, the likeliest first, and their weights in float64; -1 and 0 elsewhere."""
    words = weights_NV.shape[1]
    top_NW, index_NW = weights_NV.topk(min(top_k or words, words), 1)
    mass_NW = top_NW.double()
    share_NW = mass_NW / mass_NW.sum(1, keepdim=True)
    # A word stays if the mass before it is still below top_p: the likeliest one always does. Banned ones have no mass.
    stays_NW = (share_NW.cumsum(1) - share_NW < top_p) & (mass_NW > 0)
    width = int(stays_NW.sum(1).max())
    return index_NW.masked_fill(~stays_NW, -1)[:, :width], mass_NW.masked_fill(~stays_NW, 0.0)[:, :width]


def _first_above(cumulative_NX: torch.Tensor, mass_N1: torch.Tensor) -> torch.Tensor:
    """The first place whose cumulative weight is above a mass; never one of weight 0."""
    # Rounding must not carry the mass past an end of the distribution, where words without weight may stand.
    below_N1 = torch.nextafter(cumulative_NX[:, -1:], torch.zeros_like(mass_N1))
    return torch.searchsorted(cumulative_NX, torch.minimum(mass_N1.clamp(min=0.0), below_N1), right=True)
