"""Toy training of position and sentence: it learns, and neither memory settings nor a kill change the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from partner_rl.config.schema import WarmStartConfig
from partner_rl.config.section import LoraSection
from partner_rl.policy.actions import encode_action
from partner_rl.policy.generate import Sampling, sample_actions
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy, save_policy
from partner_rl.types import EditAction, PartnerError, RewriteState
from partner_rl.warmstart.history import History, WarmStartReport, position_baselines
from partner_rl.warmstart.pairs import WarmStartExample
from partner_rl.warmstart.train import train_warmstart
from tests.warmstart.toy import SETTINGS, WINDOW, tiny_policy, toy_examples

Weights = dict[str, torch.Tensor]


def config(**values: object) -> WarmStartConfig:
    return WarmStartConfig.model_validate({"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **values})


def weights(policy: Policy) -> Weights:
    return {name: p.detach().clone() for name, p in policy.model.named_parameters()}


def largest_gap(first: Weights, second: Weights) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def train(folder: Path, settings: WarmStartConfig, policy: Policy | None = None) -> tuple[WarmStartReport, Weights]:
    policy = policy or tiny_policy(folder)
    report = train_warmstart(policy, toy_examples(21), toy_examples(9), settings, folder / "work", 3)
    return report, weights(policy)


@pytest.fixture
def plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps as large as their gradients: Adam would blow the rounding of tiny gradients up to whole steps."""
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)


@pytest.mark.parametrize("row_tokens", [None, 128])
def test_the_toy_task_is_learned(tmp_path: Path, row_tokens: int | None) -> None:
    policy = tiny_policy(tmp_path)
    seen: list[tuple[int, int]] = []
    report = train_warmstart(
        policy,
        toy_examples(120),
        toy_examples(30),
        config(epochs=8, learning_rate=3e-3, row_tokens=row_tokens),
        tmp_path / "work",
        0,
        lambda done, total: seen.append((done, total)),
    )
    assert report.initial is not None
    assert report.best is not None
    assert report.baselines is not None
    assert report.epochs[-1].train_loss < report.epochs[0].train_loss / 4
    assert report.best.loss < report.initial.loss / 4
    assert report.best.position_accuracy > 0.9 > 0.5 > max(report.baselines.majority, report.baselines.chance)
    assert seen[-1] == (120, 120)
    assert len(seen) == report.steps

    save_policy(policy, tmp_path / "out")
    saved = load_policy(tmp_path / "out", SETTINGS, WINDOW, "cpu")
    examples = toy_examples(6)
    drawn = sample_actions(saved, [e.state for e in examples], 1, Sampling.greedy(), torch.Generator())
    assert [samples[0].action for samples in drawn] == [encode_action(saved, e.action) for e in examples]


def test_the_policy_has_the_weights_of_the_epoch_with_the_lowest_held_out_loss(tmp_path: Path) -> None:
    # The held-out examples contradict the others, so that more training makes them worse.
    dev = [WarmStartExample(e.state, EditAction(1, "Never mind.")) for e in toy_examples(9)]
    policy = tiny_policy(tmp_path)
    settings = config(epochs=5, learning_rate=3e-3)
    report = train_warmstart(policy, toy_examples(48), dev, settings, tmp_path / "work", 0)
    losses = [epoch.dev.loss for epoch in report.epochs if epoch.dev is not None]
    assert report.best_epoch == 1 + losses.index(min(losses))
    assert report.best_epoch < 5

    again = train_warmstart(policy, [], dev, config(epochs=0), tmp_path / "none", 0)
    assert again.initial is not None
    assert again.initial.loss == pytest.approx(min(losses), abs=1e-5)


def test_patience_ends_a_training_that_no_longer_improves(tmp_path: Path) -> None:
    dev = [WarmStartExample(e.state, EditAction(1, "Never mind.")) for e in toy_examples(9)]
    settings = config(epochs=20, learning_rate=3e-3, patience=2)
    report = train_warmstart(tiny_policy(tmp_path), toy_examples(48), dev, settings, tmp_path / "work", 0)
    assert len(report.epochs) == report.best_epoch + 2 < 20


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first, second = (train(tmp_path / name, config()) for name in ("a", "b"))
    assert first[0].epochs == second[0].epochs
    assert largest_gap(first[1], second[1]) == 0.0


