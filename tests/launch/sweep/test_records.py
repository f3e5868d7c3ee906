"""What a sweep keeps and reports: records, population-based training, the report; neither Ray nor a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from ray.exceptions import RayTaskError
from ray.tune.search import Searcher

from launch.run_folder.folder import RunFolder
from launch.run_folder.lock import alone
from launch.sweep import trial as trial_module
from launch.sweep.opening import checked_sweep, new_sweep
from launch.sweep.remaining import remaining_trials
from launch.sweep.report import chosen_config, schedule, sweep_result, write_report
from launch.sweep.search import OptunaProposals
from launch.sweep.sizing import sizing
from launch.sweep.space import Point
from launch.sweep.spec import METRICS, SHIPPED, SweepSpec, checked_spec, read_spec, spec_yaml
from launch.sweep.trial import Origin, TrialSetup, failure_reason, finite_metrics, lineage, trial_config
from launch.sweep.trial_records import SweepFolder, TrialEvaluation, TrialRecord, WeightsFrom
from partner_rl import metric_names
from partner_rl.algorithm.state import TrainingState
from partner_rl.config.load import load_config, save_config
from partner_rl.types import PartnerError
from tests.launch.sweep.specs import EMPATHY, LAMBDA, spec_of

# --- records ----------------------------------------------------------------------------------------------------------


def finished(number: int, empathy: float, edit_rate: float, **update: Any) -> TrialRecord:
    metrics = dict.fromkeys(METRICS, 0.5) | {"change_in_empathy": empathy, "edit_rate": edit_rate}
    record = TrialRecord(
        name=f"trial-{number:04d}",
        number=number,
        values={EMPATHY: float(number), "policy.lora": None},
        status="finished",
        starts=1,
        history=(TrialEvaluation(iterations=2, metrics=metrics),),
        seconds={"training": 1.5, "together": 2.0},
    )
    return record.model_copy(update=update)


def test_a_record_is_whole_or_absent_and_counts_starts(tmp_path):
    sweep = SweepFolder(tmp_path)
    point = Point(7, {EMPATHY: 1.0})
    assert sweep.read(point.name) is None
    sweep.start(point)
    assert sweep.start(point).starts == 2
    assert sweep.read("trial-0007") == sweep.records()[0]
    (tmp_path / "records" / "trial-0007.json").write_text("{")
    with pytest.raises(PartnerError, match=r"trial-0007\.json is damaged"):
        sweep.records()


def test_seconds_add_up_and_undone_evaluations_go(tmp_path):
    sweep = SweepFolder(tmp_path)
    known = sweep.write(finished(1, 0.0, 0.0))
    record = sweep.add_seconds(known.point, {"training": 1.0, "evaluation": 0.5})
    assert record.seconds == {"evaluation": 0.5, "together": 2.0, "training": 2.5}
    again = record.evaluated(TrialEvaluation(iterations=2, metrics={"perplexity": 1.0}))
    assert [found.iterations for found in again.history] == [2]
    assert again.last is not None
    assert again.last.metrics == {"perplexity": 1.0}


def test_a_failure_is_one_line_that_names_its_cause():
    assert failure_reason(PartnerError("no room\nhere"), redact=True) == "no room here"
    assert failure_reason(KeyError("a post"), redact=False) == "KeyError: 'a post'"
    assert failure_reason(KeyError("a post"), redact=True) == "KeyError"
    remote = RayTaskError("sample", "Traceback of the actor", PartnerError("no room"))
    assert failure_reason(remote, redact=True) == "no room"


def test_metrics_that_are_no_numbers_fail_the_trial():
    scores = dict.fromkeys(METRICS, 1.0) | {"distinct_sentences": None}
    assert finite_metrics(scores) == dict.fromkeys(METRICS, 1.0)
    with pytest.raises(PartnerError, match="perplexity of the rewrites is inf"):
        finite_metrics(scores | {"perplexity": float("inf")})


def test_a_stop_by_the_scheduler_is_an_interruption_of_the_run():
    with pytest.raises(KeyboardInterrupt):
        trial_module._report_or_stop(lambda found: sys.exit(0), TrialEvaluation(iterations=1, metrics={}))


def test_optuna_learns_from_trials_that_were_stopped_or_failed():
    spec = spec_of(
        search="optuna",
        space={EMPATHY: {"uniform": [0.0, 1.0]}},
        objectives={"change_in_empathy": "max", "perplexity": "min"},
    )
    ends = ["finished", "stopped", "failed"] * 8
    known = [finished(n, n / 9, 0.0, values={EMPATHY: n / 30}, status=end) for n, end in enumerate(ends, start=1)]
    spec = spec.model_copy(update={"num_samples": len(known) + 2})
    proposals = OptunaProposals(spec, known, [], {r.name: r for r in known}.get)
    first = proposals.suggest("a")
    assert first is not None
    proposals.on_trial_complete("a")
    second = proposals.suggest("b")
    assert second is not None
    assert [found["trial"]["number"] for found in (first, second)] == [25, 26]
    assert proposals.suggest("c") == Searcher.FINISHED


def test_a_base_that_is_a_runs_gives_trials_names_of_their_own(tmp_path):
    save_config(load_config("smoke", ["name=first"]), tmp_path / "config.yaml")
    (tmp_path / "s.yaml").write_text(spec_yaml(spec_of(base="config.yaml")))
    assert new_sweep(str(tmp_path / "s.yaml"), (), tmp_path / "out", None).config.name is None


def test_a_second_sweep_in_the_folder_is_refused(tmp_path):
    with (
        alone(tmp_path, "running a sweep"),
        pytest.raises(PartnerError, match="another process is running a sweep"),
        alone(tmp_path, "running a sweep"),
    ):
        pass


def test_only_what_has_not_ended_is_remaining_trials(tmp_path):
    sweep = checked_sweep(SweepFolder(tmp_path), spec_of())
    assert [point.number for point in remaining_trials(sweep).pending] == [1, 2, 3, 4]
    moved = {"status": "running", "values": {EMPATHY: 0.7, LAMBDA: 0.2}}
    for record in (finished(1, 0.0, 0.0), finished(2, 0.0, 0.0, status="failed"), finished(3, 0.0, 0.0, **moved)):
        sweep.folder.write(record)
    work = remaining_trials(sweep)
    # With PBT an interrupted trial has weights that its point in the space had not.
    assert [(point.number, point.values[EMPATHY]) for point in work.pending] == [(3, 0.7), (4, 1.0)]
    assert [point.number for point in remaining_trials(sweep, retry_failed=True).pending] == [2, 3, 4]


# --- population-based training ----------------------------------------------------------------------------------------


def weights(*pairs: tuple[int, float]) -> tuple[WeightsFrom, ...]:
    return tuple(WeightsFrom(iteration=iteration, weights={EMPATHY: weight}) for iteration, weight in pairs)


def test_a_lineage_is_that_of_the_policy():
    assert lineage(weights((1, 0.5), (6, 0.8)), 5, {EMPATHY: 2.0}) == weights((1, 0.5), (6, 2.0))
    assert lineage(weights((1, 0.5), (4, 0.8)), 6, {EMPATHY: 2.0}) == weights((1, 0.5), (4, 0.8), (7, 2.0))


def test_weights_that_changed_become_a_schedule(tmp_path):
    save_config(load_config("smoke"), tmp_path / "base.yaml")
    record = finished(1, 0.0, 0.0, values={EMPATHY: 2.0}, weights=weights((1, 0.5), (4, 1.0), (5, 1.0), (6, 2.0)))
    assert schedule(record.weights, EMPATHY) == [(1, 0.5), (3, 0.5), (4, 1.0), (5, 1.0), (6, 2.0)]
    config = chosen_config(str(tmp_path / "base.yaml"), record)
    assert config.rewards.empathy.weight == 2.0
    assert config.rewards.empathy.schedule == ((1, 0.5), (3, 0.5), (4, 1.0), (5, 1.0), (6, 2.0))
    steady = record.model_copy(update={"weights": weights((1, 0.5), (4, 0.5))})
    assert chosen_config(str(tmp_path / "base.yaml"), steady).rewards.empathy.schedule is None


def setup_of(sweep: SweepFolder, spec: SweepSpec) -> TrialSetup:
    plan = sizing(spec, load_config("smoke"), 1, 1, 0).plan
    return TrialSetup(sweep, spec, {"warmstart.checkpoint": "w"}, plan, None)


def test_a_scheduler_has_a_checkpoint_at_each_decision(tmp_path):
    sweep = SweepFolder(tmp_path)
    save_config(load_config("smoke", ["checkpoint.every=6"]), sweep.base_file)
    space = {EMPATHY: {"uniform": [0.0, 1.0]}}
    plain = trial_config(setup_of(sweep, spec_of()), Point(1, {EMPATHY: 0.3}))
    assert (plain.checkpoint.every, plain.checkpoint.keep_every) == (6, None)
    assert (plain.name, plain.tracking.group, plain.warmstart.checkpoint) == (
        "trial-0001",
        tmp_path.name,
        str(Path("w").absolute()),
    )
    assert plain.rewards.empathy.weight == 0.3
    pbt = spec_of(search="random", space=space, scheduler="pbt", evaluate_every=4)
    config = trial_config(setup_of(sweep, pbt), Point(1, {EMPATHY: 0.3}))
    assert (config.checkpoint.every, config.checkpoint.keep_every) == (2, 4)


def test_a_trial_goes_on_from_anothers_checkpoint_with_its_own_weights(tmp_path):
    sweep = SweepFolder(tmp_path)
    good, bad = sweep.run("trial-0001"), sweep.run("trial-0002")
    for run, marks in ((good, {4: 1}), (bad, {2: 2, 6: 2})):
        for iterations, mark in marks.items():
            TrainingState(iterations, {"mark": mark}, {}, {}).save(run.checkpoint(iterations))
    config = load_config("smoke", [f"{EMPATHY}=0.9", "name=trial-0002"])
    trial_module._adopt(sweep, bad, config, Origin("trial-0001", 4))
    assert [path.name for path in bad.saved_checkpoints()] == ["iteration-000002", "iteration-000004"]
    assert TrainingState.load(bad.checkpoint(4)).extra == {"mark": 1}
    assert RunFolder.open(bad.path)[1] == config
    assert good.checkpoint(4).is_dir()
    with pytest.raises(PartnerError, match="is gone"):
        trial_module._adopt(sweep, bad, config, Origin("trial-0001", 5))


# --- the report -------------------------------------------------------------------------------------------------------


def test_trials_that_did_not_finish_are_not_compared():
    spec = spec_of(objectives={"change_in_empathy": "max", "edit_rate": "min"})
    records = [
        finished(1, 1.0, 0.5),
        finished(2, 9.0, 0.0, status="stopped"),
        finished(3, 9.0, 0.0, status="failed"),
        finished(4, 0.9, 0.6),
        finished(5, 0.5, 0.1),
    ]
    found = sweep_result(spec, records)
    assert list(found.front) == ["trial-0001", "trial-0005"]
    assert sweep_result(spec, records[1:3]).chosen is None


def test_a_report_names_everything(tmp_path):
    sweep, spec = SweepFolder(tmp_path / "s"), spec_of(objectives={"change_in_empathy": "max", "edit_rate": "min"})
    space = {EMPATHY: {"choice": [1.0, 3.0]}, "policy.lora": {"choice": [None]}}
    spec = spec.model_copy(update={"space": checked_spec({"space": space}, "x").space})
    save_config(load_config("smoke"), sweep.base_file)
    records = [
        finished(1, 1.0, 0.5),
        finished(2, 0.2, 0.9),
        finished(3, 9.0, 0.0, status="failed", reason="a | b <script>", history=()),
    ]
    found = write_report(sweep, spec, records, [])
    assert found.chosen is records[0]
    markdown = (sweep.path / "report.md").read_text()
    assert "Chosen: trial-0001" in markdown
    assert "a \\| b \\<script>" in markdown
    page = (sweep.path / "report.html").read_text()
    assert "<td>a | b &lt;script&gt;</td>" in page
    assert page.count("data:image/png;base64,") == 2
    assert load_config(str(sweep.chosen)) == load_config("smoke", [f"{EMPATHY}=1.0"])
    rows = pq.read_table(sweep.path / "trials.parquet").to_pylist()
    assert [row["on_front"] for row in rows] == [True, False, False]
    assert [row["change_in_empathy"] for row in rows] == [1.0, 0.2, None]
    assert [row[EMPATHY] for row in rows] == [1.0, 2.0, 3.0]
    assert [row["policy.lora"] for row in rows] == ["null"] * 3
    assert rows[2]["reason"] == "a | b <script>"
    report = json.loads((sweep.path / "report.json").read_text())
    assert (report["chosen"], report["front"]) == ("trial-0001", ["trial-0001"])


def test_a_report_without_a_finished_trial_says_so(tmp_path):
    sweep = SweepFolder(tmp_path)
    save_config(load_config("smoke"), sweep.base_file)
    failed = finished(1, 0.0, 0.0, status="failed", reason="no room", history=())
    assert write_report(sweep, spec_of(), [failed], []).chosen is None
    assert "No trial has finished" in (tmp_path / "report.md").read_text()
    assert not sweep.chosen.exists()


# --- W&B's own agents -------------------------------------------------------------------------------------------------


def test_an_agents_command_is_one_that_train_takes():
    """What an agent makes of the shipped file is what W&B's own function makes of it."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    sweep = yaml.safe_load((SHIPPED / "wandb_sweep.yaml").read_text())
    values = {key: {"value": (found["min"] + found["max"]) / 3} for key, found in sweep["parameters"].items()}
    given_to_command = create_sweep_command_args({"args": values})["args_no_hyphens"]
    command = [part for part in sweep["command"] if part != "${env}"]
    place = command.index("${args_no_hyphens}")
    command[place : place + 1] = given_to_command
    assert command[:2] == ["partner-rl", "train"]
    preset, overrides = command[command.index("--preset") + 1], [part for part in command if "=" in part]
    config = load_config(preset, overrides)
    for key, found in values.items():
        _, name, last = key.split(".")
        assert getattr(getattr(config.rewards, name), last) == found["value"]
    assert config.tracking.wandb == "online"
    assert sweep["metric"]["name"] == metric_names.reward_raw("empathy")
    spec, _ = read_spec("reward_weights")
    assert set(sweep["parameters"]) == set(spec.space)
