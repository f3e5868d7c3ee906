"""The KL penalty: the optimum of a bandit, and the exact gradient of `reward − β·KL` by brute force."""

import math

import pytest
import torch

from partner_rl.algorithm.losses import MAX_KL_RATIO, kl_estimate, kl_penalty, policy_gradient_loss
from tests.algorithm.enumerable import MASK_NT, REWARDS_N, divergences, draw, logprobs, parameters

BETA = 0.7
SAMPLES = 4
REFERENCE = parameters(seed=5)
FORMS = ("k2", "sequence", "exact")


def objective_gradient(logits: torch.Tensor, *, follow_states: bool) -> torch.Tensor:
    """The gradient of the expected `reward − β·KL`; `follow_states=False` takes each decision's KL where it stands."""
    parameter = logits.clone().requires_grad_()
    ours_N3 = logprobs(parameter)
    probabilities_N = ours_N3.sum(1).exp()
    if follow_states:
        kl = (probabilities_N * (ours_N3.sum(1) - logprobs(REFERENCE).sum(1))).sum()
    else:
        kl = (probabilities_N.detach()[:, None] * divergences(parameter, REFERENCE)).sum()
    ((probabilities_N * REWARDS_N).sum() - BETA * kl).backward()
    return parameter.grad


def estimate(logits: torch.Tensor, chosen_GK: torch.Tensor, form: str, sampler: torch.Tensor | None = None):
    """The ascent direction of our loss for sampled actions, a mean over samples."""
    parameter = logits.clone().requires_grad_()
    taken_GKT, mask_GKT = logprobs(parameter)[chosen_GK], MASK_NT[chosen_GK]
    rewards_GK = REWARDS_N[chosen_GK]
    sampled_GKT = None if sampler is None else logprobs(sampler)[chosen_GK].detach()
    advantages_GK = (rewards_GK - rewards_GK.mean(1, keepdim=True)) * SAMPLES / (SAMPLES - 1)
    loss = torch.zeros((), dtype=torch.float64)
    if sampler is None:
        loss = policy_gradient_loss(taken_GKT, mask_GKT, advantages_GK)
    penalty = kl_penalty(
        taken_GKT,
        logprobs(REFERENCE)[chosen_GK],
        mask_GKT,
        form,
        exact_GKT=divergences(parameter, REFERENCE)[chosen_GK],
        sampled_GKT=sampled_GKT,
    )
    (-(loss + BETA * penalty) / chosen_GK.numel()).backward()
    return parameter.grad


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_reward_minus_kl_converges_to_the_exact_one(form):
    logits = parameters()
    exact = objective_gradient(logits, follow_states=form != "k2")
    generator = torch.Generator().manual_seed(1)
    rounds, errors = 48, {}
    for groups in (256, 4096):
        found = torch.stack([estimate(logits, draw(logits, groups, SAMPLES, generator), form) for _ in range(rounds)])
        errors[groups] = ((found - exact).square().sum((1, 2)).mean().sqrt() / exact.norm()).item()
        bias = ((found.mean(0) - exact).norm() / exact.norm()).item()
        assert bias < 2.0 * errors[groups] / rounds**0.5, (groups, bias)
    assert 3.0 < errors[256] / errors[4096] < 5.4, errors


def test_k2_leaves_out_what_a_token_does_to_those_after_it_and_nothing_else():
    logits = parameters()
    whole, own = (objective_gradient(logits, follow_states=follow) for follow in (True, False))
    assert (whole - own).norm() > 0.05 * whole.norm()
    # With a single decision there is nothing after it.
    single = logits.clone().requires_grad_()
    ours, theirs = single[0, :2].log_softmax(-1), REFERENCE[0, :2].log_softmax(-1)
    (ours.exp() * (ours - theirs)).sum().backward()
    counted = logits.clone().requires_grad_()
    taken = counted[0, :2].log_softmax(-1)
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    weighed = sum(
        taken[a].exp().detach() * kl_penalty(taken[a].view(1, 1, 1), theirs[a].view(1, 1, 1), mask, "k2")
        for a in range(2)
    )
    weighed.backward()
    torch.testing.assert_close(counted.grad, single.grad)


@pytest.mark.parametrize("form", FORMS)
def test_samples_of_an_older_policy_are_corrected_for(form):
    logits = parameters()
    sampler = logits + 0.3 * parameters(seed=9)
    exact = objective_gradient(logits, follow_states=form != "k2")
    parameter = logits.clone().requires_grad_()
    (logprobs(parameter).sum(1).exp() * REWARDS_N).sum().backward()
    of_kl = exact - parameter.grad
    generator = torch.Generator().manual_seed(2)
    found = torch.stack(
        [estimate(logits, draw(sampler, 4096, SAMPLES, generator), form, sampler=sampler) for _ in range(24)]
    )
    spread = (found.std(0) / 24**0.5).norm()
    assert (found.mean(0) - of_kl).norm() < 3.0 * spread
    assert spread < 0.02 * of_kl.norm()
    assert (logprobs(logits).sum(1) - logprobs(sampler).sum(1)).exp().max() < MAX_KL_RATIO