@pytest.mark.usefixtures("plain_steps")
@pytest.mark.parametrize(
    "memory",
    [
        {"micro_batch_tokens": 1},
        {"micro_batch_tokens": 80},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "micro_batch_tokens": 80},
    ],
    ids=str,
)
def test_accumulation_and_checkpointing_give_the_step_of_one_big_batch(
    tmp_path: Path, memory: dict[str, object]
) -> None:
    one_pass, expected = train(tmp_path / "a", config(learning_rate=0.5, micro_batch_tokens=100_000))
    many, found = train(tmp_path / "b", config(learning_rate=0.5, **memory))
    start = weights(tiny_policy(tmp_path))
    assert largest_gap(start, expected) > 0.01
    assert largest_gap(found, expected) < 1e-5
    assert [e.train_loss for e in many.epochs] == pytest.approx([e.train_loss for e in one_pass.epochs], abs=1e-5)


@pytest.mark.usefixtures("plain_steps")
def test_packed_rows_give_the_steps_of_separate_rows(tmp_path: Path) -> None:
    # Batches of all examples are the same in any order.
    settings = {"batch_size": 21, "epochs": 3, "learning_rate": 0.5}
    separate, expected = train(tmp_path / "a", config(**settings))
    packed, found = train(tmp_path / "b", config(**settings, row_tokens=300))
    assert largest_gap(found, expected) < 1e-5
    assert separate.padding > packed.padding
    losses = [[e.dev.loss for e in report.epochs if e.dev is not None] for report in (separate, packed)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.parametrize("lora", [None, LoraSection(rank=4)], ids=["full", "lora"])
def test_checkpointing_computes_layers_again(tmp_path: Path, lora: LoraSection | None) -> None:
    policy = tiny_policy(tmp_path, SETTINGS.model_copy(update={"lora": lora}), "llama")
    runs: list[bool] = []
    layer = next(m for m in policy.model.modules() if type(m).__name__ == "LlamaMLP")
    layer.register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    settings = config(epochs=1, batch_size=21, micro_batch_tokens=100_000, gradient_checkpointing=True)
    train_warmstart(policy, toy_examples(21), [], settings, tmp_path / "work", 0)
    assert len(runs) == 2
    assert not policy.model.training


def test_adapters_are_trained_and_merged_on_saving(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"lora": LoraSection(rank=4)})
    policy = tiny_policy(tmp_path, settings, "llama")
    training = config(learning_rate=5e-3)
    report = train_warmstart(policy, toy_examples(48), toy_examples(9), training, tmp_path / "work", 0)
    assert report.epochs[-1].train_loss < report.epochs[0].train_loss
    save_policy(policy, tmp_path / "out")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not any("lora" in name for name, _ in saved.named_parameters())


def test_bfloat16_learns_and_keeps_float32_weights(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path, SETTINGS.model_copy(update={"dtype": "bfloat16"}))
    report, found = train(tmp_path, config(epochs=3, learning_rate=3e-3), policy)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert report.epochs[-1].train_loss < report.epochs[0].train_loss * 0.7


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", [1, 3, 4, 5], ids="after step {}".format)
@pytest.mark.parametrize("lora", [None, LoraSection(rank=4)], ids=["full", "lora"])
def test_an_interrupted_training_goes_on_exactly(tmp_path: Path, step: int, lora: LoraSection | None) -> None:
    def new_policy() -> Policy:
        return tiny_policy(tmp_path, SETTINGS.model_copy(update={"lora": lora}))

    whole, expected = train(tmp_path / "whole", config(epochs=3), new_policy())
    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train_warmstart(
            new_policy(),
            toy_examples(21),
            toy_examples(9),
            config(epochs=3),
            tmp_path / "cut" / "work",
            3,
            lambda done, total: steps.append(done),
            lambda: len(steps) == step,
        )
    resumed, found = train(tmp_path / "cut", config(epochs=3), new_policy())
    assert resumed.epochs == whole.epochs
    assert (resumed.initial, resumed.best_epoch) == (whole.initial, whole.best_epoch)
    assert largest_gap(found, expected) == 0.0


