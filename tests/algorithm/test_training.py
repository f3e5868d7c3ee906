"""The RL loop on a real local Ray: it learns, distributes, resumes, and notices what is wrong."""

import numpy as np
import pytest
import torch

from partner_rl.algorithm.data_order import examples_of_iteration
from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.algorithm.update_metrics import GAP_LIMITS, GapLimits
from partner_rl.types import PartnerError, RewardBreakdown
from tests.algorithm.toy import build_toy, count_letter_beside_a_constant, examples, toy_config


def run(config, iterations, score=None):
    algo = build_toy(config) if score is None else build_toy(config, score)
    try:
        metrics = []
        for _ in range(iterations):
            algo.train()
            metrics.append(iteration_metrics(algo.last, config.env.window))
        weights, _ = algo._learner_state()
        return metrics, weights
    finally:
        algo.stop()


def test_the_mean_reward_rises_past_the_threshold(local_ray):
    config = toy_config(groups_per_iteration=4, samples_per_group=8, learning_rate=1e-2)
    metrics, _ = run(config, 40)
    start = np.mean([m["reward/total"] for m in metrics[:3]])
    end = np.mean([m["reward/total"] for m in metrics[-3:]])
    # A uniform policy writes about one `e` in six tokens; a trained one repeats a token that holds several.
    assert start < 2.5
    assert end > start + 2.0


# Estimators get what the normalisations leave: each of both with two of the other.
@pytest.mark.parametrize(
    ("advantage", "normalization"),
    [
        ("reinforce", "none"),
        ("reinforce", "running"),
        ("self_critical", "running"),
        ("self_critical", "group"),
        ("rloo", "none"),
        ("rloo", "group"),
        ("grpo", "none"),
        ("grpo", "running"),
    ],
)
def test_every_estimator_learns_with_normalisations(local_ray, advantage, normalization):
    config = toy_config(samples_per_group=8, learning_rate=2e-2, advantage=advantage, normalization=normalization)
    metrics, _ = run(config, 15, count_letter_beside_a_constant)
    start, end = (np.mean([m["reward/raw/empathy"] for m in part]) for part in (metrics[:3], metrics[-3:]))
    assert end > start + 0.5
    assert metrics[-1]["reward/total"] == pytest.approx(metrics[-1]["reward/raw/empathy"] + 5.0)
    assert metrics[-1]["reward/spread/fluency"] == pytest.approx(0.0, abs=1e-6)
    assert ("reward/normalised/empathy" in metrics[-1]) == (normalization != "none")


FOUR_STEPS = {"epochs": 2, "minibatch_groups": 2}
PPO = {**FOUR_STEPS, "clip_range": 0.2}


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_several_clipped_steps_on_the_same_samples_learn(local_ray, ratio):
    config = toy_config(samples_per_group=8, importance_ratio=ratio, **PPO)
    metrics, _ = run(config, 12)
    assert np.mean([m["reward/total"] for m in metrics[-3:]]) > metrics[0]["reward/total"] + 0.5
    assert all(m["train/logprob_gap"] < 1e-4 for m in metrics)
    assert all(0 <= m["train/clip_fraction"] < 1 and m["train/sampler_kl"] > 0 for m in metrics)
    assert max(m["train/clip_fraction"] for m in metrics) > 0


def test_two_learners_follow_the_steered_kl_coefficient_through_all_steps(local_ray):
    keys = {**PPO, "kl_coeff": 0.1, "kl_target": 1e-6}
    two, _ = run(toy_config(num_learners=2, **keys), 2)
    one, _ = run(toy_config(**keys), 2)
    for metrics in (one, two):
        # The divergence is far above the target, which raises the coefficient by 20 % / 10.
        assert [m["policy/kl_coeff"] for m in metrics] == pytest.approx([0.1, 0.102])
        assert all(m["train/logprob_gap"] < 1e-4 for m in metrics)
    assert two[0]["train/grad_norm"] == pytest.approx(one[0]["train/grad_norm"], rel=0.05)
    assert two[0]["train/ratio"] == pytest.approx(one[0]["train/ratio"], rel=0.05)


