"""Ablations: which runs there are, and the real command on tiny models."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.commands.ablate import _write_overview
from launch.run_folder.fingerprints import Fingerprints, settings_of
from launch.sweep.ablations import FULL, ablations, choose_ablations, open_ablation
from launch.sweep.opening import Sweep
from launch.sweep.remaining import remaining_trials
from launch.sweep.sharing import shared_keys
from launch.sweep.sizing import on_gpus, sizing
from launch.sweep.trial import own_config
from launch.sweep.trial_records import TrialEvaluation, TrialRecord
from partner_rl.config.load import load_config, save_config
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError
from tests.helpers.command_line import COMMAND, environment, partner_process
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


def opened(*overrides: str, only: str | None = None, output: Path = Path("out")) -> Sweep:
    return open_ablation("smoke", overrides, only, output)[0]


def trial_configs(sweep: Sweep) -> dict[str, RunConfig]:
    """Trial → the configuration that its process trains with."""
    shared = shared_keys(sweep.config, sweep.folder, sweep.share)
    return {
        point.name: own_config(
            sweep.config_of({**shared, **point.values}), sweep.spec, sweep.folder, point.name, machine_gpus=0
        )
        for point in sweep.points or ()
    }


def test_other_group_sizes_sample_as_many_episodes():
    full = load_config("embedded").algorithm
    for config in open_ablation("embedded", [], None, Path("out"))[0].tried:
        settings = config.algorithm
        assert (
            settings.groups_per_iteration * settings.samples_per_group
            == full.groups_per_iteration * full.samples_per_group
        )
    # Two groups of two samples cannot be cut into groups of eight.
    assert {name for name in names("smoke") if name.startswith("k_")} == {"k_4"}


def test_the_runs_share_reward_models_and_warm_start():
    runs = trial_configs(opened("seed=7"))
    shared = Path("out/shared").absolute()
    assert runs["no_warm_start"].warmstart.checkpoint is None
    assert runs["no_warm_start"].warmstart.epochs == 0
    assert runs["no_coherence"].rewards.coherence.weight == 0.0
    for name, config in runs.items():
        assert (config.name, config.runs_dir, config.seed) == (name, "out", 7)
        assert config.rewards.empathy.checkpoint == str(shared / "rewards/empathy")
        assert config.rewards.coherence.checkpoint == str(shared / "rewards/coherence")
        if name != "no_warm_start":
            assert config.warmstart.checkpoint == str(shared / "warm_start")


def test_models_that_the_configuration_names_stay():
    runs = trial_configs(opened("warmstart.checkpoint=warm", "rewards.empathy.checkpoint=judge", only="k_4"))
    warm, classifier = (str(Path(name).absolute()) for name in ("warm", "judge"))
    assert list(runs) == [FULL, "k_4"]
    assert [one.warmstart.checkpoint for one in runs.values()] == [warm, warm]
    assert [one.rewards.empathy.checkpoint for one in runs.values()] == [classifier, classifier]


def test_the_full_run_is_always_among_the_chosen():
    found = ablations(load_config("smoke"))
    assert [one.name for one in choose_ablations(found, "no_fluency,k_4")] == [FULL, "no_fluency", "k_4"]
    with pytest.raises(PartnerError, match="did you mean no_fluency"):
        choose_ablations(found, "no_fluenzy")


def test_a_dry_run_lists_runs_and_changes(tmp_path):
    arguments = ["ablate", "--preset", "smoke", "--only", "no_warm_start,end_position", "--output", str(tmp_path / "a")]
    result = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "full (new)" in result.stdout
    assert "warmstart.epochs=0" in result.stdout
    assert 'env.positions="end"' in result.stdout
    assert not (tmp_path / "a").exists()


def finished(sweep: Sweep) -> None:
    """Leaves behind what an ablation leaves whose runs have all finished."""
    for name in ("rewards/empathy", "rewards/coherence", "warm_start"):
        (sweep.folder.shared.path / name).mkdir(parents=True)
    save_config(sweep.config, sweep.folder.base_file)
    Fingerprints(settings_of(sweep.config), {}).save(sweep.folder.path)
    for number, (name, config) in enumerate(trial_configs(sweep).items(), start=1):
        save_config(config, sweep.folder.run(name).config_file)
        last = TrialEvaluation(iterations=config.algorithm.iterations, metrics={})
        values = next(point.values for point in sweep.points or () if point.name == name)
        sweep.folder.write(
            TrialRecord(name=name, number=number, values=dict(values), status="finished", history=(last,))
        )


def pending(sweep: Sweep) -> list[str]:
    return [point.name for point in remaining_trials(sweep, retry_failed=True).pending]


@pytest.mark.reported
def test_runs_of_other_settings_are_refused(tmp_path):
    finished(opened(only="k_4", output=tmp_path))
    with pytest.raises(PartnerError, match=r"seed=1: it began with 0 .* or name another --output"):
        opened("seed=1", only="k_4", output=tmp_path)


@pytest.mark.reported
def test_what_may_change_holds_for_runs_that_have_finished(tmp_path):
    finished(opened(only="k_4", output=tmp_path))
    assert pending(opened(only="k_4", output=tmp_path)) == []
    assert pending(opened("algorithm.iterations=9", only="k_4", output=tmp_path)) == [FULL, "k_4"]
    assert pending(opened("baselines.seq2seq_lora=null", only="k_4", output=tmp_path)) == [FULL, "k_4"]
    # Those that were not there join the others.
    assert pending(opened(only="k_4,no_fluency", output=tmp_path)) == ["no_fluency"]


@pytest.mark.reported
def test_fewer_iterations_than_there_are_is_refused(tmp_path):
    sweep = opened(only="k_4", output=tmp_path)
    finished(sweep)
    sweep.folder.run("k_4").checkpoint(5).mkdir(parents=True)
    with pytest.raises(PartnerError, match=r"algorithm\.iterations=2: .* have done 5 already"):
        opened("algorithm.iterations=2", only="k_4", output=tmp_path)


@pytest.mark.reported
def test_an_ablation_that_was_moved_finds_what_its_runs_share(tmp_path):
    finished(opened(only="k_4", output=tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    sweep = opened(only="k_4", output=tmp_path / "b")
    # Their configurations name what they share by its old place.
    assert pending(sweep) == [FULL, "k_4"]
    assert trial_configs(sweep)["k_4"].warmstart.checkpoint == str(tmp_path / "b" / "shared" / "warm_start")


def test_a_failed_run_is_tried_again(tmp_path):
    sweep = opened(only="k_4,no_fluency", output=tmp_path)
    finished(sweep)
    record = sweep.folder.read("k_4")
    assert record is not None
    sweep.folder.write(record.model_copy(update={"status": "failed", "reason": "guard"}))
    assert pending(sweep) == ["k_4"]


def test_the_same_command_goes_on(tmp_path):
    folder = opened("seed=1", only="k_4", output=tmp_path).folder
    assert folder.resume_command == f"partner-rl ablate --preset smoke --only k_4 seed=1 --output {tmp_path}"


def test_the_overview_names_changes_and_failures(tmp_path):
    _, chosen = open_ablation("smoke", [], "k_4", tmp_path)
    _write_overview(chosen, {FULL: True, "k_4": False}, tmp_path)
    rows = json.loads((tmp_path / "ablations.json").read_text())
    assert [(row["name"], row["finished"]) for row in rows] == [(FULL, True), ("k_4", False)]
    assert (
        "| k_4 | K = 4, 1 groups an iteration | `algorithm.samples_per_group=4`"
        in (tmp_path / "ablations.md").read_text()
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ablate_trains_compares_and_goes_on_after_an_interruption(tmp_path):
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
    # While what the runs share is trained.
    wait_until((tmp_path / "out/shared/rewards").is_dir, "no reward model is trained", process=process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130, stderr
    assert "go on with: partner-rl ablate --preset smoke --only end_position" in " ".join(stderr.split())

    result = partner_process(*arguments, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 of 2 runs compared" in result.stdout
    runs = ("full", "end_position")
    for name in runs:
        assert (tmp_path / "out" / name / "export/model.safetensors").is_file()
        # What is shared is made once.
        assert not (tmp_path / "out" / name / "rewards").exists()
        assert not (tmp_path / "out" / name / "warm_start").exists()
    report = (tmp_path / "out/report/report.md").read_text()
    assert all(name in report for name in runs)
    assert list((tmp_path / "out/report").rglob("*.png"))


def test_a_trial_and_many_reward_actors_find_room_on_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    sweep, _ = open_ablation("smoke", ["rewards.replicas=4"], None, tmp_path / "out")
    size = sizing(sweep.spec, on_gpus(sweep.spec, sweep.config, 1), 1, machine_cores=4, machine_gpus=1, in_memory=1)
    assert size.trial_gpus > 0
    assert sum(group.count * group.gpus for group in size.session.groups) + size.trial_gpus <= 1