def bandit(form: str, beta: float, words: int = 2000, steps: int = 2500) -> tuple[float, float, float, float]:
    """KL and objective that a softmax policy over words converges to, and those of the optimum."""
    generator = torch.Generator().manual_seed(0)
    rank = torch.randperm(words, generator=generator)
    reference = torch.log_softmax(-torch.log(torch.arange(1, words + 1).double())[rank], 0)
    reward = torch.randn(words, generator=generator, dtype=torch.float64)
    reward[reference.argsort()[100]] = 4.0
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.AdamW([logits], lr=0.01, weight_decay=0.0)
    kls, objectives = [], []
    mask = torch.ones(1, 512, 1, dtype=torch.bool)
    for step in range(steps):
        everything = logits.log_softmax(0)
        drawn = torch.multinomial(everything.detach().exp(), 512, replacement=True, generator=generator)
        rewards = reward[drawn]
        advantages = (rewards - (rewards.sum() - rewards) / 511)[None]
        taken, theirs = everything[drawn].view(1, 512, 1), reference[drawn].view(1, 512, 1)
        whole = (everything.exp() * (everything - reference)).sum().expand(1, 512, 1)
        loss = policy_gradient_loss(taken, mask, advantages)
        loss = (loss + beta * kl_penalty(taken, theirs, mask, form, exact_GKT=whole)) / 512
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= steps - 200:
            with torch.no_grad():
                kl = (everything.exp() * (everything - reference)).sum().item()
                kls.append(kl)
                objectives.append((everything.exp() * reward).sum().item() - beta * kl)
    best = (reference + reward / beta).log_softmax(0)
    best_kl = (best.exp() * (best - reference)).sum().item()
    return (
        sum(kls) / len(kls),
        sum(objectives) / len(objectives),
        best_kl,
        (best.exp() * reward).sum().item() - beta * best_kl,
    )


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("form", FORMS)
def test_a_bandit_reaches_the_optimum_of_reward_minus_kl(form, beta):
    kl, objective, best_kl, best_objective = bandit(form, beta)
    assert kl == pytest.approx(best_kl, rel=0.05)
    assert objective == pytest.approx(best_objective, rel=0.05)


def test_the_estimate_for_the_logs_is_unbiased_also_where_words_were_left_out():
    policy = torch.tensor([0.5, 0.3, 0.2])
    reference = torch.tensor([0.2, 0.2, 0.6])
    truncated = torch.tensor([0.625, 0.375, 0.0])
    among_kept = torch.tensor([0.5, 0.5, 0.0])
    for ours, kept in ((policy, None), (truncated, among_kept)):
        drawn = torch.multinomial(ours, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
        mask = torch.ones(1, 1, len(drawn), dtype=torch.bool)
        logs = (ours.log()[drawn][None, None], reference.log()[drawn][None, None])
        kept_logs = None if kept is None else kept.log()[drawn][None, None]
        found = kl_estimate(*logs, mask, kept_logs).item() / len(drawn)
        # Each sample's own estimate is not negative, whatever was sampled.
        assert all(
            kl_estimate(
                *(x[:, :, i : i + 1] for x in (*logs, mask)), None if kept is None else kept_logs[:, :, i : i + 1]
            )
            >= 0
            for i in range(20)
        )
        exact = sum(p * math.log(p / q) for p, q in zip(ours.tolist(), reference.tolist(), strict=True) if p)
        assert found == pytest.approx(exact, abs=0.01)


def test_the_estimate_of_a_policy_that_has_moved_weighs_by_importance():
    sampler, policy = torch.tensor([0.4, 0.4, 0.2]), torch.tensor([0.9, 0.0999, 0.0001])
    drawn = torch.multinomial(sampler, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, len(drawn), dtype=torch.bool)
    ours, theirs = policy.log()[drawn][None, None], sampler.log()[drawn][None, None]
    found = kl_estimate(ours, theirs, mask, sampled_GKT=theirs).item() / len(drawn)
    assert found == pytest.approx((policy * (policy / sampler).log()).sum().item(), rel=0.02)
    # Without the ratio the word that the policy has all but left rules the metric.
    assert kl_estimate(ours, theirs, mask).item() / len(drawn) > 100 * found


@pytest.mark.parametrize("form", FORMS)
def test_padding_may_hold_anything(form):
    mask = torch.tensor([[[True, True], [True, False]]])
    ours = torch.tensor([[[-1.0, -2.0], [-1.5, float("-inf")]]], requires_grad=True)
    theirs = torch.tensor([[[-1.2, -1.0], [-1.5, float("-inf")]]])
    whole = torch.tensor([[[0.1, 0.2], [0.3, float("nan")]]])
    held = torch.where(mask, ours, 0.0)
    loss = kl_penalty(held, theirs, mask, form, exact_GKT=whole, sampled_GKT=theirs)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(ours.grad).all()
