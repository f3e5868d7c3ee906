"""What the stall watchdog concludes and says, in closed form; and what `watch` shows of it."""

from __future__ import annotations

import io
import json
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from launch.commands.watch import WatchedRun, frame
from launch.run_folder.record import STALL_FILE, recorded
from launch.training.watchdog import ActorLocation, Watchdog, WatchedActor, diagnose, limit_of
from partner_rl.algorithm.phase_tracker import LOG, SAMPLE, UPDATE, Phase, PhaseTracker
from partner_rl.cluster.pending_calls import PendingCalls
from partner_rl.config.load import load_config, save_config

REWARD = WatchedActor("reward actor run-empathy-0", None, "run-empathy-0")
RUNNERS = [WatchedActor(f"env runner {i}", None) for i in (1, 2)]
PLACES = [ActorLocation(actor, "ALIVE", "10.0.0.7", 70 + i) for i, actor in enumerate(("a", "b", "c"))]


def test_a_reward_actor_that_others_wait_for_is_named_with_what_waits_behind_it():
    waits = [
        PendingCalls("b", 280.0, {"run-empathy-0": 3}),
        PendingCalls("c", 290.0, {"run-empathy-0": 2}),
        # That of another run on the same cluster.
        PendingCalls("z", 999.0, {"other-empathy-0": 9}),
    ]
    silent = [(REWARD, PLACES[0]), *zip(RUNNERS, PLACES[1:], strict=True)]
    stall = diagnose(Phase(SAMPLE, 12), 300.0, silent, waits)
    assert str(stall) == (
        "stalled: nothing has moved for 300 s in phase sample of iteration 12; it waits for reward actor "
        "run-empathy-0 (node 10.0.0.7, pid 70), 5 calls without an answer for 290 s; behind it: env runner 1, "
        "env runner 2"
    )


def test_an_env_runner_that_waits_for_nobody_is_named_itself():
    stopped = ActorLocation("b", "ALIVE", "10.0.0.7", 71, "stopped by a signal")
    stall = diagnose(Phase(SAMPLE, 1), 20.0, [(RUNNERS[0], stopped)], [])
    assert "it waits for env runner 1 (node 10.0.0.7, pid 71, stopped by a signal), 1 call without" in str(stall)
    homeless = ActorLocation("b", "RESTARTING", "", 0, "being started again")
    assert "env runner 1 (on no node, being started again)" in str(
        diagnose(Phase(SAMPLE, 1), 20.0, [(RUNNERS[0], homeless)], [])
    )


def test_where_every_actor_answers_it_is_the_driver():
    assert "it is the driver itself (node " in str(diagnose(Phase(LOG, 3), 20.0, [], []))


def test_a_phase_that_always_takes_long_is_given_longer():
    assert limit_of(300.0, 0.0) == 300.0
    assert limit_of(300.0, 50.0) == 300.0
    assert limit_of(300.0, 200.0) == 600.0


def test_median_seconds_are_those_of_the_phase_alone(monkeypatch):
    clock = iter([0.0, 10.0, 15.0, 45.0, 46.0, 76.0])
    # In the one module alone: other threads of this process look at the clock, too.
    monkeypatch.setattr("partner_rl.algorithm.phase_tracker.time", SimpleNamespace(monotonic=lambda: next(clock)))
    phases = PhaseTracker()
    for phase, iteration in ((SAMPLE, 1), (UPDATE, None), (SAMPLE, 2), (UPDATE, None), (SAMPLE, 3)):
        phases.begin(phase, iteration)
    assert phases.median_seconds(UPDATE) == 30.0
    assert phases.median_seconds(SAMPLE) == pytest.approx(3.0)
    assert phases.median_seconds(LOG) == 0.0
    assert (phases.current.name, phases.current.iteration) == (SAMPLE, 3)


def test_who_answers_the_second_call_is_not_killed(monkeypatch, tmp_path, caplog):
    killed: list[int] = []
    monkeypatch.setattr("launch.training.watchdog.kill_process", lambda place: killed.append(place.pid))
    settings = load_config("smoke", ["faults.stall_s=5", "faults.replace_stalled_s=10"]).faults
    phases = PhaseTracker()
    phases.begin(SAMPLE, 1)
    dog = Watchdog(phases, list, settings, tmp_path)
    # The second env runner was only slow.
    monkeypatch.setattr(
        dog, "_pinger", SimpleNamespace(silent=lambda asked: [one for one in asked if one == RUNNERS[0]])
    )
    stall = diagnose(phases.current, 20.0, list(zip(RUNNERS, PLACES[1:], strict=True)), [])
    dog._replace(stall, 20.0, RUNNERS)
    assert killed == [PLACES[1].pid]
    assert "env runner 1 is killed" in caplog.text
    # Meanwhile the run has gone on.
    phases.begin(UPDATE)
    dog._replace(stall, 20.0, RUNNERS)
    assert len(killed) == 1


def test_watch_shows_who_a_run_waits_for_while_it_does(tmp_path, monkeypatch):
    run = tmp_path / "run"
    save_config(load_config("smoke"), run / "config.yaml")
    noticed = float(int(time.time()))
    # However long it takes until the frame is drawn.
    monkeypatch.setattr("launch.commands.watch.time", SimpleNamespace(time=lambda: noticed + 65.0))
    record = {"noticed": noticed, "message": "stalled: nothing has moved; it waits for env runner 1"}
    (run / STALL_FILE).write_text(json.dumps(record))

    def shown() -> str:
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(frame(WatchedRun(run).look()))
        return console.export_text()

    with recorded(run):
        assert "1 min 05 s ago: stalled: nothing has moved; it waits for env runner 1" in shown()
        (run / STALL_FILE).unlink()
        assert "stalled" not in shown()
    # Of a run that has ended, nothing stands still.
    (run / STALL_FILE).write_text(json.dumps(record))
    assert "stalled" not in shown()
