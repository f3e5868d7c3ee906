"""Losses as pure functions of log-probabilities.

Axes: `G` group, `K` sample, `T` token of an action (0 is the position).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


def policy_gradient_loss(
    log_probs_GKT: torch.Tensor,
    mask_GKT: torch.Tensor,
    advantages_GK: torch.Tensor,
) -> torch.Tensor:
    """`−Σ A log π(position, sentence | state)`, summed over samples; its gradient is REINFORCE's.

    The log-probability of an action is the sum of the position's and the tokens': nothing is averaged over tokens,
    which would weigh the tokens of short sentences more. The caller divides by the number of episodes.
    """
    joint_GK = (log_probs_GKT * mask_GKT).sum(2)
    return -(advantages_GK * joint_GK).sum()


def kl_divergence(
    log_probs_GKT: torch.Tensor,
    reference_GKT: torch.Tensor,
    mask_GKT: torch.Tensor,
) -> torch.Tensor:
    """The k3 estimate of KL(policy ‖ reference), summed over positions and tokens, in nats (Schulman, 2020).

    `r − 1 − log r` with `r = reference / policy`: never negative, unbiased for samples of the policy.
    """
    # Padding may hold -inf in both, whose difference is NaN; it is zeroed before the exponential.
    log_ratio = torch.where(mask_GKT, reference_GKT - log_probs_GKT, 0.0)
    return (log_ratio.exp() - 1 - log_ratio).sum()


@dataclass(frozen=True, slots=True)
class Surrogate:
    """How samples of an earlier policy are used.

    Attributes:
        ratio: Of policy to sampler: of each `token`, or of the `sequence`, which is the whole action.
        low: Ratios below `1 − low` earn nothing further; None does not clip.
        high: Ratios above `1 + high` earn nothing further; None does not clip.
    """

    ratio: Literal["token", "sequence"] = "token"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class SurrogateLoss:
    """The loss and what the ratios say, as sums, so that micro-batches add up.

    Attributes:
        loss: Summed over samples.
        ratio: Sum of the ratios over units: the tokens, or the actions.
        clipped: Number of units whose gradient was clipped away.
        sampler_kl: k3 estimate of KL(sampler ‖ policy), summed over positions and tokens, in nats.
    """

    loss: torch.Tensor
    ratio: torch.Tensor
    clipped: torch.Tensor
    sampler_kl: torch.Tensor


def surrogate_loss(
    log_probs_GKT: torch.Tensor,
    sampled_GKT: torch.Tensor,
    mask_GKT: torch.Tensor,
    advantages_GK: torch.Tensor,
    surrogate: Surrogate,
) -> SurrogateLoss:
    """`−Σ min(ρ A, clip(ρ, 1 − low, 1 + high) A)` (PPO, Schulman et al., 2017, equation 7).

    With `token`, `ρ` is each token's own ratio. With `sequence`, it is the action's, `exp(mean log ratio of tokens)`,
    and the term counts once for each token (GSPO, Zheng et al., 2025). Either way the gradient is that of
    `policy_gradient_loss` where policy and sampler are the same, and like there nothing is averaged over tokens.
    """
    log_ratio_GKT = torch.where(mask_GKT, log_probs_GKT - sampled_GKT, 0.0)
    if surrogate.ratio == "token":
        ratio, weight = log_ratio_GKT.exp(), mask_GKT
        advantages = advantages_GK[:, :, None].expand_as(ratio)
    else:
        weight = mask_GKT.sum(2)
        ratio, advantages = (log_ratio_GKT.sum(2) / weight.clamp(min=1)).exp(), advantages_GK
    low = None if surrogate.low is None else 1.0 - surrogate.low
    high = None if surrogate.high is None else 1.0 + surrogate.high
    plain = ratio * advantages
    held = plain if low is None and high is None else ratio.clamp(low, high) * advantages
    exists = weight > 0
    with torch.no_grad():
        sampler_kl = (log_ratio_GKT.exp() - 1 - log_ratio_GKT).sum()
    return SurrogateLoss(
        loss=-(torch.minimum(plain, held) * weight).sum(),
        ratio=(ratio.detach() * exists).sum(),
        clipped=((held < plain) & exists).sum(),
        sampler_kl=sampler_kl,
    )