@pytest.mark.parametrize("checkpoint_steps", [None, 2])
def test_a_killed_training_goes_on_from_its_newest_state(tmp_path: Path, checkpoint_steps: int | None) -> None:
    settings = config(epochs=3, checkpoint_steps=checkpoint_steps)
    whole, expected = train(tmp_path / "whole", config(epochs=3))

    def kill(done: int, total: int) -> None:
        if done == 6:
            raise Killed

    work = tmp_path / "cut" / "work"
    with pytest.raises(Killed):
        train_warmstart(tiny_policy(tmp_path), toy_examples(21), toy_examples(9), settings, work, 3, kill)
    assert [path.name for path in work.glob("step-*")] == [
        "step-00000003-0001" if checkpoint_steps is None else "step-00000004-0001"
    ]
    # What a kill in the middle of writing leaves behind.
    (work / ".step-00000006-0002.0123abcd.part").mkdir()
    steps: list[int] = []
    policy = tiny_policy(tmp_path)
    resumed = train_warmstart(
        policy, toy_examples(21), toy_examples(9), settings, work, 3, lambda done, total: steps.append(done)
    )
    assert steps[0] == (4 if checkpoint_steps is None else 5)
    assert resumed.epochs == whole.epochs
    assert largest_gap(weights(policy), expected) == 0.0
    assert sorted(path.name for path in work.iterdir()) == [
        f"best-{resumed.best_epoch:04d}",
        "step-00000009-0003",
    ]


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    train(tmp_path, config())
    work = tmp_path / "work"
    for settings, seed in ((config(learning_rate=2e-3), 3), (config(), 4)):
        with pytest.raises(PartnerError, match="other examples, settings or another seed"):
            train_warmstart(tiny_policy(tmp_path), toy_examples(21), toy_examples(9), settings, work, seed)
    with pytest.raises(PartnerError, match="other examples"):
        train_warmstart(tiny_policy(tmp_path), toy_examples(20), toy_examples(9), config(), work, 3)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_state_is_one_clear_line(tmp_path: Path, name: str) -> None:
    train(tmp_path, config())
    (file,) = (tmp_path / "work").glob(f"step-*/{name}")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(PartnerError, match="cannot be read"):
        train(tmp_path, config())


def test_no_epoch_leaves_the_policy_as_it_is(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path)
    before = weights(policy)
    report = train_warmstart(policy, [], [], config(epochs=0), tmp_path / "work", 0)
    assert (report.best_epoch, report.steps, report.initial, report.baselines) == (0, 0, None, None)
    assert largest_gap(weights(policy), before) == 0.0


def test_training_without_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartnerError, match="no training examples"):
        train_warmstart(tiny_policy(tmp_path), [], [], config(), tmp_path / "work", 0)


def test_a_diverging_training_is_stopped(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path)
    with torch.no_grad():
        next(policy.model.parameters()).fill_(float("nan"))
    with pytest.raises(PartnerError, match=r"gradient norm is nan at step 1: lower warmstart\.learning_rate"):
        train(tmp_path, config(), policy)


def test_the_baselines_are_those_of_a_uniform_and_a_constant_choice() -> None:
    def example(position: int, sentences: int) -> WarmStartExample:
        return WarmStartExample(RewriteState("Sad.", ("Ok.",) * sentences), EditAction(position, "Well."))

    examples = [example(position, 2) for position in (1, 1, 0)]
    # Two sentences have 3 + 2 + 1 positions, one has 2 + 1 + 1.
    dev = [example(1, 2), example(0, 1), example(1, 1), example(0, 2)]
    found = position_baselines(examples, dev, WINDOW)
    assert found is not None
    assert found.chance == pytest.approx((1 / 6 + 1 / 4 + 1 / 4 + 1 / 6) / 4)
    assert (found.majority, found.majority_position) == (0.5, "insert 1")
    assert position_baselines(examples, [], WINDOW) is None


def test_the_history_survives_the_way_through_json(tmp_path: Path) -> None:
    report, _ = train(tmp_path, config())
    history = History(report.initial, list(report.losses), list(report.epochs), report.best_epoch, 1.5)
    assert History.from_json(history.as_json()) == history


def test_metrics_hold_every_step_and_every_epoch_in_order(tmp_path: Path) -> None:
    report, _ = train(tmp_path, config())
    rows = report.metrics()
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    assert [row["warmstart/epoch"] for row in rows if "warmstart/epoch" in row] == [0, 1, 2]
    assert report.epochs[-1].dev is not None
    assert rows[-1]["warmstart/dev/loss"] == report.epochs[-1].dev.loss
