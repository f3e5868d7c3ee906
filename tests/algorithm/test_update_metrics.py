"""Metrics of several steps, micro-batches and learners are true means; the gap is the worst one's."""

import math

import pytest
import torch

from partner_rl import metric_names as names
from partner_rl.algorithm.learner import RewriteLearner
from partner_rl.algorithm.update_metrics import GAP_LIMITS, LogprobGap, StepMetrics, means, update_metrics
from tests.algorithm.toy import build_toy, local_learner, toy_config


def measured(gap: LogprobGap, kl: tuple[float, float], loss: tuple[float, float]) -> StepMetrics:
    return StepMetrics({names.POLICY_KL: kl, names.TRAIN_LOSS: loss}, gap)


def test_sums_and_units_of_steps_and_learners_add_up():
    near, far = LogprobGap(0.1, 0.05, 0.01, 100), LogprobGap(0.9, 0.6, 0.3, 300)
    found = update_metrics(
        [
            [measured(near, kl=(3.0, 30), loss=(1.0, 1)), measured(far, kl=(9.0, 10), loss=(3.0, 1))],
            [measured(far, kl=(0.0, 40), loss=(2.0, 1)), measured(far, kl=(0.0, 20), loss=(2.0, 1))],
        ]
    )
    assert found[names.POLICY_KL] == pytest.approx(12 / 100)
    assert found[names.TRAIN_LOSS] == pytest.approx(2.0)
    # Of the first step: later ones differ because the policy has moved.
    assert (found[names.TRAIN_LOGPROB_GAP], found[names.TRAIN_LOGPROB_GAP_P99]) == (0.9, 0.6)
    assert found[names.TRAIN_LOGPROB_GAP_MEAN] == pytest.approx((0.01 * 100 + 0.3 * 300) / 400)


def test_one_odd_token_does_not_break_the_limits_and_stale_weights_do():
    limits = GAP_LIMITS["bfloat16"]
    rounding = torch.full((1000,), 0.02)
    rounding[7] = 5.0
    assert limits.hold(LogprobGap.of([rounding[:300], rounding[300:]]))
    assert not limits.hold(LogprobGap.of([torch.full((1000,), 0.2)]))
    assert not limits.hold(LogprobGap.of([torch.tensor([0.0, math.nan])]))


def test_an_iteration_of_several_steps_logs_the_true_means(local_ray):
    config = toy_config(samples_per_group=8, epochs=4, minibatch_groups=2, clip_range=0.2, kl_coeff=0.1)
    algorithm = build_toy(config)
    learner: RewriteLearner = local_learner(algorithm)
    steps, update = [], learner._uncompiled_update

    def noted(batch, **kwargs):
        result = update(batch, **kwargs)
        steps.append(learner.step_metrics)
        return result

    learner._possibly_compiled_update = noted
    try:
        for _ in range(2):
            steps.clear()
            algorithm.train()
            assert len(steps) == 8
            whole = means(steps)
            for name in whole:
                assert algorithm.last.learner[name] == pytest.approx(whole[name]), name
            assert len({round(step.sums[names.TRAIN_SAMPLER_KL][0], 9) for step in steps}) > 4
    finally:
        algorithm.stop()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_divergence_is_measured_without_a_penalty_on_a_part(local_ray, lora):
    def after(iterations: int, **keys) -> list[dict[str, float]]:
        algorithm = build_toy(toy_config(lora=lora, samples_per_group=8, micro_batch_tokens=1, **keys))
        try:
            found = []
            for _ in range(iterations):
                algorithm.train()
                counted = local_learner(algorithm).step_metrics.sums
                _, actions = counted[names.POLICY_KL_SENTENCE]
                found.append({"kl": algorithm.last.learner[names.POLICY_KL_SENTENCE], "actions": actions})
            return found
        finally:
            algorithm.stop()

    free = after(3)
    assert [row["actions"] for row in free] == [8.0] * 3
    assert free[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert free[2]["kl"] > 0.01
    # One group of four; a penalty looks at all of them.
    assert after(1, kl_coeff=0.1)[0]["actions"] == 32.0
