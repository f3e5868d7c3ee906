"""With top-p and top-k the gradient is that of what was sampled: a reward that says nothing moves nothing."""

import numpy as np
import pytest
import torch

from partner_rl.algorithm.advantages.reinforce import MovingAverageBaseline
from partner_rl.algorithm.advantages.rloo import LeaveOneOut
from partner_rl.algorithm.losses import policy_gradient_loss
from partner_rl.policy.logprobs import _kept_logprobs
from partner_rl.policy.sampling import sample_tokens

WORDS = 200
TOP_P, TOP_K = 0.92, 30


def entropy(logits: torch.Tensor) -> float:
    return float(-(logits.softmax(0) * logits.log_softmax(0)).sum())


def drift(estimator, groups: int, samples: int, trend: float, *, renormalised: bool, seed: int) -> float:
    """Change of a word distribution's entropy under rewards that do not depend on the word but rise by themselves."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    logits = (-torch.log(torch.arange(1.0, WORDS + 1))).clone().requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=1.0)
    before, count = entropy(logits.detach()), groups * samples
    for step in range(400):
        rows = logits.detach().expand(count, WORDS).contiguous()
        drawn = sample_tokens(rows, torch.zeros(count, dtype=torch.bool), generator=generator, top_p=TOP_P, top_k=TOP_K)
        rewards = trend * step + rng.normal(size=(groups, samples)) * 0.5
        advantages = torch.from_numpy(estimator.advantages(rewards)).float()
        if renormalised:
            kept = _kept_logprobs(logits.expand(1, count, WORDS), drawn.kept_NW[None], 1.0)[0]
            taken = torch.where(drawn.kept_NW == drawn.tokens_N[:, None], kept, 0.0).sum(1)
            torch.testing.assert_close(taken.detach(), drawn.logprobs_N, atol=1e-5, rtol=0)
        else:
            taken = logits.log_softmax(0)[drawn.tokens_N]
        mask = torch.ones(groups, samples, 1, dtype=torch.bool)
        loss = policy_gradient_loss(taken.view(groups, samples, 1), mask, advantages) / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return entropy(logits.detach()) - before


@pytest.mark.parametrize("trend", [0.005, -0.005])
@pytest.mark.parametrize(
    ("make", "groups", "samples"), [(lambda: MovingAverageBaseline(20), 16, 1), (LeaveOneOut, 2, 8)]
)
def test_a_reward_that_says_nothing_leaves_the_policy_where_it_is(make, groups, samples, trend):
    found = [drift(make(), groups, samples, trend, renormalised=True, seed=seed) for seed in range(6)]
    # Sampling noise moves the entropy a little, and always down: compare with the same noise without a trend.
    noise = [drift(make(), groups, samples, 0.0, renormalised=True, seed=seed) for seed in range(6)]
    error = np.hypot(np.std(found, ddof=1), np.std(noise, ddof=1)) / 6**0.5
    assert abs(np.mean(found) - np.mean(noise)) < 3 * error + 0.05, (found, noise)


def test_without_renormalising_it_would_drift():
    """The check above can fail: log-probabilities of the whole distribution drift with the rewards."""
    found = drift(MovingAverageBaseline(20), 16, 1, 0.005, renormalised=False, seed=0)
    assert found < -1.0, found
