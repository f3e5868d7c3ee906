"""Losses and estimators against closed forms and against the exact policy gradient."""

import itertools

import numpy as np
import pytest
import torch

from partner_rl.algorithm.advantages.registry import build_estimator
from partner_rl.algorithm.advantages.reinforce import MovingAverageBaseline
from partner_rl.algorithm.advantages.rloo import LeaveOneOut
from partner_rl.algorithm.losses import kl_estimate, policy_gradient_loss, rounding_weights
from partner_rl.config.schema import AlgorithmConfigSection


def test_leave_one_out_subtracts_the_mean_of_the_others():
    advantages = LeaveOneOut().advantages(np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(advantages, [[-3.0, -1.5, 4.5], [0, 0, 0]])


def test_leave_one_out_sums_to_zero_in_each_group():
    rewards = np.random.default_rng(0).normal(size=(5, 8))
    np.testing.assert_allclose(LeaveOneOut().advantages(rewards).sum(1), 0, atol=1e-12)


def test_moving_average_uses_earlier_iterations_only():
    baseline = MovingAverageBaseline(window=2)
    np.testing.assert_allclose(baseline.advantages(np.array([[1.0, 3.0]])), [[-1, 1]])
    np.testing.assert_allclose(baseline.advantages(np.array([[5.0, 5.0]])), [[3, 3]])
    np.testing.assert_allclose(baseline.advantages(np.array([[0.0, 0.0]])), [[-3.5, -3.5]])
    # The first iteration has left the window.
    np.testing.assert_allclose(baseline.advantages(np.array([[0.0, 0.0]])), [[-2.5, -2.5]])


def test_a_restored_moving_average_goes_on_where_it_was():
    first, second = MovingAverageBaseline(3), MovingAverageBaseline(3)
    for mean in (1.0, 2.0, 4.0, 8.0):
        first.advantages(np.full((1, 2), mean))
    second.restore(first.state())
    rewards = np.array([[0.5, 0.25]])
    np.testing.assert_array_equal(first.advantages(rewards), second.advantages(rewards))


@pytest.mark.parametrize(("name", "kind"), [("rloo", LeaveOneOut), ("reinforce", MovingAverageBaseline)])
def test_the_registry_builds_every_estimator(name, kind):
    assert isinstance(build_estimator(AlgorithmConfigSection(advantage=name)), kind)


def test_policy_gradient_loss_is_minus_advantage_times_joint_logprob():
    logprobs = torch.tensor([[[-1.0, -2.0, -9.0], [-0.5, -9.0, -9.0]]])
    mask = torch.tensor([[[True, True, False], [True, False, False]]])
    loss = policy_gradient_loss(logprobs, mask, torch.tensor([[2.0, -4.0]]))
    assert loss.item() == pytest.approx(2.0 * 3.0 - 4.0 * 0.5)


def test_rounding_is_corrected_for_token_by_token_and_cut_off():
    sampled = torch.log(torch.tensor([[[0.5, 0.2, 0.1]]]))
    now = torch.log(torch.tensor([[[0.4, 0.9, 0.1]]])).requires_grad_()
    mask = torch.tensor([[[True, True, False]]])
    weights, cut_off = rounding_weights(now, sampled, mask)
    assert weights.tolist() == [[[pytest.approx(0.8), 2.0, 1.0]]]
    assert cut_off.item() == 1
    policy_gradient_loss(now, mask, torch.tensor([[3.0]]), weights).backward()
    assert now.grad[0, 0].tolist() == pytest.approx([-3 * 0.8, -3 * 2.0, 0.0])


def test_kl_is_zero_for_equal_policies_and_positive_otherwise():
    logprobs = torch.log(torch.tensor([[[0.5, 0.2]]]))
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    assert kl_estimate(logprobs, logprobs, mask).item() == 0
    other = torch.log(torch.tensor([[[0.25, 0.4]]]))
    expected = (0.5 - 1 - np.log(0.5)) + (2 - 1 - np.log(2))
    assert kl_estimate(logprobs, other, mask).item() == pytest.approx(expected, rel=1e-5)


def test_kl_ignores_padding_even_where_it_is_infinite():
    padding = float("-inf")
    logprobs = torch.tensor([[[-1.0, padding]]])
    mask = torch.tensor([[[True, False]]])
    assert torch.isfinite(kl_estimate(logprobs, torch.tensor([[[-1.5, padding]]]), mask))


def _exact_gradient(logits, reward):
    """The gradient of the expected reward of two-token sequences over three tokens, by enumeration."""
    parameter = logits.clone().requires_grad_()
    logprobs = parameter.log_softmax(-1)
    value = sum(
        (logprobs[0, a] + logprobs[1 + a, b]).exp() * reward[a, b] for a, b in itertools.product(range(3), repeat=2)
    )
    value.backward()
    return parameter.grad


@pytest.mark.parametrize("estimator", [LeaveOneOut(), MovingAverageBaseline(20)])
def test_the_monte_carlo_gradient_converges_to_the_exact_policy_gradient(estimator):
    generator = torch.Generator().manual_seed(0)
    # Row 0 is the first token's distribution; row 1 + a the second's after token a.
    logits = torch.randn(4, 3, generator=generator)
    reward = torch.randn(3, 3, generator=generator)
    groups, samples = 4000, 8
    total = torch.zeros_like(logits)
    for _ in range(5):
        parameter = logits.clone().requires_grad_()
        logprobs = parameter.log_softmax(-1)
        first = torch.multinomial(logprobs[0].exp(), groups * samples, replacement=True, generator=generator)
        second = torch.multinomial(logprobs[1 + first].exp(), 1, generator=generator).squeeze(1)
        taken = torch.stack([logprobs[0, first], logprobs[1 + first, second]], 1).view(groups, samples, 2)
        advantages = estimator.advantages(reward[first, second].view(groups, samples).double().numpy())
        mask = torch.ones_like(taken, dtype=torch.bool)
        loss = policy_gradient_loss(taken, mask, torch.from_numpy(advantages).float()) / (groups * samples)
        loss.backward()
        total += parameter.grad / 5
    torch.testing.assert_close(-total, _exact_gradient(logits, reward), atol=0.01, rtol=0.05)
