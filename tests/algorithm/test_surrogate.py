"""The clipped surrogate against numbers worked out by hand, and the minibatches of several epochs."""

import math

import pytest
import torch

from partner_rl.algorithm.batch import minibatches
from partner_rl.algorithm.learner import surrogate_of
from partner_rl.algorithm.losses import Surrogate, surrogate_loss
from partner_rl.config.schema import AlgorithmConfigSection

# One group, two actions of two tokens and one: ratios 2 and 0.5; and 4.
RATIOS = torch.tensor([[[2.0, 0.5], [4.0, 1.0]]], dtype=torch.float64)
MASK = torch.tensor([[[True, True], [True, False]]])
SAMPLED = torch.full_like(RATIOS, -3.0)


def terms(surrogate, advantages, sampled=SAMPLED):
    logprobs = (sampled + RATIOS.log()).requires_grad_()
    result = surrogate_loss(logprobs, sampled, MASK, torch.tensor([advantages], dtype=torch.float64), surrogate)
    result.loss.backward()
    return result, logprobs.grad[0].tolist()


def test_token_ratios_without_clipping():
    result, gradient = terms(Surrogate("token"), [1.0, -3.0])
    assert result.loss.item() == pytest.approx(-(2.0 + 0.5) + 3 * 4.0)
    assert result.ratio.item() == pytest.approx(6.5)
    assert result.clipped.item() == 0
    assert gradient == [pytest.approx([-2.0, -0.5]), pytest.approx([12.0, 0.0])]


def test_a_clipped_gain_has_no_gradient_and_a_loss_keeps_its_own():
    result, gradient = terms(Surrogate("token", low=0.2, high=0.2), [1.0, -3.0])
    # min(2, 1.2) and min(0.5, 0.8) for the good action; a bad action that has become likelier is not clipped.
    assert result.loss.item() == pytest.approx(-(1.2 + 0.5) + 3 * 4.0)
    assert result.clipped.item() == 1
    assert gradient == [pytest.approx([0.0, -0.5]), pytest.approx([12.0, 0.0])]
    # A bad action whose token has become less likely than 1 − ε is left alone, too.
    result, gradient = terms(Surrogate("token", low=0.2, high=0.2), [-1.0, 0.0])
    assert result.loss.item() == pytest.approx(2.0 + 0.8)
    assert gradient[0] == pytest.approx([2.0, 0.0])


def test_clip_higher_moves_the_upper_bound_alone():
    result, _ = terms(Surrogate("token", low=0.2, high=1.5), [1.0, 1.0])
    assert result.loss.item() == pytest.approx(-(2.0 + 0.5 + 2.5))
    assert result.clipped.item() == 1


def test_sequence_ratios_are_geometric_means_and_count_once_a_token():
    result, gradient = terms(Surrogate("sequence"), [1.0, -3.0])
    # The geometric mean of 2 and 0.5 is 1.
    assert result.loss.item() == pytest.approx(-2 * 1.0 + 3 * 4.0)
    assert result.ratio.item() == pytest.approx(1.0 + 4.0)
    assert gradient == [pytest.approx([-1.0, -1.0]), pytest.approx([12.0, 0.0])]
    result, gradient = terms(Surrogate("sequence", low=0.2, high=0.2), [1.0, 3.0])
    assert result.loss.item() == pytest.approx(-2 * 1.0 - 3 * 1.2)
    assert result.clipped.item() == 1
    assert gradient[1] == pytest.approx([0.0, 0.0])


def test_the_distance_from_the_sampler_is_the_k3_estimate():
    result, _ = terms(Surrogate(), [0.0, 0.0])
    assert result.sampler_kl.item() == pytest.approx(sum(r - 1 - math.log(r) for r in (2.0, 0.5, 4.0)))


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_padding_may_hold_anything(ratio):
    sampled = SAMPLED.clone()
    sampled[0, 1, 1] = float("-inf")
    result, gradient = terms(Surrogate(ratio, 0.2, 0.2), [1.0, 1.0], sampled)
    assert math.isfinite(result.loss.item())
    assert all(map(math.isfinite, gradient[1]))


def test_ratios_are_used_where_the_policy_may_have_moved():
    def of(**keys):
        return surrogate_of(AlgorithmConfigSection(groups_per_iteration=4, **keys))

    assert of() is None
    assert of(minibatch_groups=4, importance_ratio="sequence") is None
    assert of(epochs=2) == Surrogate("token")
    assert of(minibatch_groups=2, importance_ratio="sequence") == Surrogate("sequence")
    assert of(clip_range=0.2) == Surrogate("token", 0.2, 0.2)
    assert of(clip_range=0.2, clip_range_high=0.28) == Surrogate("token", 0.2, 0.28)


def test_every_epoch_takes_each_group_once_in_its_own_order():
    steps = minibatches(groups=8, size=2, epochs=3, seed=1, iteration=5)
    assert [len(step) for step in steps] == [2] * 12
    epochs = [[g for step in steps[i : i + 4] for g in step] for i in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert steps == minibatches(8, 2, 3, 1, 5) != minibatches(8, 2, 3, 1, 6)
    assert minibatches(4, 4, 2, 0, 0) == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"minibatch_groups": 3}, "must divide"),
        ({"minibatch_groups": 2, "num_learners": 4}, "multiple of num_learners"),
        ({"clip_range_high": 0.3}, "set clip_range"),
        ({"kl_target": 0.1}, "set kl_coeff"),
        ({"component_clip": 3.0}, "set normalization"),
        ({"advantage": "grpo", "samples_per_group": 1}, "at least 2"),
        ({"advantage": "reinforce", "normalization": "group", "samples_per_group": 1}, "at least 2"),
    ],
)
def test_options_that_contradict_each_other_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        AlgorithmConfigSection(groups_per_iteration=4, **keys)