def test_several_edits_with_adapters_and_kl_train_too(local_ray):
    metrics, _ = run(toy_config(lora=True, max_edits=2, kl_coeff=0.05, position_entropy_coeff=0.01), 3)
    assert metrics[0]["policy/kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics[-1]["policy/kl"] > 0
    assert all(m["train/logprob_gap"] < 1e-4 for m in metrics)
    shares = sum(v for k, v in metrics[-1].items() if k.startswith("policy/position/"))
    assert shares == pytest.approx(1.0)


def test_micro_batches_do_not_change_the_update(local_ray):
    _, whole = run(toy_config(micro_batch_tokens=100_000, kl_coeff=0.1), 1)
    _, parts = run(toy_config(micro_batch_tokens=1, kl_coeff=0.1), 1)
    for name, weight in whole.items():
        # AdamW's first step is about the learning rate whatever the gradient's size, so rounding can flip tiny ones.
        assert ((weight - parts[name]).abs() > 1e-3).float().mean() < 0.01, name


def test_a_remote_env_runner_and_learner_train_alike(local_ray):
    metrics, weights = run(toy_config(num_env_runners=1, num_learners=1, kl_coeff=0.1), 2)
    assert all(m["train/logprob_gap"] < 1e-4 for m in metrics)
    assert all(torch.isfinite(w).all() for w in weights.values())
    _, local = run(toy_config(kl_coeff=0.1), 2)
    moved = torch.cat([(weights[n] - local[n]).flatten().abs() for n in local])
    assert (moved > 1e-3).float().mean() < 0.01


def test_two_learners_make_the_step_of_one(local_ray):
    config = toy_config(num_learners=2, kl_coeff=0.1)
    _, two = run(config, 1)
    _, one = run(toy_config(kl_coeff=0.1), 1)
    moved = torch.cat([(two[n] - one[n]).flatten().abs() for n in one])
    assert (moved > 1e-3).float().mean() < 0.01


@pytest.mark.parametrize(
    "keys",
    [
        {"advantage": "rloo"},
        {"advantage": "reinforce", "normalization": "running", "component_clip": 2.0},
        {"kl_target": 0.001, **PPO},
    ],
)
def test_a_restored_run_goes_on_bit_for_bit(local_ray, tmp_path, keys):
    config = toy_config(lora=True, kl_coeff=0.1, **keys)
    _, straight = run(config, 4, count_letter_beside_a_constant)
    algo = build_toy(config, count_letter_beside_a_constant)
    for _ in range(2):
        algo.train()
    algo.save_training_state(tmp_path / "checkpoint")
    algo.stop()
    resumed = build_toy(config, count_letter_beside_a_constant)
    assert resumed.restore_training_state(tmp_path / "checkpoint") == 2
    for _ in range(2):
        resumed.train()
    weights, _ = resumed._learner_state()
    resumed.stop()
    for name, weight in straight.items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize("learners", [0, 1])
def test_the_policy_in_the_driver_has_the_learners_weights(local_ray, learners):
    algo = build_toy(toy_config(lora=True, num_learners=learners))
    algo.train()
    weights, _ = algo._learner_state()
    found = dict(algo.policy_in_driver().model.named_parameters())
    algo.stop()
    assert weights
    for name, weight in weights.items():
        assert torch.equal(found[name.removeprefix("language_model.")], weight), name


def test_a_damaged_checkpoint_is_one_clear_error(local_ray, tmp_path):
    algo = build_toy(toy_config())
    algo.save_training_state(tmp_path / "c")
    (tmp_path / "c" / "weights.safetensors").write_bytes(b"cut off")
    with pytest.raises(PartnerError, match="cannot be read"):
        algo.restore_training_state(tmp_path / "c")
    algo.stop()


def test_a_difference_between_sampler_and_learner_stops_the_run(local_ray):
    algo = build_toy(toy_config(num_env_runners=1))
    algo.train()
    # The env runner keeps its weights while the learner moves on.
    algo._env_runners.sync_weights = lambda: None
    algo.train()
    with pytest.raises(PartnerError, match="different weights"):
        algo.train()
    algo.stop()


@pytest.mark.parametrize(
    ("truncation", "keys"),
    [({}, {}), ({"top_k": 20}, {}), ({"top_p": 0.6}, FOUR_STEPS)],
    ids=["whole, one step", "top-k, one step", "top-p, four steps"],
)
@pytest.mark.parametrize("form", ["k2", "sequence", "exact"])
def test_every_gradient_of_the_penalty_trains_on_what_was_sampled(local_ray, form, truncation, keys):
    config = toy_config(kl_coeff=0.5, kl_gradient=form, learning_rate=3e-3, **keys)
    config = config.model_copy(update={"policy": config.policy.model_copy(update=truncation)})
    metrics, weights = run(config, 3)
    assert all(m["train/logprob_gap"] < 1e-4 for m in metrics)
    assert all(m["policy/kl_sentence"] > m["policy/kl"] for m in metrics[1:])
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    if truncation:
        # The policy starts at the reference, less the words that are left out.
        assert metrics[0]["policy/kl_sentence"] > 0.05
    elif not keys:
        assert metrics[0]["policy/kl_sentence"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("form", "share"), [("k2", 0.6), ("sequence", 0.6), ("exact", 0.35)])
def test_a_strong_penalty_holds_the_policy_near_its_start(local_ray, form, share):
    def end(beta: float) -> float:
        config = toy_config(kl_coeff=beta, kl_gradient=form, learning_rate=1e-3, samples_per_group=8)
        return float(np.mean([m["policy/kl_sentence"] for m in run(config, 16)[0][-6:]]))

    # What is left is the noise of the steps, least where whole distributions are compared.
    assert end(20.0) < share * end(1e-6)


def test_the_message_tells_rounding_from_stale_weights(local_ray, monkeypatch):
    monkeypatch.setitem(GAP_LIMITS, "float32", GapLimits(mean=0.0, p99=0.0))
    algo = build_toy(toy_config())
    with pytest.raises(PartnerError, match=r"with the same weights.*policy\.compile=false"):
        algo.train()
    algo.stop()


def nan_score(requests):
    return [RewardBreakdown({"empathy": float("nan")}) for _ in requests]


def test_a_nan_reward_stops_the_run_with_the_row(local_ray):
    algo = build_toy(toy_config(), nan_score)
    with pytest.raises(PartnerError, match="row"):
        algo.train()
    algo.stop()


@pytest.mark.reported
def test_a_learning_rate_beyond_reason_ends_with_what_to_do(local_ray):
    algo = build_toy(toy_config(learning_rate=1e10))
    with pytest.raises(PartnerError, match=r"lower algorithm\.learning_rate"):
        train_often(algo, times=4)
    algo.stop()


def train_often(algo, times: int) -> None:
    for _ in range(times):
        algo.train()


def test_every_epoch_visits_every_example_once():
    pairs = examples()
    epoch = [e for i in range(3) for e in examples_of_iteration(pairs, 4, i, seed=5)]
    assert sorted(e.response_id for e in epoch) == sorted(e.response_id for e in pairs)
    other = [e for i in range(3) for e in examples_of_iteration(pairs, 4, i, seed=6)]
    assert other != epoch
