"""Going on with a run: with other values, from elsewhere, with inputs that have moved or are not the same."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.run_folder.fingerprints import (
    FINGERPRINTS_FILE,
    Fingerprints,
    InputError,
    allowed_changes,
    read_fingerprints,
    settings_of,
)
from launch.run_folder.folder import RunFolder
from launch.run_folder.reader import read_run
from launch.run_folder.record import read_record, update_record
from launch.training.phases import load_splits
from launch.training.resuming import open_to_resume, record_inputs
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.state import TrainingState
from partner_rl.config.describe import describe_fields
from partner_rl.config.load import load_config
from partner_rl.types import PartnerError
from tests.helpers.command_line import run_here

pytestmark = pytest.mark.reported

SETTINGS = ["algorithm.iterations=1", "resources.driver_threads=1", "resources.actor_threads=1"]
# One scorer: each has an actor that must be started.
SETTINGS += [f"rewards.{name}.weight=0" for name in ("empathy", "coherence", "mutual_information")]


def write_pairs(path: Path, change: Callable[[pa.Table], pa.Table] = lambda pairs: pairs) -> Path:
    """The sample corpus, changed."""
    assert run_here("data", "convert", "sample", path) == 0
    pq.write_table(change(pq.read_table(path)), path)
    return path


@pytest.fixture(scope="module")
def trained(commands_share_ray, tmp_path_factory) -> Path:
    """A folder with a corpus, `pairs.parquet`, and a run of one iteration that was started there, `runs/run`."""
    folder = tmp_path_factory.mktemp("trained")
    write_pairs(folder / "pairs.parquet")
    with contextlib.chdir(folder):
        assert run_here("train", "--preset", "smoke", "name=run", "data.source=pairs.parquet", *SETTINGS) == 0
    return folder


@pytest.fixture
def place(trained, tmp_path, monkeypatch) -> Path:
    """A copy of the run in another place, which is the working directory; the corpus is where it was."""
    shutil.copytree(trained / "runs", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settled(path: Path, *overrides: str) -> RunFolder:
    """What `train --resume` does up to where it would compute."""
    run, config = open_to_resume(path, overrides)
    with run.resumable():
        record_inputs(run, config, load_splits(config))
    return run


# --- keys ---


def test_a_run_is_extended_from_another_place(place, trained):
    run = place / "moved" / "run"
    (run / "summary.json").write_text("{}")
    shutil.copy(trained / "pairs.parquet", place / "here.parquet")
    assert run_here("train", "--resume", "moved/run", "algorithm.iterations=2", "data.source=here.parquet") == 0
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert RunFolder(run).iterations == 2
    assert (run / "export" / "model.safetensors").read_bytes() != (
        trained / "runs" / "run" / "export" / "model.safetensors"
    ).read_bytes()
    found = read_run(run)
    assert (found.state, found.planned, found.iterations) == ("finished", 2, 2)
    assert [(one["key"], one["old"], one["new"]) for one in found.record["changes"]] == [
        ("algorithm.iterations", 1, 2),
        ("data.source", str(trained / "pairs.parquet"), str(place / "here.parquet")),
    ]
    # What was measured is about the policy after one iteration.
    assert not (run / "summary.json").exists()
    assert (run / "summary-iteration-000001.json").exists()
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=3", "seed=3"),
        ("algorithm.learning_rate=0.1", "algorithm.learning_rate"),
        ("rewards.empathy.weight=2", "rewards.empathy.weight"),
        ("rewards.fluency.schedule=[[1, 0.5]]", "rewards.fluency.schedule"),
        ("policy.lora.rank=8", "policy.lora"),
        ("reward_training.mi_lora=null", "reward_training.mi_lora"),
        ("data.max_empathy=2", "data.max_empathy"),
        ("algorithm.num_env_runners=1", "algorithm.num_env_runners"),
        ("tracking.redact=true", "tracking.redact"),
        ("tracking.project=other", "tracking.project"),
        ("warmstart.checkpoint=warm", "warmstart.checkpoint"),
        ("name=b", "rename or move the folder"),
        ("runs_dir=elsewhere", "rename or move the folder"),
        ("algorithm.iteration=9", "did you mean algorithm.iterations?"),
        ("algorithm.iterations=many", "expected integer"),
        ("algorithm.iterations", "KEY=VALUE"),
    ],
)
def test_a_key_that_may_not_change_is_named(place, capsys, override, said):
    before = (place / "moved" / "run" / "config.yaml").read_bytes()
    assert run_here("train", "--resume", "moved/run", "checkpoint.keep=5", override, "--dry-run") == 1
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert (place / "moved" / "run" / "config.yaml").read_bytes() == before


def test_what_may_change_is_said(place):
    with pytest.raises(PartnerError) as caught:
        open_to_resume(place / "moved" / "run", ["seed=3"])
    for words in ("algorithm.iterations", "checkpoint.*", "tracking.* (not project, entity, redact)", "resources.*"):
        assert words in str(caught.value)


def test_what_decides_the_result_is_not_adjustable():
    adjustable = {field.key for field in describe_fields() if field.is_adjustable}
    assert {"algorithm.iterations", "checkpoint.every", "faults.stall_s", "rewards.fluency.num_gpus"} <= adjustable
    assert not [key for key in adjustable if key.startswith(("data.", "env.", "reward_training.", "models.policy"))]
    assert not [
        key for key in adjustable if key.endswith((".weight", ".schedule", ".temperature")) and "eval" not in key
    ]


def other_value(key: str, value: Any, kind: str) -> str | None:
    """Another value of a key, as a user writes it; None where the rest of the configuration would have to change."""
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return str(value + 0.01)
    if kind.startswith("one of"):
        return next(word for word in re.findall(r"'(.+?)'", kind) if word != value)
    return "other" if kind.startswith("text") else None


def test_every_key_may_change_or_is_refused_by_its_name():
    config = load_config("smoke")
    began = Fingerprints(settings_of(config), {})
    tried = 0
    for field in describe_fields():
        value = settings_of(config).get(field.key)
        other = None if field.is_section or value is None else other_value(field.key, value, field.type)
        if other is None:
            continue
        try:
            changed = load_config("smoke", [f"{field.key}={other}"])
        except PartnerError:
            continue
        tried += 1
        if field.is_adjustable or (began.changes(changed)[0].is_of_place and len(began.changes(changed)) == 1):
            assert [change.key for change in allowed_changes(began, changed, "x")] == [field.key]
        else:
            with pytest.raises(PartnerError, match=re.escape(field.key)):
                allowed_changes(began, changed, "x")
    assert tried > 100


def test_fewer_iterations_than_were_done_are_refused(place):
    run = RunFolder(place / "moved" / "run")
    shutil.copytree(run.checkpoint(1), run.checkpoint(3))
    with pytest.raises(PartnerError, match="has done 3 already"):
        open_to_resume(run.path, ["algorithm.iterations=2"])
    with pytest.raises(PartnerError, match="has done 3 already"):
        open_to_resume(run.path, [])


def test_allowed_changes_are_noted(place):
    run = settled(place / "moved" / "run", "checkpoint.keep=7", "tracking.tags=[a]")
    assert load_config(str(run.config_file)).checkpoint.keep == 7
    assert [one["key"] for one in read_record(run.path)["changes"]] == ["checkpoint.keep", "tracking.tags"]
    # Once: the next resume finds nothing new.
    settled(run.path, "checkpoint.keep=7")
    assert len(read_record(run.path)["changes"]) == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 0", "seed: 7", "seed=7"),
        ("window: 3", "window: 4", "env.window"),
        ("advantage: rloo", "advantage: reinforce", "algorithm.advantage"),
        ("  window: 3\n", "", "env.window"),
        ("seed: 0", "sed: 0", "did you mean seed"),
        ("seed: 0", "seed: [", "no valid YAML"),
        ("seed: 0", "seed: \x00", "no valid YAML"),
        ("data:", "dat:", "unknown key"),
    ],
)
def test_an_edit_of_the_configuration_is_named(place, capsys, old, new, said):
    file = place / "moved" / "run" / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert run_here("train", "--resume", "moved/run", "--dry-run") == 1
    message = capsys.readouterr().err
    assert said in message
    assert "config.yaml" in message
    assert message.count("\n") == 1


def test_an_allowed_edit_of_the_configuration_is_taken(place):
    file = place / "moved" / "run" / "config.yaml"
    file.write_text(file.read_text().replace("keep: 2", "keep: 4"))
    run = settled(place / "moved" / "run")
    assert [one["key"] for one in read_record(run.path)["changes"]] == ["checkpoint.keep"]


# --- inputs ---


def last_first(pairs: pa.Table) -> pa.Table:
    return pa.concat_tables([pairs[-1:], pairs[:-1]])


def one_less(pairs: pa.Table) -> pa.Table:
    return pairs[:-1]


def other_ids(pairs: pa.Table) -> pa.Table:
    place = pairs.schema.get_field_index("response_id")
    return pairs.set_column(place, pairs.schema.field(place), [pairs["response_id"].to_pylist()[::-1]])


@pytest.mark.parametrize("change", [last_first, one_less, other_ids])
def test_other_pairs_are_refused(place, change):
    write_pairs(place / "other.parquet", change)
    with pytest.raises(InputError, match=r"data.source: .* does not hold the pairs") as caught:
        settled(place / "moved" / "run", "data.source=other.parquet")
    assert "\n" not in str(caught.value)
    assert run_here("train", "--resume", "moved/run", "data.source=other.parquet", "--dry-run") == 1


def test_a_corpus_of_the_same_name_in_another_folder_is_not_taken(place, trained):
    write_pairs(place / "pairs.parquet", one_less)
    assert open_to_resume(place / "moved" / "run", [])[1].data.source == str(trained / "pairs.parquet")
    with pytest.raises(InputError, match="does not hold the pairs"):
        settled(place / "moved" / "run", "data.source=pairs.parquet")


def test_pairs_that_were_changed_in_their_place_are_refused(place, trained):
    corpus = trained / "pairs.parquet"
    content = corpus.read_bytes()
    try:
        write_pairs(corpus, one_less)
        with pytest.raises(InputError, match="does not hold the pairs"):
            settled(place / "moved" / "run")
        corpus.unlink()
        with pytest.raises(InputError, match="is gone: put it back, or name where it is now: partner-rl train"):
            settled(place / "moved" / "run")
    finally:
        corpus.write_bytes(content)


def test_the_same_pairs_in_another_file_are_the_same(place, trained):
    pq.write_table(pq.read_table(trained / "pairs.parquet"), "large.parquet", compression="none", row_group_size=7)
    run = settled(place / "moved" / "run", "data.source=large.parquet")
    assert load_config(str(run.config_file)).data.source == str(place / "large.parquet")


@pytest.fixture
def with_classifier(trained, tmp_path) -> tuple[RunFolder, Path]:
    """A run that names a classifier, as far as its first phase."""
    folder = tmp_path / "classifier"
    shutil.copytree(trained / "runs" / "run" / "rewards" / "coherence", folder)
    given = [f"rewards.coherence.checkpoint={folder}", "rewards.coherence.weight=0.1"]
    config = load_config("smoke", [*SETTINGS, f"runs_dir={tmp_path}", "name=named", *given])
    run = RunFolder.create(config, "x")
    with run.resumable():
        record_inputs(run, config, load_splits(config))
        run.rewards.mkdir()
    return run, folder


def test_another_classifier_in_its_place_is_refused(with_classifier):
    run, folder = with_classifier
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"rewards.coherence.checkpoint: .* does not hold the files"):
        settled(run.path)


def test_a_classifier_may_move_and_get_a_card(with_classifier, tmp_path):
    run, folder = with_classifier
    folder.rename(tmp_path / "there")
    (tmp_path / "there" / "README.md").write_text("a card")
    with pytest.raises(InputError, match=r"rewards.coherence.checkpoint: .* is gone"):
        settled(run.path)
    settled(run.path, f"rewards.coherence.checkpoint={tmp_path / 'there'}")
    assert not folder.exists()


def test_a_classifier_cannot_take_the_place_of_the_runs_own(place, trained):
    own = trained / "runs" / "run" / "rewards" / "coherence"
    with pytest.raises(PartnerError, match=r"rewards.coherence.checkpoint"):
        open_to_resume(place / "moved" / "run", [f"rewards.coherence.checkpoint={own}"])


def test_a_run_without_fingerprints_goes_on_with_a_warning_once(place, caplog):
    run = place / "moved" / "run"
    (run / FINGERPRINTS_FILE).unlink()
    with pytest.raises(PartnerError, match="seed"):
        open_to_resume(run, ["seed=1"])
    with caplog.at_level(logging.WARNING):
        settled(run)
    assert caplog.text.count("does not say what it began with") == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        settled(run)
    assert not caplog.records


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": 1, "inputs": []}', "null"])
def test_damaged_fingerprints_are_one_line(place, content):
    (place / "moved" / "run" / FINGERPRINTS_FILE).write_text(content)
    with pytest.raises(PartnerError, match=r"fingerprints.json is damaged: remove it"):
        open_to_resume(place / "moved" / "run", [])


def test_a_start_that_computed_nothing_may_begin_with_anything(tmp_path):
    config = load_config("smoke", [f"runs_dir={tmp_path}", "name=a"])
    run = RunFolder.create(config, "x")
    with run.resumable():
        record_inputs(run, config, load_splits(config))
    again, changed = open_to_resume(run.path, ["seed=3"])
    with again.resumable():
        record_inputs(again, changed, load_splits(changed))
    noted = read_fingerprints(run.path)
    assert noted is not None
    assert noted.settings["seed"] == 3
    assert "changes" not in read_record(run.path)


# --- damaged and strange folders ---


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "[]", "run.json is damaged: remove it"),
        ("run.json", "{", "run.json is damaged: remove it"),
        ("fingerprints.json", "{", "fingerprints.json is damaged"),
        ("config.yaml", "", "it began with"),
        ("config.yaml", "- a", "expected keys and values"),
        ("config.yaml", "\ud83d".encode("utf-8", "surrogatepass"), "not UTF-8"),
    ],
)
def test_a_damaged_file_of_a_run_is_one_line(place, capsys, name, content, said):
    content = content if isinstance(content, bytes) else content.encode()
    (place / "moved" / "run" / name).write_bytes(content)
    assert run_here("train", "--resume", "moved/run") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line


@pytest.mark.parametrize("name", ["run.json", "fingerprints.json", "config.yaml"])
def test_a_folder_in_the_place_of_a_file_is_one_line(place, capsys, name):
    path = place / "moved" / "run" / name
    path.unlink()
    path.mkdir()
    assert run_here("train", "--resume", "moved/run") == 1
    error = capsys.readouterr().err
    assert "unexpected" not in error
    assert str(path.parent.relative_to(place)) in error


@pytest.mark.parametrize("where", ["nowhere", "a.txt", ".", ""])
def test_what_is_no_run_is_said(place, capsys, where):
    (place / "a.txt").touch()
    assert run_here("train", "--resume", where) == 1
    assert "is no run folder" in capsys.readouterr().err


def test_what_would_mean_nothing_beside_resume_is_refused(place, capsys):
    assert run_here("train", "--resume", "moved/run", "--preset", "paper") == 1
    assert "leave --preset out" in capsys.readouterr().err
    assert run_here("train", "--resume", "moved/run", "--redact") == 1
    assert "leave --redact out" in capsys.readouterr().err


def test_a_configuration_that_does_not_fit_the_checkpoint_is_named(place):
    """As a run without fingerprints may be edited."""

    class Edited(RewriteAlgorithm):
        def __init__(self) -> None:
            pass

        def restore_state(self, state: TrainingState) -> int:
            raise KeyError("a key of another estimator")

    checkpoint = RunFolder(place / "moved" / "run").checkpoint(1)
    with pytest.raises(PartnerError, match=r"iteration-000001 is of another configuration \(KeyError\)"):
        Edited().restore_training_state(checkpoint)


def test_other_versions_are_said_once(place, caplog):
    run = place / "moved" / "run"
    record = read_record(run)
    record["provenance"]["packages"]["torch"] = "1.0"
    update_record(run, record)
    with caplog.at_level(logging.WARNING):
        settled(run)
        settled(run)
    assert caplog.text.count("instead of 1.0") == 1
