"""Actors that are killed in the middle of an iteration: the run goes on, and its metrics are those of a quiet run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.exceptions import RayTaskError

from launch.run_folder.folder import RunFolder
from launch.training.rl_loop import TrainingLoop
from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.config.reward_schema import RewardsConfig, RewardSection
from partner_rl.metric_names import OF_THE_MACHINE
from partner_rl.types import PartnerError, ScoreRequest
from rewards.pool import NAMESPACE, create_pools
from rewards.scorer import ComponentScore, FloatArray, Item, RewardComponent
from tests.algorithm.toy import build_toy, toy_config

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class LetterReward:
    """The number of `e` in the rewritten response."""

    name: str = "empathy"
    width: int = 1

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        return ((request.rewritten_response,),)

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        return ComponentScore(float(values[0, 0]))


@dataclass(frozen=True)
class HeldLetters:
    """Where there is a folder to hold it, it leaves its process's number there and scores when the folder is gone.

    So whoever kills it then kills it in the middle of an iteration, however late.
    """

    hold: Path
    name: str = "empathy"

    def build(self) -> HeldLetters:
        return self

    def score(self, items: Sequence[Item]) -> FloatArray:
        while self.hold.exists():
            with suppress(FileNotFoundError):
                (self.hold / str(os.getpid())).touch()
            time.sleep(0.02)
        return np.array([[float(text.count("e"))] for (text,) in items], dtype=np.float32)


def train(run_id: str, hold: Path, kill: bool) -> list[dict[str, float]]:
    """Two iterations; in the second, all reward actors are killed while they score."""
    component = RewardComponent(LetterReward(), HeldLetters(hold), RewardSection(weight=1.0, replicas=2, micro_batch=4))
    settings = RewardsConfig(num_cpus=0.25, timeout_s=300.0)
    with create_pools({"empathy": component}, settings, run_id, 1) as pools:
        algorithm = build_toy(toy_config(), pools.client().score)
        try:
            algorithm.train()
            first = iteration_metrics(algorithm.last, 3)
            names = pools.spec.pools["empathy"].actors
            pids = [ray.get(ray.get_actor(name, namespace=NAMESPACE).ready.remote()) for name in names]
            if kill:
                hold.mkdir()
                threading.Thread(target=kill_when_scoring, args=(hold, pids), daemon=True).start()
            algorithm.train()
            return [first, iteration_metrics(algorithm.last, 3)]
        finally:
            algorithm.stop()


def kill_when_scoring(hold: Path, pids: Sequence[int]) -> None:
    while not all((hold / str(pid)).exists() for pid in pids):
        time.sleep(0.02)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    # Under another name at once, as those that were started again may leave their numbers there.
    hold.rename(hold.with_name(f"{hold.name}-over"))


def of_training(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if not k.startswith(OF_THE_MACHINE)}


@pytest.mark.slow
def test_killed_reward_actors_change_no_metric(local_ray, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    quiet = train("quiet", tmp_path / "quiet", kill=False)
    assert "lost an actor" not in caplog.text
    disturbed = train("disturbed", tmp_path / "disturbed", kill=True)
    assert "lost an actor" in caplog.text
    assert [of_training(m) for m in disturbed] == [of_training(m) for m in quiet]


@pytest.mark.slow
def test_a_killed_env_runner_is_replaced_and_changes_no_metric(local_ray):
    def run(kill: bool) -> list[dict[str, float]]:
        algorithm = build_toy(toy_config(num_env_runners=2))
        try:
            algorithm.train()
            if kill:
                pids = algorithm.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
                os.kill(pids[0], signal.SIGKILL)
            algorithm.train()
            return [iteration_metrics(algorithm.last, 3)]
        finally:
            algorithm.stop()

    assert [of_training(m) for m in run(kill=True)] == [of_training(m) for m in run(kill=False)]


@ray.remote
def refuse() -> None:
    raise PartnerError("lower algorithm.learning_rate")


@pytest.mark.reported
def test_what_a_learner_has_to_say_arrives_without_its_traceback(local_ray, tmp_path):
    with pytest.raises(RayTaskError) as wrapped:
        ray.get(refuse.remote())
    algo = build_toy(toy_config())
    with pytest.raises(PartnerError) as told:
        TrainingLoop(algo, toy_config(), RunFolder(tmp_path)).replace_lost_learners(wrapped.value)
    algo.stop()
    assert str(told.value) == "lower algorithm.learning_rate"
