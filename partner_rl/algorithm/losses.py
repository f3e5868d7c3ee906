"""Losses as pure functions of log-probabilities.

Axes: `G` group, `K` sample, `T` token of an action (0 is the position).
"""

from __future__ import annotations

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
