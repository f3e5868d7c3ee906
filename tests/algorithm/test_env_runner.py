"""Sampling in chunks: rewards are computed while the next chunk is generated; nothing depends on who is faster."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from envs.vector_env import RewriteVectorEnv
from partner_rl.algorithm.env_runner import Chunk, roll
from partner_rl.algorithm.trajectory import SampledGroup, Step
from partner_rl.config.schema import EnvConfig, PolicyConfig
from partner_rl.models.sources import resolve
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy
from partner_rl.types import PartnerError, RewardBreakdown, ScoreRequest
from tests.algorithm.toy import build_toy, count_letter, examples, toy_config

WINDOW = 3
SAMPLES = 3
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(resolve("random:llama", None), PolicyConfig(max_new_tokens=4, unfinished="keep"), WINDOW)


def chunks(
    policy: Policy, score=count_letter, *, numbers: Sequence[int] = (0, 1, 2), max_edits: int = 1, greedy: bool = False
) -> list[Chunk]:
    """Chunks of two groups each; a chunk's number says which examples and which random numbers."""
    env = RewriteVectorEnv(1, score, EnvConfig(window=WINDOW, max_edits=max_edits))
    return [
        Chunk(env, examples()[2 * n : 2 * n + 2], SAMPLES, greedy, torch.Generator().manual_seed(n)) for n in numbers
    ]


