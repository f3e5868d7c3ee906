"""Toy training of position and sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from partner_rl.config.schema import LoraSection, PolicyConfig, WarmStartConfig
from partner_rl.models.sources import resolve
from partner_rl.policy.actions import encode_action
from partner_rl.policy.generate import Sampling, sample_actions
from partner_rl.policy.model import Policy, load_policy
from partner_rl.positions import noop_position
from partner_rl.types import EditAction, PartnerError, RewriteState
from partner_rl.warmstart.pairs import WarmStartExample
from partner_rl.warmstart.train import train_warmstart

WINDOW = 2
SETTINGS = PolicyConfig(max_seeker_tokens=12, max_sentence_tokens=12, max_new_tokens=12)
TOPICS = {"work": "Work is hard.", "sleep": "Sleep well."}


def toy_examples(count: int) -> list[WarmStartExample]:
    """The topic of the post decides place and sentence; a post about nothing is left alone."""
    examples = []
    for number in range(count):
        topic = ("work", "sleep", "none")[number % 3]
        place = {"work": 0, "sleep": 2, "none": noop_position(WINDOW)}[topic]
        state = RewriteState(f"{topic} {number % 7}", ("Ok.", "Bye."))
        examples.append(WarmStartExample(state, EditAction(place, TOPICS.get(topic, ""))))
    return examples


def tiny_policy(tmp_path: Path, settings: PolicyConfig = SETTINGS, architecture: str = "gpt2") -> Policy:
    torch.manual_seed(0)
    return load_policy(resolve(f"random:{architecture}", tmp_path / "cache"), settings, WINDOW, "cpu")


def test_the_toy_task_is_learned_and_the_best_epoch_saved(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path)
    seen: list[tuple[int, int]] = []
    settings = WarmStartConfig(epochs=8, batch_size=8, learning_rate=3e-3)
    report = train_warmstart(
        policy, toy_examples(96), toy_examples(24), settings, tmp_path / "out", 0, lambda d, t: seen.append((d, t))
    )
    assert report.initial is not None
    last = report.epochs[-1].dev
    assert last is not None
    assert report.epochs[-1].train_loss < report.epochs[0].train_loss / 4
    assert last.loss < report.initial.loss / 4
    # Chance among the six positions is 1/6, guessing the commonest gives 1/3.
    assert last.position_accuracy > 0.9
    assert seen[-1] == (96, 96)
    assert len(seen) == report.steps

    saved = load_policy(tmp_path / "out", SETTINGS, WINDOW, "cpu")
    states = [example.state for example in toy_examples(3)]
    drawn = sample_actions(saved, states, 1, Sampling.greedy(), torch.Generator())
    expected = [encode_action(saved, example.action) for example in toy_examples(3)]
    assert [samples[0].action for samples in drawn] == expected


def test_the_best_epoch_is_the_one_with_the_lowest_held_out_loss(tmp_path: Path) -> None:
    # The held-out examples contradict the others, so that more training makes them worse.
    dev = [WarmStartExample(e.state, EditAction(1, "Never mind.")) for e in toy_examples(9)]
    settings = WarmStartConfig(epochs=4, batch_size=8, learning_rate=3e-3)
    report = train_warmstart(tiny_policy(tmp_path), toy_examples(48), dev, settings, tmp_path / "out", 0)
    losses = [epoch.dev.loss for epoch in report.epochs if epoch.dev is not None]
    assert report.best_epoch == 1 + losses.index(min(losses))
    assert report.best_epoch < 4


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    settings = WarmStartConfig(epochs=1, batch_size=4, learning_rate=1e-3)
    reports = [
        train_warmstart(tiny_policy(tmp_path), toy_examples(12), toy_examples(6), settings, tmp_path / name, seed=3)
        for name in ("a", "b")
    ]
    assert reports[0].epochs == reports[1].epochs
    weights = [AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("a", "b")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_adapters_are_trained_and_merged_on_saving(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"lora": LoraSection(rank=4)})
    policy = tiny_policy(tmp_path, settings, "llama")
    training = WarmStartConfig(epochs=2, batch_size=8, learning_rate=5e-3)
    report = train_warmstart(policy, toy_examples(48), toy_examples(9), training, tmp_path / "out", 0)
    assert report.epochs[-1].train_loss < report.epochs[0].train_loss
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not any("lora" in name for name, _ in saved.named_parameters())


def test_no_epoch_saves_the_policy_as_it_is(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path)
    report = train_warmstart(policy, [], [], WarmStartConfig(epochs=0), tmp_path / "out", 0)
    assert (report.best_epoch, report.steps, report.initial) == (0, 0, None)
    saved = load_policy(tmp_path / "out", SETTINGS, WINDOW, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), saved.model.parameters(), strict=True))


def test_training_without_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartnerError, match="no training examples"):
        train_warmstart(tiny_policy(tmp_path), [], [], WarmStartConfig(epochs=1), tmp_path / "out", 0)


TWO_PROCESSES = """
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from partner_rl.config.schema import PolicyConfig, WarmStartConfig
from partner_rl.policy.model import load_policy
from partner_rl.types import EditAction, RewriteState
from partner_rl.warmstart.pairs import WarmStartExample
from partner_rl.warmstart.train import train_warmstart

torch.set_num_threads(1)
model, output = Path(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(0)
policy = load_policy(model, PolicyConfig(max_new_tokens=8), 2, "cpu")
examples = [WarmStartExample(RewriteState(f"post {i}", ("Ok.",)), EditAction(i % 2, "Well.")) for i in range(18)]
settings = WarmStartConfig(epochs=1, batch_size=4, learning_rate=1e-3)
report = train_warmstart(policy, examples, examples[:5], settings, output / "policy", 0)
total = sum(float(p.detach().double().sum()) for p in policy.model.parameters())
rank = PartialState().process_index
(output / f"rank{rank}").write_text(repr((report.steps, report.epochs, total)))
"""


@pytest.mark.slow
def test_two_processes_share_the_batches_and_end_with_equal_weights(tmp_path: Path) -> None:
    model = resolve("random:gpt2", tmp_path / "cache")
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [*command, str(script), str(model), str(tmp_path)],
        env=environment,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert first == second
    # Five batches of four make three rounds for two processes.
    assert first.startswith("(3, ")
    assert (tmp_path / "policy" / "config.json").is_file()
