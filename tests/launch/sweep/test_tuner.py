"""Tune's part of a sweep on a real local Ray, with trials that compute a formula instead of training."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from launch.sweep.remaining import RemainingTrials
from launch.sweep.space import Point, planned_points
from launch.sweep.spec import METRICS, SweepSpec, checked_spec
from launch.sweep.trial import _origin, _report
from launch.sweep.trial_records import SweepFolder, TrialEvaluation, TrialRecord
from launch.sweep.tuner import run_trials, set_up_tune
from tests.helpers.waiting import wait_until

KEY = "rewards.empathy.weight"
ITERATIONS = 6

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster(no_ray: None) -> None:
    set_up_tune()
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)


def metrics(weight: float) -> dict[str, float]:
    """Empathy is best at 1, edit rate at 0: every weight in between is on the front."""
    return dict.fromkeys(METRICS, 1.0) | {"change_in_empathy": -((weight - 1.0) ** 2), "edit_rate": abs(weight)}


def formula(folder: Path, interval: int, together: int, config: Mapping[str, Any]) -> None:
    """A trial that goes on where it was: its state is the iterations that it has behind it.

    It waits after its first evaluation until `together` trials have had theirs: trials this short would otherwise be
    over before the next process is up, and PBT compares only trials that run.
    """
    point, sweep = Point(config["trial"]["number"], config["trial"]["values"]), SweepFolder(folder)
    record = sweep.start(point)
    weight = float(str(point.values[KEY]))
    origin = _origin(point.name)
    done = record.last.iterations if record.last else 0
    if origin is not None:
        with (folder / "origins.jsonl").open("a") as file:
            file.write(json.dumps([point.name, origin.trial, origin.iterations, weight]) + "\n")
        done = origin.iterations
    if weight > 90.0:
        sweep.write(record.model_copy(update={"status": "failed", "reason": "the weight is too much"}))
        return
    if weight < -90.0 and record.starts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for step in range(done + interval, ITERATIONS, interval):
        record = sweep.write(record.evaluated(TrialEvaluation(iterations=step, metrics=metrics(weight))))
        _report(TrialEvaluation(iterations=step, metrics=metrics(weight)))
        wait_until(lambda: sum(bool(known.history) for known in sweep.records()) >= together, "trials do not begin")
    last = TrialEvaluation(iterations=ITERATIONS, metrics=metrics(weight))
    sweep.write(record.evaluated(last).model_copy(update={"status": "finished"}))
    _report(last, ended=True)


def spec_of(**values: Any) -> SweepSpec:
    goals = {"change_in_empathy": "max", "edit_rate": "min"}
    return checked_spec({"objectives": goals, "evaluate_every": 1, **values}, "test")


def run(folder: Path, spec: SweepSpec, interval: int = 1, concurrent: int = 2, together: int = 1) -> list[TrialRecord]:
    sweep = SweepFolder(folder)
    known = sweep.records()
    planned = planned_points(spec)
    ended = {record.number for record in known if record.status != "running"}
    pending = [record.point for record in known if record.number not in ended]
    if planned is not None:
        pending = [point for point in planned if point.number not in ended]
    proposals = spec.num_samples - len(known) if planned is None else 0
    remaining = RemainingTrials(spec, known, pending, proposals, ITERATIONS)
    trial = partial(formula, folder, interval, together)
    run_trials(sweep, remaining, trial, [{"CPU": 1.0}], concurrent, lambda done, total: None).settle()
    return sweep.records()


def test_a_failing_trial_and_a_lost_process_do_not_stop_the_others(cluster, tmp_path):
    spec = spec_of(search="grid", space={KEY: {"grid": [0.5, 99.0, -99.0, 1.0]}})
    records = run(tmp_path, spec)
    assert [record.status for record in records] == ["finished", "failed", "finished", "finished"]
    assert records[1].reason == "the weight is too much"
    assert records[2].starts == 2
    # A trial's own mistake is found once.
    assert records[1].starts == 1


def test_a_process_that_keeps_dying_is_reported(cluster, tmp_path):
    spec = spec_of(search="grid", space={KEY: {"grid": [-99.0, 1.0]}}, retries=0)
    records = run(tmp_path, spec)
    assert [record.status for record in records] == ["failed", "finished"]
    assert records[0].reason is not None
    assert "its process was lost" in records[0].reason
    assert "\n" not in records[0].reason


def test_optuna_searches_and_goes_on(cluster, tmp_path):
    space = {KEY: {"uniform": [-3.0, 3.0]}, "seed": {"randint": [1, 3]}, "env.positions": {"choice": ["all", "end"]}}
    first = run(tmp_path, spec_of(search="optuna", space=space, num_samples=4))
    assert [record.number for record in first] == [1, 2, 3, 4]
    # Interrupted in its fourth trial.
    SweepFolder(tmp_path).write(first[3].model_copy(update={"status": "running"}))
    records = run(tmp_path, spec_of(search="optuna", space=space, num_samples=12))
    assert len(records) == 12
    assert all(record.status == "finished" for record in records)
    assert records[:3] == first[:3]
    assert (records[3].values, records[3].starts) == (first[3].values, 2)
    assert len({json.dumps(record.values) for record in records}) == 12
    assert {type(record.values["seed"]) for record in records} == {int}


def test_asha_stops_the_worse_trials_early_and_remembers_them(cluster, tmp_path):
    spec = spec_of(
        search="grid",
        space={KEY: {"grid": [1.0, 5.0, 4.0]}},
        scheduler="asha",
        grace_iterations=2,
        reduction_factor=2.0,
    )
    # One after the other, the best first.
    records = run(tmp_path, spec, concurrent=1)
    assert [record.status for record in records] == ["finished", "stopped", "stopped"]
    assert [record.last.iterations for record in records if record.last] == [ITERATIONS, 2, 2]
    # A resumed sweep compares with what it saw before.
    more = spec.model_copy(update={"space": checked_spec({"space": {KEY: {"grid": [1.0, 5.0, 4.0, 3.0]}}}, "x").space})
    assert run(tmp_path, more, concurrent=1)[3].status == "stopped"


def test_pbt_sends_bad_trials_on_from_good_ones_under_their_own_names(cluster, tmp_path):
    spec = spec_of(search="random", num_samples=4, space={KEY: {"uniform": [0.0, 5.0]}}, scheduler="pbt", seed=3)
    records = run(tmp_path, spec, concurrent=4, together=4)
    assert [record.name for record in records] == [f"trial-{number:04d}" for number in (1, 2, 3, 4)]
    assert all(record.status == "finished" for record in records)
    moves = [json.loads(line) for line in (tmp_path / "origins.jsonl").read_text().splitlines()]
    assert moves
    for name, origin, iterations, weight in moves:
        assert name != origin
        assert 0 < iterations < ITERATIONS
        assert 0.0 <= weight <= 5.0
    # All weights were those of the start when the first move was decided. Later ones depend on which trial was first:
    # a moved one may be better than the best of the start, and send that one on.
    distance = {point.name: abs(float(str(point.values[KEY])) - 1.0) for point in planned_points(spec) or ()}
    name, origin = moves[0][:2]
    assert distance[origin] < distance[name]