class SlowScorer:
    """Counts a letter after a while, and remembers whom it was asked about and by how many at once.

    The while is over when the next chunk has been generated, and with the last chunk when the policy waits for the
    answer. Each of these takes a second of a clock that nothing else moves on, so that no metric depends on how busy
    the machine is. A policy that does not generate meanwhile is noticed: then it never is over.
    """

    def __init__(self, chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.running, self.most = [], 0, 0
        self.now = 0.0
        self._calls, self._acts = count(), count()
        self._begun = [threading.Event() for _ in range(chunks)]
        self._generated = [threading.Event() for _ in range(chunks)]
        self._waits = threading.Semaphore(0)
        self._act, self._result = Chunk.act, Future.result
        policy_thread = threading.get_ident()

        def act(chunk: Chunk, *arguments: Any) -> Any:
            number = next(self._acts)
            if number:
                assert self._begun[number - 1].wait(PATIENCE_S), "the chunk before is not scored meanwhile"
            actions = self._act(chunk, *arguments)
            self.now += 1.0
            self._generated[number].set()
            return actions

        def result(future: Any, timeout: float | None = None) -> Any:
            if threading.get_ident() == policy_thread:
                self._waits.release()
            return self._result(future, timeout)

        monkeypatch.setattr(Chunk, "act", act)
        monkeypatch.setattr(Future, "result", result)
        monkeypatch.setattr("partner_rl.algorithm.env_runner.time", SimpleNamespace(perf_counter=lambda: self.now))

    def __call__(self, requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
        number = next(self._calls)
        self.running += 1
        self.most = max(self.most, self.running)
        self._begun[number].set()
        if number + 1 < len(self._begun):
            assert self._generated[number + 1].wait(PATIENCE_S), "the next chunk is not generated meanwhile"
        else:
            for _ in self._begun:
                assert self._waits.acquire(timeout=PATIENCE_S), "nobody waits for the answer"
            self.now += 1.0
        self.asked.append([request.seeker_post for request in requests])
        self.running -= 1
        return count_letter(requests)


def test_a_slow_scorer_changes_nothing_but_the_time(policy: Policy, monkeypatch: pytest.MonkeyPatch):
    fast = roll(policy, chunks(policy))
    scorer = SlowScorer(3, monkeypatch)
    slow = roll(policy, chunks(policy, scorer))
    assert slow.groups == fast.groups
    assert [g.example for g in slow.groups] == examples()[:6]
    assert scorer.most == 1
    assert [posts[0] for posts in scorer.asked] == [examples()[i].seeker_post for i in (0, 2, 4)]
    # Behind the second and the third chunk, the scoring of the one before is hidden; that of the last one is not.
    assert (slow.generate_s, slow.overlap_s, slow.score_s) == (3.0, 2.0, 1.0)


def test_a_single_chunk_has_nothing_to_hide(policy: Policy, monkeypatch: pytest.MonkeyPatch):
    rollout = roll(policy, chunks(policy, SlowScorer(1, monkeypatch), numbers=(0,)))
    assert (rollout.generate_s, rollout.overlap_s, rollout.score_s) == (1.0, 0.0, 1.0)


def test_a_chunk_does_not_depend_on_those_beside_it(policy: Policy):
    together = roll(policy, chunks(policy, max_edits=2)).groups
    alone = [g for n in range(3) for g in roll(policy, chunks(policy, numbers=(n,), max_edits=2)).groups]
    assert list(together) == alone


def test_episodes_of_several_edits_roll_to_their_ends(policy: Policy):
    groups = roll(policy, chunks(policy, max_edits=3, greedy=True)).groups
    lengths = {len(t.steps) for g in groups for t in g.trajectories}
    assert max(lengths) >= 3
    for group in groups:
        assert len(group.trajectories) == SAMPLES
        for trajectory in (*group.trajectories, group.greedy):
            assert trajectory is not None
            assert trajectory.request.original_response == group.example.response_post
            assert trajectory.breakdown == count_letter([trajectory.request])[0]


@pytest.mark.parametrize("max_edits", [1, 2])
def test_the_greedy_episode_changes_no_sample_and_needs_no_seed(policy: Policy, max_edits: int):
    def actions(groups):
        return [[[s.action for s in t.steps] for t in g.trajectories] for g in groups]

    without = roll(policy, chunks(policy, max_edits=max_edits)).groups
    beside = roll(policy, chunks(policy, max_edits=max_edits, greedy=True)).groups
    assert actions(beside) == actions(without)
    assert all(g.greedy is None for g in without)
    env = RewriteVectorEnv(1, count_letter, EnvConfig(window=WINDOW, max_edits=max_edits))
    other_seed = [Chunk(env, examples()[:6], 1, True, torch.Generator().manual_seed(99))]
    again = roll(policy, other_seed).groups
    assert [[s.action for s in g.greedy.steps] for g in again] == [[s.action for s in g.greedy.steps] for g in beside]


def test_a_scorers_error_surfaces_and_ends_the_thread(policy: Policy):
    def broken(requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
        raise PartnerError("scorer 'letters' raised on request 0: no such letter")

    before = set(threading.enumerate())

    def is_left() -> bool:
        return any(t.name.startswith("env") for t in set(threading.enumerate()) - before)

    with pytest.raises(PartnerError, match="no such letter"):
        roll(policy, chunks(policy, broken))
    deadline = time.monotonic() + PATIENCE_S
    while is_left() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_left()


def test_an_env_runner_cuts_its_groups_into_chunks(local_ray):
    algorithm = build_toy(toy_config(groups_per_chunk=2))
    try:
        call = {"examples": examples()[:4], "samples_per_group": 3, "seed": (3, 0, 0)}
        first, second = (algorithm.env_runner.sample(**call, greedy_baseline=True) for _ in range(2))
        assert first.groups == second.groups
        assert [g.example for g in first.groups] == examples()[:4]
        assert all(len(g.trajectories) == 3 and g.greedy is not None for g in first.groups)
        half = algorithm.env_runner.sample(**call | {"examples": examples()[:2]})
        # Products of another number of rows round differently.
        for found, expected in zip(_steps(half.groups), _steps(first.groups[:2]), strict=True):
            assert (found.prompt, found.action) == (expected.prompt, expected.action)
            assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    finally:
        algorithm.stop()


def _steps(groups: Sequence[SampledGroup]) -> list[Step]:
    return [step for group in groups for trajectory in group.trajectories for step in trajectory.steps]
