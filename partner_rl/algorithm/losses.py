"""Losses as pure functions of log-probabilities.

Axes: `G` group, `K` sample, `T` token of an action (0 is the position).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch

KlGradient = Literal["k2", "sequence", "exact"]
"""How the gradient of the KL penalty is estimated: see `kl_penalty`."""

MAX_IMPORTANCE_RATIO: Final = 2.0
"""Importance weights that correct for rounding are cut off here (truncated importance sampling, Ionides, 2008)."""
MAX_KL_RATIO: Final = 10.0
"""Importance ratios of the KL penalty, which are those of whole prefixes, are cut off here."""


def policy_gradient_loss(
    logprobs_GKT: torch.Tensor,
    mask_GKT: torch.Tensor,
    advantages_GK: torch.Tensor,
    weights_GKT: torch.Tensor | None = None,
) -> torch.Tensor:
    """`−Σ A log π(position, sentence | state)`, summed over samples; its gradient is REINFORCE's.

    The log-probability of an action is the sum of the position's and the tokens': nothing is averaged over tokens,
    which would weigh the tokens of short sentences more. The caller divides by the number of episodes.

    Args:
        logprobs_GKT: Log-probabilities, in nats.
        mask_GKT: True on positions and tokens that exist.
        advantages_GK: Advantages of the actions.
        weights_GKT: Weights of the tokens, without gradient, such as `rounding_weights`; None weighs them alike.
    """
    terms_GKT = logprobs_GKT * mask_GKT
    if weights_GKT is not None:
        terms_GKT = terms_GKT * weights_GKT
    return -(advantages_GK * terms_GKT.sum(2)).sum()


@torch.no_grad()
def rounding_weights(
    logprobs_GKT: torch.Tensor, sampled_GKT: torch.Tensor, mask_GKT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Truncated importance weights for samples of the same weights in another rounding (Yao et al., 2025).

    In bfloat16 a sampler and a learner with equal weights still differ, since they add up in another order. The weight
    `min(π/sampler, MAX_IMPORTANCE_RATIO)` of each token corrects for that.

    Returns:
        The weights `[G, K, T]`, and the number of tokens whose weight was cut off.
    """
    ratio_GKT = torch.where(mask_GKT, logprobs_GKT - sampled_GKT, 0.0).exp()
    return ratio_GKT.clamp(max=MAX_IMPORTANCE_RATIO), (ratio_GKT > MAX_IMPORTANCE_RATIO).sum()


def kl_estimate(
    logprobs_GKT: torch.Tensor,
    reference_GKT: torch.Tensor,
    mask_GKT: torch.Tensor,
    kept_reference_GKT: torch.Tensor | None = None,
    sampled_GKT: torch.Tensor | None = None,
) -> torch.Tensor:
    """An estimate of KL(policy ‖ reference), summed over positions and tokens, in nats; for logs, not for gradients.

    k3, `r − 1 − log r` with `r = reference / policy` (Schulman, 2020): never negative, and unbiased for samples of the
    policy. The gradient of its value is that of KL(reference ‖ policy), which hardly holds a policy that has left the
    reference: `kl_penalty` is what is trained on.

    A truncated policy draws from some words only, among which `r` no longer has the mean 1. Its divergence is that from
    the reference among these words, less the logarithm of the reference's mass on them.

    Args:
        logprobs_GKT: Log-probabilities of the sampled actions under the policy.
        reference_GKT: And under the reference.
        mask_GKT: True on positions and tokens that exist.
        kept_reference_GKT: And under the reference among the words that truncation left; None without truncation.
        sampled_GKT: And under the policy that sampled, where it is an earlier one: each token is then weighed by its
            importance ratio, without which words that the policy has left would count exponentially.
    """
    among_GKT = reference_GKT if kept_reference_GKT is None else kept_reference_GKT
    log_ratio = _log_ratio(among_GKT, logprobs_GKT, mask_GKT)
    minus_log_mass = _log_ratio(among_GKT, reference_GKT, mask_GKT)
    terms_GKT = log_ratio.exp() - 1 - log_ratio + minus_log_mass
    if sampled_GKT is not None:
        terms_GKT = terms_GKT * _log_ratio(logprobs_GKT, sampled_GKT, mask_GKT).exp()
    return terms_GKT.sum()


