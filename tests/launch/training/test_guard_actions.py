"""What alarms lead to: decisions in closed form, and runs of the real command that stop or go back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.tracking.tracker import Tracker
from launch.training.guard_actions import GUARDS_STATE, GuardWatch, RollBack, Stop, decide, host_memory, judged_gain
from partner_rl.algorithm.guard_limits import LIMITS
from partner_rl.algorithm.guards import Alarm
from partner_rl.algorithm.trajectory import Trajectory
from partner_rl.config.guard_schema import GuardsConfig
from partner_rl.config.load import load_config
from partner_rl.types import PartnerError, RewardBreakdown, ScoreRequest
from tests.helpers.command_line import partner
from tests.helpers.metric_keys import undeclared

ALARM = Alarm(LIMITS[0], 9.0, 9.5, 8.0, 3)
# Guards look at what is written, and the judge's gain is compared with empathy: no actors for the other rewards.
EMPATHY_ALONE = [f"rewards.{name}.weight=0" for name in ("fluency", "coherence", "mutual_information")]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_decisions() -> None:
    assert decide([], GuardsConfig(action="stop"), 7, 0) is None
    assert decide([ALARM], GuardsConfig(action="alarm"), 7, 0) is None
    stop = decide([ALARM], GuardsConfig(action="stop"), 7, 0)
    assert isinstance(stop, Stop)
    assert "guards.max_kl_sentence" in stop.reason
    assert "iteration 7" in stop.reason
    # The limit was first passed in iteration 5: a checkpoint after iteration 4 is the newest good one.
    roll_back = GuardsConfig(action="rollback", max_rollbacks=2)
    assert decide([ALARM], roll_back, 7, 1) == RollBack(before=5, attempt=2)
    longer = Alarm(LIMITS[1], 0.5, 0.5, 0.2, 6)
    assert decide([ALARM, longer], roll_back, 7, 0) == RollBack(before=2, attempt=1)
    given_up = decide([ALARM], roll_back, 7, 2)
    assert isinstance(given_up, Stop)
    assert "max_rollbacks" in given_up.reason
    # Neither stopping nor going back gives a machine its memory back.
    (machine, *_) = [guard for guard in LIMITS if guard.of_machine]
    for action in ("stop", "rollback"):
        assert decide([Alarm(machine, 0.1, 0.1, 0.003, 3)], GuardsConfig(action=action), 7, 0) is None


class LengthJudge:
    """A judge that finds empathy in length."""

    def levels(self, pairs: list[tuple[str, str]]) -> Any:
        return np.array([[len(response.split()), 0.0, 1.0] for _, response in pairs])


def trajectory(rewritten: str, reward: float | None) -> Trajectory:
    raw = {} if reward is None else {"empathy": reward}
    return Trajectory((), ScoreRequest("S", "a b", rewritten, (), ()), RewardBreakdown(raw))


def test_gains_of_a_judge_in_closed_form() -> None:
    found = judged_gain(LengthJudge(), [trajectory("a b c", 0.5), trajectory("a b c d e", 1.5)])
    assert (found.judge, found.reward, found.correlation) == pytest.approx((2.0, 1.0, 1.0))
    assert judged_gain(LengthJudge(), [trajectory("a b", 0.5), trajectory("a b", 1.5)]).correlation is None
    assert judged_gain(LengthJudge(), [trajectory("a b c", None)]).reward is None


def test_a_state_of_another_version_is_left_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    watch = GuardWatch(load_config("smoke"))
    empty = watch.state()
    watch.restore({GUARDS_STATE: empty})
    assert not caplog.records
    watch.restore({GUARDS_STATE: {"window": [{"kl": 0.1}], "judged": [], "streaks": {"kl": [1, 1]}}})
    assert "begin anew" in caplog.text
    assert watch.state() == empty


def test_the_memory_in_use_is_a_share() -> None:
    assert 0.0 < host_memory() < 1.0


def test_judging_without_a_judge_is_an_error() -> None:
    with pytest.raises(PartnerError, match=r"evaluation\.judge"):
        load_config("smoke", ["guards.judge_every=2"])


@pytest.mark.slow
def test_an_alert_reaches_wandb(tmp_path: Path) -> None:
    config = load_config("smoke", ["tracking.wandb=offline", "tracking.tensorboard=false"])
    with Tracker(tmp_path, config, config.tracking) as tracker:
        sink = tracker._sinks[1]
        sent: list[dict[str, Any]] = []
        alert = sink._run.alert
        sink._run.alert = lambda **values: (sent.append(values), alert(**values))
        tracker.alert("Guard kl", str(ALARM))
        assert sink._run is not None, "W&B failed"
    assert sent == [{"title": "Guard kl", "text": str(ALARM), "level": "WARN"}]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_guard_stops_a_run_and_the_judge_reads_it(commands_share_ray: None, tmp_path: Path) -> None:
    trained = partner("judge", "train", "--data", "sample", "-o", "judge", "--preset", "smoke", folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    guards = ["guards.action=stop", "guards.max_length_ratio=0.01", "guards.patience=2", "guards.judge_every=2"]
    arguments = ["--preset", "smoke", "name=g", "algorithm.iterations=5", "checkpoint.every=100", *guards]
    result = partner("train", *arguments, *EMPATHY_ALONE, "evaluation.judge=judge", folder=tmp_path)
    assert result.returncode == 1, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "length_ratio" in line
    assert "stopped after iteration 2 with a checkpoint" in line
    run = tmp_path / "runs" / "g"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["iteration-000002"]
    rows = records(run / "metrics.jsonl")
    assert [row["guard/alarms"] for row in rows] == [0, 1]
    assert all(row["guard/length_ratio"] > 0.01 for row in rows)
    assert all(0.0 < row["machine/memory"] < 1.0 and row["machine/alarms"] == 0.0 for row in rows)
    assert "guard/judge_gain" not in rows[0]
    assert undeclared(key for row in rows for key in row) == []
    assert rows[1]["guard/judge_gap"] == pytest.approx(rows[1]["guard/reward_gain"] - rows[1]["guard/judge_gain"])
    for sample in records(run / "samples.jsonl"):
        assert sample["rewritten_response"] not in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_guard_sends_a_run_back_and_then_stops_it(commands_share_ray: None, tmp_path: Path) -> None:
    # Four rewrites an iteration: the guard has enough sentences in the second one at the earliest, after a checkpoint.
    guards = ["guards.action=rollback", "guards.max_commonest_share=0", "guards.patience=1", "guards.min_rewrites=5"]
    more = ["guards.max_rollbacks=1", "guards.rollback_kl_factor=3.0", "algorithm.kl_coeff=0.1"]
    arguments = ["--preset", "smoke", "name=g", "algorithm.iterations=5", "checkpoint.every=1", *guards, *more]
    result = partner("train", *arguments, *EMPATHY_ALONE, folder=tmp_path)
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("rollback 1 of 1") == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "1 rollbacks (guards.max_rollbacks) did not help" in line
    run = tmp_path / "runs" / "g"
    rows = records(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["policy/kl_coeff"] == pytest.approx(0.3)
    assert [row["policy/kl_coeff"] for row in rows[:-1]] == pytest.approx([0.1] * (len(rows) - 1))
    states = {path.name: json.loads((path / "state.json").read_text()) for path in (run / "checkpoints").iterdir()}
    newest = max(states.values(), key=lambda state: state["iterations"])
    assert (newest["iterations"], newest["extra"]["attempt"]) == (len(rows), 1)
