"""Learners that are killed and env runners that come back unnoticed: the run's figures stay those of a quiet one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import pytest
import ray
from ray.exceptions import RayError

from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.metric_names import OF_THE_MACHINE
from partner_rl.types import PartnerError, RewardBreakdown, ScoreRequest
from tests.algorithm.toy import build_toy, toy_config

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.slow


def figures(algorithm: RewriteAlgorithm) -> dict[str, float]:
    algorithm.train()
    metrics = iteration_metrics(algorithm.last, 3)
    return {k: v for k, v in metrics.items() if not k.startswith(OF_THE_MACHINE)}


def kill_an_env_runner_and_await_its_return(algorithm: RewriteAlgorithm) -> None:
    (actor, *_) = algorithm.env_runner_group._worker_manager.actors().values()
    os.kill(ray.get(actor.apply.remote(lambda runner: os.getpid())), signal.SIGKILL)
    ray.get(actor.ping.options(max_task_retries=-1).remote())


def kill_a_learner(algorithm: RewriteAlgorithm) -> None:
    (actor, *_) = algorithm.learner_group._worker_manager.actors().values()
    os.kill(ray.get(actor.apply.remote(lambda learner: os.getpid())), signal.SIGKILL)


def failing(requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
    raise PartnerError("scorer 'letters' returned nan for row 0")


def test_an_error_for_the_user_comes_through_from_an_env_runner(local_ray):
    algorithm = build_toy(toy_config(num_env_runners=1), failing)
    try:
        # RLlib alone would restart the env runner, after a minute, and again.
        with pytest.raises(PartnerError, match="returned nan for row 0"):
            algorithm.train()
    finally:
        algorithm.stop()


def test_lost_learners_and_returned_env_runners_change_no_figure(local_ray, tmp_path):
    config = toy_config(num_env_runners=1, num_learners=2)
    quiet = build_toy(config)
    try:
        expected = [figures(quiet) for _ in range(3)]
        assert quiet.lost_learners() == 0
    finally:
        quiet.stop()

    disturbed = build_toy(config)
    try:
        assert figures(disturbed) == expected[0]
        # Its weights are those that training started from, which differ from the learners' now.
        kill_an_env_runner_and_await_its_return(disturbed)
        assert figures(disturbed) == expected[1]
        disturbed.save_training_state(tmp_path / "state")

        kill_a_learner(disturbed)
        with pytest.raises(RayError):
            disturbed.train()
        assert disturbed.lost_learners() >= 1
        disturbed.replace_learners()
        assert disturbed.lost_learners() == 0
        assert disturbed.restore_training_state(tmp_path / "state") == 2
        assert figures(disturbed) == expected[2]

        # Without a saved state, training begins anew.
        disturbed.replace_learners()
        assert figures(disturbed) == expected[0]
    finally:
        disturbed.stop()