def kl_penalty(
    logprobs_GKT: torch.Tensor,
    reference_GKT: torch.Tensor,
    mask_GKT: torch.Tensor,
    form: KlGradient,
    *,
    exact_GKT: torch.Tensor | None = None,
    sampled_GKT: torch.Tensor | None = None,
) -> torch.Tensor:
    """A loss whose gradient estimates that of `Σ KL(policy ‖ reference)` of the actions; its value means nothing.

    With `d = log π − log reference`:

    - `k2` is `½ Σ d²` of each token: its gradient is `Σ_t d_t ∇ log π_t`, in expectation that of each token's own
      divergence. What a token does to the divergence of those after it is left out, which saves most of the noise.
    - `sequence` is `(d of the action − mean d of the group's other actions) · log π(action)`, the score function with
      a leave-one-out baseline: the gradient of the action's divergence, whole and unbiased, and the noisiest.
    - `exact` is each token's divergence over the whole vocabulary, plus the score function of what follows it (again
      with a leave-one-out baseline, Amini et al., 2025): whole and unbiased, with less noise, for one more pass over
      the logits.

    The caller multiplies by β, in units of the reward a nat of the action, and divides by the number of episodes.

    Args:
        logprobs_GKT: Log-probabilities of the sampled actions under the policy.
        reference_GKT: And under the reference.
        mask_GKT: True on positions and tokens that exist.
        form: Which estimate.
        exact_GKT: For `exact`: the divergence of each decision's distribution, differentiable, in nats.
        sampled_GKT: Log-probabilities under the policy that sampled, where it is an earlier one: each term is then
            weighed by the importance ratio of all that it depends on, cut off at `MAX_KL_RATIO`.
    """
    kl_GKT = -_log_ratio(reference_GKT, logprobs_GKT, mask_GKT)
    log_ratio_GKT = (
        torch.zeros_like(kl_GKT) if sampled_GKT is None else _log_ratio(logprobs_GKT, sampled_GKT, mask_GKT).detach()
    )
    # Importance ratios of everything up to a decision, with the decision itself and without.
    prefix_log_ratio_GKT = log_ratio_GKT.cumsum(2)
    ratio_GKT, ratio_before_GKT = _ratio(prefix_log_ratio_GKT), _ratio(prefix_log_ratio_GKT - log_ratio_GKT)
    if form == "k2":
        return (0.5 * kl_GKT.square() * ratio_GKT).sum()
    if form == "sequence":
        action_logprob_GK, action_kl_GK = (logprobs_GKT * mask_GKT).sum(2), kl_GKT.detach().sum(2)
        centred_GK = action_kl_GK - _mean_of_others(action_kl_GK, mask_GKT[:, :, 0])
        return (centred_GK * ratio_GKT[:, :, -1] * action_logprob_GK).sum()
    assert exact_GKT is not None
    exact_kl_GKT = torch.where(mask_GKT, exact_GKT, 0.0) * ratio_before_GKT
    cost_GKT = exact_kl_GKT.detach()
    # The divergence of the decisions after each one, which has their ratios in it already; the baseline has not.
    cost_to_go_GKT = cost_GKT.sum(2, keepdim=True) - cost_GKT.cumsum(2)
    baseline_GKT = _mean_of_others(cost_to_go_GKT, mask_GKT[:, :, :1].expand_as(cost_to_go_GKT))
    return (exact_kl_GKT + (cost_to_go_GKT - ratio_GKT * baseline_GKT) * logprobs_GKT * mask_GKT).sum()


def _log_ratio(over: torch.Tensor, under: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # Padding may hold -inf in both, whose difference is NaN: it is left out before anything is made of it.
    return torch.where(mask, over - under, 0.0)


def _ratio(log_ratio: torch.Tensor) -> torch.Tensor:
    return log_ratio.exp().clamp(max=MAX_KL_RATIO)


def _mean_of_others(values: torch.Tensor, exists: torch.Tensor) -> torch.Tensor:
    """The mean of the other samples' values (axis 1); 0 where a group has only one."""
    count = exists.sum(1, keepdim=True)
    total = (values * exists).sum(1, keepdim=True)
    return (total - values) / (count - 1).clamp(min=1) * exists


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
    logprobs_GKT: torch.Tensor,
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
    log_ratio_GKT = _log_ratio(logprobs_GKT, sampled_GKT, mask_GKT)
    if surrogate.ratio == "token":
        ratio, weight = log_ratio_GKT.exp(), mask_GKT
        advantages = advantages_GK[:, :, None].expand_as(ratio)
    else:
        weight = mask_GKT.sum(2)
        ratio, advantages = (log_ratio_GKT.sum(2) / weight.clamp(min=1)).exp(), advantages_GK
    low = None if surrogate.low is None else 1.0 - surrogate.low
    high = None if surrogate.high is None else 1.0 + surrogate.high
    unclipped = ratio * advantages
    clipped = unclipped if low is None and high is None else ratio.clamp(low, high) * advantages
    exists = weight > 0
    with torch.no_grad():
        sampler_kl = (log_ratio_GKT.exp() - 1 - log_ratio_GKT).sum()
    return SurrogateLoss(
        loss=-(torch.minimum(unclipped, clipped) * weight).sum(),
        ratio=(ratio.detach() * exists).sum(),
        clipped=((clipped < unclipped) & exists).sum(),
        sampler_kl=sampler_kl,
    )
