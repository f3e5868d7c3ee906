"""Ablations: which runs there are, and the real command on tiny models."""

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.commands.ablate import Outcome, _changes, _check_started, _is_finished, _train_all, _write_overview
from launch.run_folder.fingerprints import Fingerprints, settings_of
from launch.sweep.ablations import FULL, PlannedRun, ablations, choose, plan
from partner_rl.config.load import load_config, save_config
from partner_rl.types import PartnerError
from tests.helpers.command_line import COMMAND, environment, partner
from tests.helpers.waiting import wait_until


def names(preset: str, *overrides: str) -> list[str]:
    return [one.name for one in ablations(load_config(preset, overrides))]


def test_every_part_of_the_method_has_its_run():
    found = names("embedded")
    assert found[0] == FULL
    assert {
        "no_warm_start",
        "no_empathy",
        "no_fluency",
        "no_coherence",
        "no_mutual_information",
        "end_position",
        "k_2",
        "k_4",
        "k_16",
        "estimator_reinforce",
    } <= set(found)
    assert "no_variety" in names("epitome")
    # What the configuration does anyway is no ablation.
    assert "k_8" not in found
    assert "estimator_rloo" not in found
    assert len(found) == len(set(found))


def test_a_change_that_changes_nothing_is_left_out():
    without = names("embedded", "rewards.coherence.weight=0.0", "env.positions=end", "warmstart.epochs=0")
    assert not {"no_coherence", "end_position", "no_warm_start"} & set(without)


def test_other_group_sizes_sample_as_many_episodes():
    base = load_config("embedded")
    for one in plan("embedded", [], None, Path("out")):
        settings, full = one.config.algorithm, base.algorithm
        assert (
            settings.groups_per_iteration * settings.samples_per_group
            == full.groups_per_iteration * full.samples_per_group
        )
    # Two groups of two samples cannot be cut into groups of eight.
    assert {name for name in names("smoke") if name.startswith("k_")} == {"k_4"}


def test_the_runs_share_the_full_runs_models():
    runs = {one.ablation.name: one.config for one in plan("smoke", ["seed=7"], None, Path("out"))}
    full = Path("out").absolute() / FULL
    assert runs[FULL].warmstart.checkpoint is None
    assert runs[FULL].rewards.empathy.checkpoint is None
    assert runs["no_warm_start"].warmstart.checkpoint is None
    assert runs["no_warm_start"].warmstart.epochs == 0
    assert runs["no_coherence"].rewards.coherence.weight == 0.0
    for name, config in runs.items():
        assert (config.name, config.runs_dir, config.seed) == (name, str(Path("out").absolute()), 7)
        if name != FULL:
            assert config.rewards.empathy.checkpoint == str(full / "rewards/empathy")
            assert config.rewards.coherence.checkpoint == str(full / "rewards/coherence")
        if name not in (FULL, "no_warm_start"):
            assert config.warmstart.checkpoint == str(full / "warm_start")


def test_models_that_the_configuration_names_stay():
    runs = plan("smoke", ["warmstart.checkpoint=warm", "rewards.empathy.checkpoint=judge"], "k_4", Path("out"))
    warm, classifier = (str(Path(name).absolute()) for name in ("warm", "judge"))
    assert [one.config.warmstart.checkpoint for one in runs] == [warm, warm]
    assert [one.config.rewards.empathy.checkpoint for one in runs] == [classifier, classifier]


def test_the_full_run_is_always_among_the_chosen():
    found = ablations(load_config("smoke"))
    assert [one.name for one in choose(found, "no_fluency,k_4")] == [FULL, "no_fluency", "k_4"]
    with pytest.raises(PartnerError, match="did you mean no_fluency"):
        choose(found, "no_fluenzy")


def test_a_dry_run_lists_runs_and_changes(tmp_path):
    arguments = ["ablate", "--preset", "smoke", "--only", "no_warm_start,end_position", "--output", str(tmp_path / "a")]
    result = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "full (new)" in result.stdout
    assert "warmstart.epochs=0" in result.stdout
    assert 'env.positions="end"' in result.stdout
    assert not (tmp_path / "a").exists()


