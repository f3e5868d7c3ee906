"""The stall watchdog on a real Ray: a scorer that sleeps, and processes of every kind that a signal has stopped."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray

from launch.run_folder.reader import read_stall
from launch.training.watchdog import Watchdog, WatchedActor, watched_reward_actors
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.phase_tracker import PhaseTracker
from partner_rl.cluster.pending_calls import read_pending_calls
from partner_rl.config.reward_schema import RewardsConfig, RewardSection
from partner_rl.config.schema import FaultsConfig
from rewards.pool import RewardPools, create_pools
from rewards.scorer import FloatArray, Item, RewardComponent
from tests.algorithm.test_lost_actors import LetterReward
from tests.algorithm.toy import build_toy, toy_config
from tests.helpers.waiting import wait_until

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.slow

# Less than the minutes after which Ray gives up a process that says nothing.
TIMEOUT_S = 240.0


@dataclass(frozen=True)
class SleepyLetters:
    """Sleeps as long as a file is there."""

    bed: Path
    name: str = "empathy"

    def build(self) -> SleepyLetters:
        return self

    def score(self, items: Sequence[Item]) -> FloatArray:
        while self.bed.exists():
            time.sleep(0.05)
        return np.array([[float(text.count("e"))] for (text,) in items], dtype=np.float32)


def letters(bed: Path, run_id: str) -> RewardPools:
    section = RewardSection(weight=1.0, replicas=2, micro_batch=4)
    component = RewardComponent(LetterReward(), SleepyLetters(bed), section)
    return create_pools({"empathy": component}, RewardsConfig(num_cpus=0.25, timeout_s=300.0), run_id, 1)


@dataclass
class Crew:
    """A run with all kinds of actors; what the tests do to them is undone or survived."""

    algorithm: RewriteAlgorithm
    bed: Path
    rewards: list[WatchedActor]

    @property
    def candidates(self) -> list[WatchedActor]:
        return [*self.rewards, *(WatchedActor(name, actor) for name, actor in self.algorithm.remote_actors())]

    def process_of(self, name: str) -> int:
        (found,) = [candidate for candidate in self.candidates if candidate.name == name]
        # It may be on its way back.
        if found.ray_name:
            return ray.get(found.handle.ready.options(max_task_retries=-1).remote())
        return ray.get(found.handle.apply.options(max_task_retries=-1).remote(lambda actor: os.getpid()))

    def env_runners_wait(self) -> bool:
        """Whether every env runner has noted that it waits for a reward actor."""
        runners = {actor._actor_id.hex() for name, actor in self.algorithm.remote_actors() if name.startswith("env")}
        return runners <= {wait.client for wait in read_pending_calls() if wait.calls}

    @contextmanager
    def iterating(self, run_dir: Path, until: Callable[[], bool] | None = None, **settings: float) -> Iterator[None]:
        """An iteration in a thread of its own, watched; it is over at the end of the block.

        The watchdog begins to look when a condition holds, if there is one: on a busy machine, env runners that have
        not asked for rewards yet are themselves whom a run waits for.
        """
        phases = self.algorithm.phases = PhaseTracker()
        watchdog = Watchdog(phases, lambda: self.candidates, FaultsConfig(**settings), run_dir)
        with ThreadPoolExecutor(1) as thread:
            training = thread.submit(self.algorithm.train)
            try:
                if until is not None:
                    wait_until(lambda: training.done() or until(), "the iteration does not come so far")
                with watchdog:
                    yield
                    training.result(TIMEOUT_S)
            finally:
                # What the scorers sleep for; a block that fails would otherwise wait for them for ever.
                self.bed.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def crew(local_ray, tmp_path_factory) -> Iterator[Crew]:
    bed = tmp_path_factory.mktemp("crew") / "bed"
    with letters(bed, "crew") as pools:
        algorithm = build_toy(toy_config(num_env_runners=2, num_learners=1), pools.client().score)
        yield Crew(algorithm, bed, watched_reward_actors(pools.spec))
        algorithm.stop()


@pytest.fixture
def said(caplog) -> Callable[[], list[str]]:
    """The watchdog's warnings so far."""
    caplog.set_level(logging.INFO)

    def warnings() -> list[str]:
        return [
            r.getMessage()
            for r in caplog.records
            if r.name == "launch.training.watchdog" and r.levelno == logging.WARNING
        ]

    return warnings


@contextmanager
def let_go_on(pid: int) -> Iterator[None]:
    """A process that was stopped goes on at the end of the block."""
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_scorer_that_sleeps_is_named_and_not_the_env_runners_behind_it(crew, said, tmp_path):
    crew.bed.touch()
    with crew.iterating(tmp_path, crew.env_runners_wait, stall_s=7.0):
        wait_until(lambda: read_stall(tmp_path) is not None, "nothing is said of the stall")
        stall = read_stall(tmp_path)
        # It is said again with growing gaps.
        messages = said()
        crew.bed.unlink()
    message = messages[0]
    assert stall is not None
    assert stall[1] in messages
    assert "in phase sample of iteration " in message
    assert "; it waits for reward actor crew-empathy-" in message
    assert "calls without an answer for" in message
    assert "; behind it: env runner 1, env runner 2" in message
    assert read_stall(tmp_path) is None


@pytest.mark.parametrize(("name", "phase"), [("env runner 2", "sample"), ("learner 0", "update")])
def test_a_stopped_process_is_named_again_and_again_until_it_goes_on(crew, said, caplog, tmp_path, name, phase):
    pid = crew.process_of(name)

    def naming() -> list[str]:
        # Before that phase, the run may wait for others for a second; on a busy machine an idle actor may not answer
        # in time, and is named as well.
        signs = (
            f"in phase {phase} of iteration",
            f"it waits for {name} (node ",
            f"pid {pid}, stopped by a signal), 1 call without an answer for",
        )
        return [line for line in said() if all(sign in line for sign in signs)]

    # Before the iteration begins: it may be over within a moment.
    os.kill(pid, signal.SIGSTOP)
    with crew.iterating(tmp_path, stall_s=1.0), let_go_on(pid):
        wait_until(lambda: len(naming()) >= 2, "the stall is not said twice")
    assert f"goes on: phase {phase} of iteration" in caplog.text
    assert read_stall(tmp_path) is None


@pytest.mark.parametrize("name", ["env runner 1", "reward actor crew-empathy-0"])
def test_a_stopped_actor_is_replaced_where_that_is_asked_for(crew, said, tmp_path, name):
    pid = crew.process_of(name)
    os.kill(pid, signal.SIGSTOP)
    with crew.iterating(tmp_path, stall_s=6.0, replace_stalled_s=12.0):
        pass
    assert any(f"pid {pid}, stopped by a signal" in line for line in said())
    assert f"{name} is killed, so that another one takes its place" in said()
    assert crew.process_of(name) != pid
