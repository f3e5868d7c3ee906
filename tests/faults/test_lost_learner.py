"""A learner that is killed in the middle of a training: its figures are those of a quiet one."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from launch.run_folder.folder import RunFolder
from launch.tracking.tracker import Tracker
from launch.training import rl_loop
from launch.training.rl_loop import train_policy
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.config.schema import CheckpointConfig, FaultsConfig, RunConfig, TrackingConfig
from partner_rl.metric_names import OF_THE_MACHINE
from partner_rl.models.sources import resolve
from rewards.pool import RewardPools
from tests.algorithm.toy import examples, toy_config
from tests.launch.training.test_watchdog import letters

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.slow

KILLED_AFTER = 3


def config(checkpoint_every: int, snapshot_mb: float) -> RunConfig:
    toy = toy_config(lora=True, iterations=5, num_learners=1, kl_coeff=0.1)
    parts = {
        "checkpoint": CheckpointConfig(every=checkpoint_every),
        "faults": FaultsConfig(snapshot_mb=snapshot_mb),
        "tracking": TrackingConfig(wandb="disabled", tensorboard=False),
    }
    return toy.model_copy(update=parts)


def trained(run_dir: Path, settings: RunConfig, pools: RewardPools, after_iteration=None) -> list[dict[str, Any]]:
    """The logged figures, without seconds."""
    run_dir.mkdir()
    policy = resolve("random:llama", None)
    run = RunFolder(run_dir)
    train_policy(settings, run, policy, examples(), pools.client(), resume=False, after_iteration=after_iteration)
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(OF_THE_MACHINE)} for row in rows]


def kill_learner(algorithm: RewriteAlgorithm) -> int:
    """Returns the number of the process that is no more."""
    (actor, *_) = algorithm.learner_group._worker_manager.actors().values()
    pid = ray.get(actor.apply.remote(lambda learner: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.fixture(scope="module")
def pools(local_ray, tmp_path_factory) -> Iterator[RewardPools]:
    with letters(tmp_path_factory.mktemp("learners") / "bed", "learners") as running:
        yield running


def test_a_killed_learner_costs_the_iteration_in_flight_or_those_since_the_checkpoint(pools, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    killed = []

    def kill_once(step: int, algorithm: RewriteAlgorithm) -> None:
        if step == KILLED_AFTER and not killed:
            killed.append(kill_learner(algorithm))

    quiet = trained(tmp_path / "quiet", config(10, 128.0), pools)
    assert [row["step"] for row in quiet] == [1, 2, 3, 4, 5]

    caplog.clear()
    assert trained(tmp_path / "memory", config(10, 128.0), pools, kill_once) == quiet
    assert "1 of 1 learners were lost: starting new ones" in caplog.text
    assert f"going on after iteration {KILLED_AFTER}" in caplog.text

    caplog.clear()
    killed.clear()
    assert trained(tmp_path / "disk", config(2, 0.0), pools, kill_once) == quiet
    assert "going on after iteration 2" in caplog.text
    exports = [(tmp_path / run / "export" / "model.safetensors").read_bytes() for run in ("quiet", "memory", "disk")]
    assert exports[0] == exports[1] == exports[2]


def test_an_iteration_that_was_logged_is_not_lost(pools, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    algorithms = []
    train_once, log = rl_loop._train_once, Tracker.log

    def remember(algorithm: RewriteAlgorithm) -> Any:
        algorithms.append(algorithm)
        return train_once(algorithm)

    def log_and_kill(tracker: Any, step: int, *arguments: Any) -> None:
        log(tracker, step, *arguments)
        if step == KILLED_AFTER:
            kill_learner(algorithms[-1])

    monkeypatch.setattr(rl_loop, "_train_once", remember)
    monkeypatch.setattr(Tracker, "log", log_and_kill)
    rows = trained(tmp_path / "logged", config(10, 128.0), pools)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert f"going on after iteration {KILLED_AFTER}" in caplog.text
