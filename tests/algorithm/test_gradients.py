"""Monte-Carlo gradients through our estimators and losses against the exact policy gradient, by brute force."""

import numpy as np
import pytest
import torch

from partner_rl.algorithm.advantages.estimator import EPSILON
from partner_rl.algorithm.advantages.grpo import GroupRelative
from partner_rl.algorithm.advantages.reinforce import MovingAverageBaseline
from partner_rl.algorithm.advantages.rloo import LeaveOneOut
from partner_rl.algorithm.advantages.self_critical import SelfCritical
from partner_rl.algorithm.losses import Surrogate, policy_gradient_loss, surrogate_loss
from tests.algorithm.enumerable import ACTIONS, MASK_NT, REWARDS_N, draw, exact_gradient, greedy, logprobs, parameters

SAMPLES = 4


def advantages_of(estimator, chosen_GK, logits):
    """The estimator's advantages of sampled actions."""
    greedy_G = np.full(len(chosen_GK), REWARDS_N[greedy(logits)].item())
    return torch.from_numpy(estimator.advantages(REWARDS_N[chosen_GK].double().numpy(), greedy_G))


def gradient(logits, chosen_GK, advantages_GK, surrogate=None, sampler=None):
    """The ascent direction of our loss for sampled actions, a mean over samples."""
    parameter = logits.clone().requires_grad_()
    taken_GKT, mask_GKT = logprobs(parameter)[chosen_GK], MASK_NT[chosen_GK]
    if surrogate is None:
        loss = policy_gradient_loss(taken_GKT, mask_GKT, advantages_GK)
    else:
        sampled_GKT = logprobs(logits if sampler is None else sampler)[chosen_GK].detach()
        loss = surrogate_loss(taken_GKT, sampled_GKT, mask_GKT, advantages_GK, surrogate).loss
    (-loss / chosen_GK.numel()).backward()
    return parameter.grad


def primed_moving_average():
    """A moving average whose baseline does not depend on the samples to come."""
    baseline = MovingAverageBaseline(window=1)
    baseline.restore({"means": [0.4]})
    return baseline


class Unscaled:
    """GRPO's advantages with the division by the group's standard deviation undone."""

    def advantages(self, rewards_GK, greedy_G=None):
        std_G1 = rewards_GK.std(axis=1, keepdims=True) + EPSILON
        return GroupRelative().advantages(rewards_GK) * std_G1 * SAMPLES / (SAMPLES - 1)


ESTIMATORS = {
    "reinforce": primed_moving_average,
    "rloo": LeaveOneOut,
    "self_critical": SelfCritical,
    "grpo up to its scale": Unscaled,
}


def test_the_enumerated_actions_are_all_of_them():
    logits = parameters()
    assert logprobs(logits).sum(1).exp().sum().item() == pytest.approx(1.0)
    assert len(set(ACTIONS)) == 8


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_monte_carlo_gradient_converges_to_the_exact_one(name):
    logits = parameters()
    exact = exact_gradient(logits)
    generator = torch.Generator().manual_seed(1)
    rounds = 48
    errors = {}
    for groups in (16, 256, 4096):
        estimates = []
        for _ in range(rounds):
            chosen_GK = draw(logits, groups, SAMPLES, generator)
            estimates.append(gradient(logits, chosen_GK, advantages_of(ESTIMATORS[name](), chosen_GK, logits)))
        deviations = torch.stack(estimates) - exact
        errors[groups] = (deviations.square().sum((1, 2)).mean().sqrt() / exact.norm()).item()
        bias = (deviations.mean(0).norm() / exact.norm()).item()
        # The mean of all rounds has the error of one round divided by the root of their number.
        assert bias < 2.0 * errors[groups] / rounds**0.5, (groups, bias)
    # Sixteen times the samples make a quarter of the error.
    assert 3.0 < errors[16] / errors[256] < 5.4, errors
    assert 3.0 < errors[256] / errors[4096] < 5.4, errors
    assert errors[4096] < 0.05


def test_grpos_gradient_is_the_exact_one_over_the_rewards_deviation_when_groups_are_large():
    logits = parameters()
    probabilities = logprobs(logits).sum(1).exp()
    mean = (probabilities * REWARDS_N).sum()
    std = (probabilities * (REWARDS_N - mean) ** 2).sum().sqrt()
    chosen_GK = draw(logits, 200, 2000, torch.Generator().manual_seed(2))
    found = gradient(logits, chosen_GK, advantages_of(GroupRelative(), chosen_GK, logits))
    torch.testing.assert_close(found, exact_gradient(logits) / std, atol=0.005, rtol=0.03)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_first_step_of_ppo_is_the_policy_gradient(ratio):
    logits = parameters()
    chosen_GK = draw(logits, 8, SAMPLES, torch.Generator().manual_seed(3))
    advantages_GK = advantages_of(LeaveOneOut(), chosen_GK, logits)
    plain = gradient(logits, chosen_GK, advantages_GK)
    for surrogate in (Surrogate(ratio), Surrogate(ratio, low=0.2, high=0.3)):
        torch.testing.assert_close(gradient(logits, chosen_GK, advantages_GK, surrogate), plain)


def test_token_ratios_of_single_decisions_correct_for_the_sampler_exactly():
    # With one decision the token's ratio is the action's, and importance sampling is exact.
    sampler, policy = torch.zeros(4, 3, dtype=torch.float64), parameters()
    rewards = torch.tensor([1.0, -2.0], dtype=torch.float64)
    parameter = policy.clone().requires_grad_()
    (parameter[0, :2].softmax(-1) * rewards).sum().backward()
    parameter_2 = policy.clone().requires_grad_()
    # Both actions as often as the sampler draws them: half of the time each.
    taken = parameter_2[0, :2].log_softmax(-1).view(2, 1, 1)
    sampled = sampler[0, :2].log_softmax(-1).view(2, 1, 1)
    mask = torch.ones(2, 1, 1, dtype=torch.bool)
    (-surrogate_loss(taken, sampled, mask, rewards.view(2, 1), Surrogate()).loss / 2).backward()
    torch.testing.assert_close(parameter_2.grad, parameter.grad)
