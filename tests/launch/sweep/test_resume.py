"""Going on with a sweep: what may change, what is tried again, and with which inputs; without training a trial."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from launch.commands.sweep import _print
from launch.run_folder.fingerprints import InputError
from launch.sweep.opening import Sweep, new_sweep, open_sweep, record_inputs
from launch.sweep.remaining import remaining_trials
from launch.sweep.report import write_report
from launch.sweep.spec import METRICS
from launch.sweep.trial import is_transient
from launch.sweep.trial_records import SweepFolder, TrialEvaluation, TrialRecord
from partner_rl.config.load import load_config
from partner_rl.types import PartnerError
from tests.helpers.command_line import run_here

pytestmark = pytest.mark.reported

SPEC = """
base: smoke
search: grid
space:
  rewards.empathy.weight: {grid: [0.5, 1.0]}
overrides: {data.source: pairs.parquet}
"""


@pytest.fixture
def begun(tmp_path, monkeypatch) -> Sweep:
    """A sweep whose first trial has ended; the corpus lies beside its spec."""
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    assert run_here("data", "convert", "sample", "there/pairs.parquet") == 0
    Path("there/s.yaml").write_text(SPEC)
    sweep = new_sweep("there/s.yaml", (), Path("out"), None)
    Path("out").mkdir()
    record_inputs(sweep)
    sweep.folder.write(record(1, "finished"))
    return sweep


def record(number: int, status: str, **update: object) -> TrialRecord:
    metrics = (TrialEvaluation(iterations=2, metrics=dict.fromkeys(METRICS, 0.5)),)
    history = metrics if status == "finished" else ()
    values = {"name": f"trial-{number:04d}", "number": number, "values": {"rewards.empathy.weight": number / 2}}
    return TrialRecord.model_validate({**values, "status": status, "history": history, **update})


def test_a_sweep_goes_on_from_another_folder(begun, tmp_path, monkeypatch):
    Path("out").rename("moved")
    monkeypatch.chdir(tmp_path / "there")
    sweep = open_sweep(Path("../moved"), None)
    assert sweep.config == begun.config
    record_inputs(sweep)
    assert [point.number for point in remaining_trials(sweep).pending] == [2]


def test_other_pairs_are_refused_and_the_same_elsewhere_taken(begun, tmp_path):
    corpus = tmp_path / "there" / "pairs.parquet"
    content = corpus.read_bytes()
    pq.write_table(pq.read_table(corpus)[1:], corpus)
    with pytest.raises(InputError, match="does not hold the pairs"):
        record_inputs(open_sweep(Path("out"), None))
    corpus.unlink()
    with pytest.raises(InputError, match=r"is gone: .* partner-rl sweep --resume out data.source=PLACE"):
        open_sweep(Path("out"), None)
    (tmp_path / "here.parquet").write_bytes(content)
    record_inputs(open_sweep(Path("out"), None, ("data.source=here.parquet",)))
    assert load_config("out/base.yaml").data.source == str(tmp_path / "here.parquet")
    assert open_sweep(Path("out"), None).config.data.source == str(tmp_path / "here.parquet")


@pytest.mark.parametrize(
    "override", ["seed=1", "algorithm.iterations=9", "algorithm.learning_rate=1", "rewards.empathy.weight=3", "name=x"]
)
def test_a_key_that_may_not_change_is_named(begun, capsys, override):
    assert run_here("sweep", "--resume", "out", override, "--dry-run") == 1
    message = capsys.readouterr().err
    assert override.partition("=")[0] in message
    assert message.count("\n") == 1


def test_what_may_change_holds_for_the_trials_to_come(begun):
    record_inputs(open_sweep(Path("out"), None, ("faults.stall_s=7", "checkpoint.keep=5")))
    assert load_config("out/base.yaml").faults.stall_s == 7.0


def test_an_edited_base_is_named(begun):
    base = Path("out/base.yaml")
    base.write_text(base.read_text().replace("window: 3", "window: 4"))
    with pytest.raises(PartnerError, match=r"env\.window"):
        open_sweep(Path("out"), None)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("- 0.5", "- 0.7", "space"),
        ("split: dev", "split: test", "split"),
        ("seed: 0", "seed: 1", "seed"),
        ("scheduler: none", "scheduler: asha", "scheduler"),
    ],
)
def test_an_edited_spec_is_named(begun, old, new, key):
    spec = Path("out/sweep.yaml")
    assert old in spec.read_text()
    spec.write_text(spec.read_text().replace(old, new))
    with pytest.raises(PartnerError, match=f"{key} was changed since the sweep began"):
        open_sweep(Path("out"), None)


def test_more_trials_and_other_places_for_them_are_welcome(begun):
    spec = Path("out/sweep.yaml")
    spec.write_text(spec.read_text().replace("trial_cpus: 1.0", "trial_cpus: 2.0").replace("retries: 1", "retries: 3"))
    assert open_sweep(Path("out"), 40).spec.num_samples == 40


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError(28, "No space left on device"), True),
        (raised_from(PartnerError("checkpoint cannot be written"), OSError(28, "full")), True),
        (InputError("data.source: gone"), True),
        (ActorDiedError(), True),
        (RayTaskError("score", "trace", InputError("gone")), True),
        (PartnerError("guard: too long"), False),
        (ValueError("bad"), False),
        (RayTaskError("score", "trace", ValueError("bad")), False),
    ],
)
def test_only_what_lies_outside_of_a_trial_is_no_fault_of_its_own(error, transient):
    assert is_transient(error) == transient


def test_a_blameless_failure_is_tried_again(begun):
    begun.folder.write(record(2, "failed", reason="full", transient=True))
    assert [point.number for point in remaining_trials(begun).pending] == [2]
    begun.folder.write(record(2, "failed", reason="guard"))
    assert not remaining_trials(begun).pending
    assert [point.number for point in remaining_trials(begun, retry_failed=True).pending] == [2]


@pytest.mark.parametrize("ends", [("finished", "failed"), ("failed", "failed")])
def test_failed_trials_show_in_the_status(begun, ends):
    folder = SweepFolder(begun.folder.path)
    records = [folder.write(record(number, end, reason="no room")) for number, end in enumerate(ends, start=1)]
    found = write_report(folder, begun.spec, records, [])
    with pytest.raises(PartnerError, match="failed"):
        _print(found, begun)


def test_all_trials_that_ended_well_are_status_0(begun):
    records = [begun.folder.write(record(number, "finished")) for number in (1, 2)]
    _print(write_report(begun.folder, begun.spec, records, []), begun)


def test_a_sweep_without_fingerprints_goes_on_with_a_warning_once(begun, caplog):
    Path("out/fingerprints.json").unlink()
    record_inputs(open_sweep(Path("out"), None))
    assert caplog.text.count("does not say what it began with") == 1
    record_inputs(open_sweep(Path("out"), None))
    assert caplog.text.count("does not say what it began with") == 1


def test_a_swept_corpus_is_each_trials_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_here("data", "convert", "sample", "a.parquet") == 0
    shutil.copy("a.parquet", "b.parquet")
    Path("s.yaml").write_text(
        "base: smoke\nsearch: grid\nspace:\n  data.source: {grid: [a.parquet, b.parquet]}\noverrides: {}\n"
    )
    sweep = new_sweep("s.yaml", (), Path("out"), None)
    Path("out").mkdir()
    record_inputs(sweep)
    Path("a.parquet").rename("c.parquet")
    assert open_sweep(Path("out"), None).config == sweep.config