def started(runs: Sequence[PlannedRun], folder: Path) -> None:
    """Run folders in which something has been computed."""
    for planned in runs:
        path = folder / planned.ablation.name
        (path / "warm_start").mkdir(parents=True)
        save_config(planned.config, path / "config.yaml")
        Fingerprints(settings_of(planned.config), {}).save(path)
    for name in ("empathy", "coherence"):
        (folder / FULL / "rewards" / name).mkdir(parents=True)


@pytest.mark.reported
def test_runs_of_other_settings_are_refused(tmp_path):
    runs = plan("smoke", [], "k_4", tmp_path)
    started(runs, tmp_path)
    _check_started(runs, tmp_path)
    with pytest.raises(PartnerError, match=r"full cannot go on: .*seed=1: it began with 0"):
        _check_started(plan("smoke", ["seed=1"], "k_4", tmp_path), tmp_path)


@pytest.mark.reported
def test_what_may_change_holds_for_runs_that_were_started(tmp_path):
    runs = plan("smoke", [], "k_4", tmp_path)
    started(runs, tmp_path)
    for planned in runs:
        (tmp_path / planned.ablation.name / "export").mkdir()
    assert all(_is_finished(planned, tmp_path / planned.ablation.name) for planned in runs)
    longer = plan("smoke", ["algorithm.iterations=9", "baselines.seq2seq_lora=null"], "k_4", tmp_path)
    _check_started(longer, tmp_path)
    changes = ["algorithm.iterations=9", "baselines.seq2seq_lora=null"]
    assert [_changes(planned, tmp_path / planned.ablation.name) for planned in longer] == [changes, changes]
    assert not _is_finished(longer[0], tmp_path / FULL)


@pytest.mark.reported
def test_an_ablation_that_was_moved_finds_what_its_runs_share(tmp_path):
    started(plan("smoke", [], "k_4", tmp_path / "a"), tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    runs = plan("smoke", [], "k_4", tmp_path / "b")
    _check_started(runs, tmp_path / "b")
    changes = _changes(runs[1], tmp_path / "b" / "k_4")
    assert changes[-1] == f'warmstart.checkpoint="{tmp_path / "b" / FULL / "warm_start"}"'
    assert [change.partition("=")[0] for change in changes] == [
        "rewards.coherence.checkpoint",
        "rewards.empathy.checkpoint",
        "warmstart.checkpoint",
    ]


def test_the_overview_names_changes_and_failures(tmp_path):
    runs = plan("smoke", [], "k_4", tmp_path)
    _write_overview([Outcome(runs[0], 0), Outcome(runs[1], 1)], tmp_path)
    rows = json.loads((tmp_path / "ablations.json").read_text())
    assert [(row["name"], row["finished"]) for row in rows] == [(FULL, True), ("k_4", False)]
    assert (
        "| k_4 | K = 4, 1 groups an iteration | `algorithm.samples_per_group=4`"
        in (tmp_path / "ablations.md").read_text()
    )


def test_finished_runs_are_passed_over(tmp_path):
    runs = plan("smoke", [], "k_4,no_fluency", tmp_path)
    for planned in runs:
        (tmp_path / planned.ablation.name / "export").mkdir(parents=True)
    assert [outcome.finished for outcome in _train_all(runs, tmp_path)] == [True, True, True]
    # Nothing was started.
    assert not (tmp_path / "configs").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ablate_trains_compares_and_goes_on_after_an_interruption(commands_share_ray, tmp_path):
    arguments = [
        "ablate",
        "--preset",
        "smoke",
        "--only",
        "end_position",
        "--output",
        "out",
        "algorithm.iterations=1",
        "evaluation.max_pairs=2",
        "tracking.tensorboard=false",
        "rewards.fluency.weight=0",
        "rewards.coherence.weight=0",
        "rewards.mutual_information.weight=0",
    ]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    # In the middle of the first run.
    wait_until((tmp_path / "out" / FULL / "rewards").is_dir, "no reward model is trained", process=process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130, stderr
    assert "the same command goes on" in stderr

    result = partner(*arguments, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 of 2 runs compared" in result.stdout
    runs = ("full", "end_position")
    for name in runs:
        assert (tmp_path / "out" / name / "export/model.safetensors").is_file()
    # What is shared is made once.
    assert not (tmp_path / "out/end_position/rewards").exists()
    assert not (tmp_path / "out/end_position/warm_start").exists()
    report = (tmp_path / "out/report/report.md").read_text()
    assert all(name in report for name in runs)
    assert list((tmp_path / "out/report").rglob("*.png"))
