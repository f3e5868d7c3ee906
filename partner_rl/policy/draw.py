"""Drawing words: from logits to a word and its log-probability, in few passes over the vocabulary.

`logsumexp`, `multinomial` and a cumulative sum over 50,000 words each take longer than a layer of a small model. One
exponential and one sum by chunks of words are enough: the distribution is inverted first over chunks, then in one.

Axes: `N` row, `V` word, `W` word kept by top-k, `C` chunk of words, `X` word of a chunk.
"""

from __future__ import annotations

import torch

CHUNK = 512
"""Words whose weights are added up before the distribution is inverted."""


def draw(
    logits_NV: torch.Tensor, greedy_N: torch.Tensor, *, top_p: float, top_k: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws a word for each row.

    Args:
        logits_NV: Scaled float32 logits, -inf where banned.
        greedy_N: True for rows that take their likeliest word; they use no random number, so that what stands beside
            them draws the same as without them.
        top_p: The other rows draw from the smallest set of words that holds this share of the probability.
        top_k: And from this many likeliest words; 0 for all.
        generator: Source of randomness, on the logits' device.

    Returns:
        The words, and their log-probabilities before truncation by top-p and top-k, in nats; each `[N]`.
    """
    shift_N1, likeliest_N1 = logits_NV.max(1, keepdim=True)
    weights_NV = (logits_NV - shift_N1).exp_()
    sums_NC = _chunk_sums(weights_NV)
    drawing_N = ~greedy_N
    uniform_N1 = torch.zeros(len(logits_NV), 1, device=logits_NV.device, dtype=torch.float64)
    uniform_N1[drawing_N] = torch.rand(
        int(drawing_N.sum()), 1, generator=generator, device=logits_NV.device, dtype=torch.float64
    )
    if top_k == 0 and top_p >= 1.0:
        drawn_N1 = _invert_by_chunks(weights_NV, sums_NC, uniform_N1)
    else:
        drawn_N1 = _invert_truncated(weights_NV, uniform_N1, top_p, top_k)
    chosen_N1 = torch.where(greedy_N[:, None], likeliest_N1, drawn_N1)
    total_N1 = sums_NC.sum(1, keepdim=True)
    log_prob_N1 = (logits_NV.gather(1, chosen_N1) - shift_N1).double() - total_N1.log()
    return chosen_N1.squeeze(1), log_prob_N1.squeeze(1).float()


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


def _invert_truncated(weights_NV: torch.Tensor, uniform_N1: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """As `_invert_by_chunks`, for the distribution truncated by top-k, then top-p."""
    words = weights_NV.shape[1]
    top_NW, index_NW = weights_NV.topk(min(top_k or words, words), 1)
    top_NW = top_NW / top_NW.sum(1, keepdim=True)
    # A word stays if the mass before it is still below top_p: the likeliest one always does.
    top_NW = top_NW.masked_fill(top_NW.cumsum(1) - top_NW >= top_p, 0.0)
    cumulative_NW = top_NW.double().cumsum(1)
    return index_NW.gather(1, _first_above(cumulative_NW, uniform_N1 * cumulative_NW[:, -1:]))


def _first_above(cumulative_NX: torch.Tensor, mass_N1: torch.Tensor) -> torch.Tensor:
    """The first place whose cumulative weight is above a mass; never one of weight 0."""
    # Rounding must not carry the mass past an end of the distribution, where words without weight may stand.
    below_N1 = torch.nextafter(cumulative_NX[:, -1:], torch.zeros_like(mass_N1))
    return torch.searchsorted(cumulative_NX, torch.minimum(mass_N1.clamp(min=0.0), below_N1), right=True)
