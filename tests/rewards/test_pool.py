"""The pools on a real local Ray: parallel, cached, restarted, and strict about what comes back."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray

from partner_rl.config.reward_schema import EmpathyConfig, RewardsConfig, RewardSection
from partner_rl.types import PartnerError, ScoreRequest
from rewards.empathy import EmpathyBuilder, EmpathyReward
from rewards.local import LocalRewards
from rewards.mutual_information import MutualInformationBuilder, MutualInformationReward
from rewards.pool import ClientSpec, PoolSpec, RewardClient, RewardPools, create_pools
from rewards.scorer import ComponentScore, FloatArray, Item, RewardComponent, Scorer, ScorerBuilder

# Actors cannot import this file by name: what it defines travels by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


pytestmark = pytest.mark.usefixtures("local_ray")

HOLD = "hold"
"""While there is a file of this name beside the log, texts that begin with "held" are not scored."""


@dataclass(frozen=True)
class LengthReward:
    """Item: (rewritten,); value: its length."""

    name: str = "length"
    width: int = 1

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        return ((request.rewritten_response,),)

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        return ComponentScore(float(values[0, 0]))


@dataclass(frozen=True)
class ToyBuilder:
    """A scorer of lengths that logs what it scores."""

    log: Path | None = None

    def build(self) -> ToyScorer:
        if self.log is None:
            raise PartnerError("the toy model is missing: install it")
        return ToyScorer(self.log)


class ToyScorer:
    """Lengths of texts; texts named after a misbehaviour bring it about."""

    name = "length"

    def __init__(self, log: Path) -> None:
        self.log = log

    def score(self, items: Sequence[Item]) -> object:
        texts = [text for (text,) in items]
        with self.log.open("a") as file:
            file.writelines(f"{os.getpid()} {text}\n" for text in texts)
        if "nothing" in texts:
            return None
        values = [self.row(text) for text in texts]
        return values[:-1] if "short" in texts else values

    def row(self, text: str) -> object:
        rows = {"wide": [1.0, 2.0], "nan": [float("nan")], "none": None}
        match text:
            case "wide" | "nan" | "none":
                return rows[text]
            case "raise":
                raise ValueError(f"cannot score the text {text!r}")
            case "hang":
                time.sleep(3600)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case _ if text.startswith("slow"):
                time.sleep(0.15)
            case _ if text.startswith("held"):
                while self.log.with_name(HOLD).exists():
                    time.sleep(0.01)
        return [float(len(text))]


@dataclass(frozen=True)
class ThreadCheckingBuilder:
    """Builds a scorer where torch has the threads that were asked for."""

    builder: ScorerBuilder
    threads: int

    def build(self) -> Scorer:
        import torch

        if torch.get_num_threads() != self.threads:
            raise PartnerError(f"torch has {torch.get_num_threads()} threads")
        return self.builder.build()


def request(text: str) -> ScoreRequest:
    return ScoreRequest("seeker", "original", text, (), ())


def toy_pools(run_id: str, builder: ToyBuilder, start_timeout_s: float = 300.0, **changes: object) -> RewardPools:
    # A time limit that no machine is too busy for: an actor that it ends by mistake would change what tests count.
    settings = RewardsConfig.model_validate({"num_cpus": 0.25, "timeout_s": 300.0, "max_retries": 1} | changes)
    component = RewardComponent(LengthReward(), builder, RewardSection(weight=2.0, replicas=2, micro_batch=2))
    return create_pools({"length": component}, settings, run_id, 1, start_timeout_s=start_timeout_s)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toys") / "log"


@pytest.fixture(scope="module")
def toys(log: Path) -> Iterator[RewardPools]:
    with toy_pools("toys", ToyBuilder(log)) as pools:
        yield pools


@pytest.fixture
def scored(log: Path) -> Callable[[], list[tuple[int, str]]]:
    """Process id and text of what was scored since the test began.

    Tests ask for texts of their own: what an earlier call that failed had left in an actor's queue may follow late.
    """
    before = len(log.read_text()) if log.exists() else 0

    def lines() -> list[tuple[int, str]]:
        pairs = [line.split(" ", 1) for line in log.read_text()[before:].splitlines()]
        return [(int(pid), text) for pid, text in pairs]

    return lines


def test_requests_are_scored_in_order_and_repeats_once(toys: RewardPools, scored):
    client = RewardClient(replace(toys.spec, cache_size=4))
    texts = ["aaa", "b", "cc", "b", "aaa", "dddd"]
    found = client.score([request(text) for text in texts])
    assert [b.raw["length"] for b in found] == [len(text) for text in texts]
    client.score([request("b"), request("cc")])
    assert sorted(text for _, text in scored()) == ["aaa", "b", "cc", "dddd"]
    stats = client.stats()["length"]
    assert (stats.scored_items, stats.cache_hits, stats.retries) == (4, 2, 0)
    # Two new texts push the two least recently used ones out; "b" and "cc" were used last.
    client.score([request("eeeee"), request("ffffff")])
    client.score([request("b"), request("cc")])
    assert client.stats()["length"].scored_items == 6
    client.score([request("aaa")])
    assert client.stats()["length"].scored_items == 7


def test_without_a_cache_everything_is_scored_again(toys: RewardPools):
    client = RewardClient(replace(toys.spec, cache_size=0))
    for _ in range(2):
        assert len(client.score([request("a"), request("b")])) == 2
    assert client.stats()["length"].scored_items == 4


def test_replicas_share_the_work(toys: RewardPools, scored):
    client = toys.client()
    client.score([request(f"slow {i}") for i in range(8)])
    assert len({pid for pid, _ in scored()}) == 2
    assert client.stats()["length"].seconds > 0.15 * 8 * 0.9


def test_a_client_can_be_pickled_and_used_in_another_process(toys: RewardPools):
    @ray.remote(num_cpus=0)
    def score_there(client: RewardClient) -> float:
        return client.score([request("hello")])[0].raw["length"]

    client = pickle.loads(pickle.dumps(toys.client()))
    assert ray.get(score_there.remote(client)) == 5.0


def test_any_items_can_be_scored(toys: RewardPools):
    client = toys.client()
    assert client.score_items("length", [("aa",), ("b",), ("aa",)]).tolist() == [[2.0], [1.0], [2.0]]
    assert client.score_items("length", []).shape == (0, 1)
    assert client.score([]) == []
    with pytest.raises(PartnerError, match="no reward pool 'other'"):
        client.score_items("other", [("a",)])
    with pytest.raises(PartnerError, match="not finite for row 2"):
        client.score_items("length", [("x",), ("x",), ("nan",)])


def test_what_weighs_nothing_is_not_computed(toys: RewardPools):
    pool = replace(toys.spec.pools["length"], is_active=False)
    (breakdown,) = RewardClient(replace(toys.spec, pools={"length": pool})).score([request("raise")])
    assert not breakdown.raw


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "returned NoneType for the items of rows? "),
        ("short", "rows for the 2 items of rows"),
        ("wide", "2 numbers instead of 1 for row 2"),
        ("nan", "not finite for row 2"),
        ("none", "NoneType instead of 1 numbers for row 2"),
        ("raise", "raised on row 2: ValueError at test_pool.py:"),
    ],
)
def test_bad_answers_name_scorer_and_row(toys: RewardPools, text: str, message: str):
    requests = [request("x"), request("y"), request(text), request("a long text")]
    with pytest.raises(PartnerError, match=message) as caught:
        toys.client().score(requests)
    assert "'length'" in str(caught.value)
    assert "'raise'" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sigkill_in_the_middle_of_a_batch_loses_and_doubles_nothing(
    toys: RewardPools, log: Path, scored, caplog: pytest.LogCaptureFixture
):
    # One of them, in the middle, is held until its process is dead.
    texts = [("held" if i == 5 else "slow") + "!" * i for i in range(12)]
    client = toys.client()
    hold = log.with_name(HOLD)
    hold.touch()

    def kill_mid_batch() -> None:
        while not (holding := [pid for pid, text in scored() if text == texts[5]]):
            time.sleep(0.01)
        os.kill(holding[0], signal.SIGKILL)
        hold.unlink()

    killer = threading.Thread(target=kill_mid_batch, daemon=True)
    killer.start()
    with caplog.at_level(logging.WARNING):
        found = client.score([request(text) for text in texts])
    killer.join()
    assert [b.raw["length"] for b in found] == [len(text) for text in texts]
    stats = client.stats()["length"]
    assert stats.scored_items == 12
    assert 1 <= stats.retries <= 2
    assert {text for _, text in scored()} >= set(texts)
    assert "lost an actor" in caplog.text
    assert "slow" not in caplog.text
    assert "held" not in caplog.text
    # The dead actor comes back: a busy machine takes some seconds to start a process.
    deadline = time.monotonic() + 300
    while len({pid for pid, _ in scored()}) < 3 and time.monotonic() < deadline:
        client.score([request(f"slow again {i} {time.monotonic()}") for i in range(8)])
    assert len({pid for pid, _ in scored()}) == 3


def test_a_hanging_scorer_is_restarted_and_then_reported(log: Path, scored):
    with toy_pools("hanging", ToyBuilder(log), timeout_s=4.0) as pools:
        client = pools.client()
        with pytest.raises(PartnerError, match=r"lost its actor 2 times on the \d items of row") as caught:
            client.score([request("fine"), request("hang"), request("also fine")])
        assert "rewards.timeout_s = 4 s" in str(caught.value)
        hung = [pid for pid, text in scored() if text == "hang"]
        assert len(hung) == 2
        assert client.score([request("other")])[0].raw["length"] == 5.0


def test_a_scorer_that_kills_its_process_is_reported(toys: RewardPools):
    client = RewardClient(replace(toys.spec, max_retries=0))
    with pytest.raises(PartnerError, match="lost its actor 1 times on the 1 items of row 0"):
        client.score([request("die")])


def test_a_model_that_cannot_be_built_is_reported_at_the_start():
    with pytest.raises(PartnerError, match="reward pool 'length' did not start: the toy model is missing: install it"):
        toy_pools("unbuildable", ToyBuilder())
    deadline = time.monotonic() + 120
    while any("unbuildable" in actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)):
        assert time.monotonic() < deadline, "actors were left behind"
        time.sleep(0.1)


def test_actors_that_find_no_place_are_reported(log: Path):
    with pytest.raises(PartnerError, match=r"\['length'\] are not ready after 1 s: the cluster has .* CPU free"):
        toy_pools("homeless", ToyBuilder(log), start_timeout_s=1.0, num_cpus=99.0)


def test_missing_actors_are_reported():
    spec = ClientSpec({"length": PoolSpec(LengthReward(), ("nobody",), 2)}, 1.0, 1, 10)
    with pytest.raises(PartnerError, match="reward actor 'nobody' is not in this cluster"):
        RewardClient(spec).score([request("a")])


def test_a_name_cannot_be_taken_twice(toys: RewardPools, log: Path):
    with pytest.raises(PartnerError, match="exists already"):
        toy_pools("toys", ToyBuilder(log))


def test_rewards_in_actors_equal_the_local_ones(empathy_checkpoint: Path, model_cache: Path, texts: tuple[str, ...]):
    lm = "random:gpt2"
    settings = RewardsConfig(num_cpus=0.25)
    components = {
        "empathy": RewardComponent(
            EmpathyReward(),
            ThreadCheckingBuilder(EmpathyBuilder(empathy_checkpoint), min(2, os.cpu_count() or 1)),
            EmpathyConfig(micro_batch=5),
        ),
        "mutual_information": RewardComponent(
            MutualInformationReward(), MutualInformationBuilder(lm, lm, model_cache), settings.mutual_information
        ),
    }
    requests = [
        ScoreRequest(seeker, original, f"{candidate} {original}", (candidate,), (original,))
        for seeker, original in zip(texts, reversed(texts), strict=True)
        for candidate in ("I am so sorry.", "What happened today?")
    ]
    local = {"empathy": replace(components["empathy"], builder=EmpathyBuilder(empathy_checkpoint))}
    expected = LocalRewards(components | local).score(requests)
    progress: list[tuple[int, int]] = []
    with create_pools(components, settings, "real", 2, lambda done, total: progress.append((done, total))) as pools:
        found = pools.client().score(requests)
    assert progress == [(0, 2), (1, 2), (2, 2)]
    for there, here in zip(found, expected, strict=True):
        assert there.raw == pytest.approx(here.raw, abs=1e-4)
        assert there.details == pytest.approx(here.details, abs=1e-4)
