"""The training state on disk, and training that goes on from it bit for bit."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from partner_rl.algorithm import state as state_module
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.algorithm.state import OPTIMIZER_STATE, STATE, WEIGHTS, TrainingState
from partner_rl.metric_names import OF_THE_MACHINE
from partner_rl.storage import atomic
from partner_rl.storage.manifest import MANIFEST
from partner_rl.storage.temporary import remove_unfinished
from partner_rl.types import PartnerError
from tests.algorithm.toy import build_toy, toy_config

EXTRA = {"signal": {"means": [0.1, 1 / 3]}, "guards": {"rollbacks": 1}}


def make_state(iterations: int = 4) -> TrainingState:
    weights = {"a": torch.randn(7, 3), "b": torch.randn(2)}
    return TrainingState(iterations, EXTRA, weights, {"a/exp_avg": torch.randn(7, 3), "a/step": torch.tensor(4.0)})


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state = make_state()
    state.save(tmp_path / "c" / "iteration-000004")
    found = TrainingState.load(tmp_path / "c" / "iteration-000004")
    assert (found.iterations, found.extra) == (4, EXTRA)
    for before, after in ((state.weights, found.weights), (state.optimizer_state, found.optimizer_state)):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["iteration-000004"]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER_STATE, STATE, MANIFEST])
@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, Path.unlink, lambda path: path.write_bytes(b"")])
def test_every_damage_to_every_file_is_noticed(tmp_path, name, damage):
    make_state().save(tmp_path / "s")
    if name == MANIFEST and damage is cut_off:
        pytest.skip("it ends with white space")
    damage(tmp_path / "s" / name)
    with pytest.raises(PartnerError, match="cannot be read"):
        TrainingState.load(tmp_path / "s")


def test_a_full_disk_is_one_line_and_leaves_the_earlier_checkpoints(tmp_path, monkeypatch):
    make_state(2).save(tmp_path / "iteration-000002")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module, name in ((state_module, "save_file"), (state_module, "write_manifest"), (atomic, "sync")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(PartnerError, match=r"cannot be written .*No space left") as caught:
                make_state(4).save(tmp_path / "iteration-000004")
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["iteration-000002"]
    assert TrainingState.load(tmp_path / "iteration-000002").iterations == 2


def in_a_child(action: Callable[[], object]) -> int:
    """Runs an action in a copy of this process; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            # What an earlier test has left of Ray would be let go under locks that threads of the parent hold for ever.
            gc.disable()
            action()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_write_error_of_safetensors_is_that_line_too(tmp_path):
    (tmp_path / "c").mkdir()

    def write_too_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            TrainingState(4, {}, {"a": torch.ones(8192)}, {}).save(tmp_path / "c" / "s")
        except PartnerError as error:
            (tmp_path / "message").write_text(str(error))

    assert in_a_child(write_too_much) == 1
    assert "cannot be written" in (tmp_path / "message").read_text()
    assert not list((tmp_path / "c").iterdir())


def killed_while_saving(folder: Path, owner: object, place: str, last_call: int) -> int:
    """Saves a state in a process that kills itself right after it has called a function so many times."""
    real, calls = getattr(owner, place), itertools.count(1)

    def killed_after(*arguments: object) -> object:
        result = real(*arguments)
        if next(calls) == last_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def save() -> None:
        setattr(owner, place, killed_after)
        make_state(4).save(folder)

    return in_a_child(save)


def test_a_kill_while_replacing_leaves_the_old_or_the_new(tmp_path):
    make_state(2).save(tmp_path / "iteration-000004")
    # After the old one was renamed, before the new one takes its name.
    assert killed_while_saving(tmp_path / "iteration-000004", Path, "rename", 1) == -signal.SIGKILL
    assert not (tmp_path / "iteration-000004").exists()
    remove_unfinished(tmp_path)
    assert TrainingState.load(tmp_path / "iteration-000004").iterations == 2
    assert [path.name for path in tmp_path.iterdir()] == ["iteration-000004"]


@pytest.mark.parametrize(
    ("owner", "place", "call", "whole"),
    [
        (state_module, "save_file", 1, False),
        (state_module, "write_manifest", 1, False),
        (atomic, "sync", 3, False),
        (Path, "rename", 1, True),
    ],
)
def test_a_kill_while_saving_leaves_the_checkpoint_whole_or_absent(tmp_path, owner, place, call, whole):
    make_state(2).save(tmp_path / "iteration-000002")
    assert killed_while_saving(tmp_path / "iteration-000004", owner, place, call) == -signal.SIGKILL
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".")]) == (not whole)
    remove_unfinished(tmp_path)
    names = ["iteration-000002", "iteration-000004"] if whole else ["iteration-000002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert TrainingState.load(tmp_path / names[-1]).iterations == (4 if whole else 2)


def metrics(algorithm: RewriteAlgorithm, window: int) -> dict[str, float]:
    metrics = iteration_metrics(algorithm.last, window)
    return {key: value for key, value in metrics.items() if not key.startswith(OF_THE_MACHINE)}


def train(algorithm: RewriteAlgorithm, iterations: int, window: int) -> list[dict[str, float]]:
    found = []
    for _ in range(iterations):
        algorithm.train()
        found.append(metrics(algorithm, window))
    return found


@pytest.mark.parametrize(("runners", "learners"), [(0, 0), (1, 1)])
def test_three_and_three_iterations_equal_six(local_ray, tmp_path, runners, learners):
    config = toy_config(
        num_env_runners=runners, num_learners=learners, advantage="reinforce", kl_coeff=0.1, samples_per_group=2
    )
    straight = build_toy(config)
    try:
        train(straight, 3, config.env.window)
        straight.extra_state["guards"] = {"streak": 2}
        straight.save_training_state(tmp_path / "half")
        rows = train(straight, 3, config.env.window)
        straight.save_training_state(tmp_path / "straight")
    finally:
        straight.stop()
    resumed = build_toy(config)
    try:
        assert resumed.restore_training_state(tmp_path / "half") == 3
        assert resumed.extra_state == {"guards": {"streak": 2}}
        assert train(resumed, 3, config.env.window) == rows
        resumed.save_training_state(tmp_path / "resumed")
    finally:
        resumed.stop()
    # The files themselves: weights, optimizer state and everything else, to the last bit.
    manifests = [json.loads((tmp_path / name / MANIFEST).read_text()) for name in ("straight", "resumed")]
    assert manifests[0] == manifests[1]
