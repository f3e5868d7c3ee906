"""The dialogue models learn which posts belong together, on the scorer's own prompts, and are saved as plain models."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from launch.cli import main
from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.models.loading import load_causal_lm
from partner_rl.models.sources import resolve
from partner_rl.types import Example, PartnerError
from rewards.fluency import load_language_model
from rewards.language_model import LanguageModel
from rewards.mutual_information import MutualInformationBuilder, MutualInformationScorer
from rewards.training import target_loss
from rewards.training.dialogue_pairs import (
    Direction,
    TargetRow,
    conditions_and_targets,
    encode_rows,
    make_batch,
    token_batches,
    visible_pairs,
    with_wrong_conditions,
    wrong_partners,
)
from rewards.training.dialogue_training import DialogueReport, train_dialogue_model
from rewards.training.target_loss import TargetLoss
from tests.helpers.command_line import environment
from tests.helpers.ports import free_port

CPU = torch.device("cpu")
MAX_TOKENS = 24
TOPICS = (
    ("I can not sleep at night.", "Sleep is hard at night."),
    ("My job is too much.", "Your job is too much."),
    ("My friends do not call.", "Your friends could call."),
    ("We moved to a new town.", "A new town is lonely."),
)


def dialogue(count: int, start: int = 0) -> list[Example]:
    """Posts and responses of one topic each."""
    return [Example(f"s{i}", f"r{i}", *TOPICS[i % len(TOPICS)]) for i in range(start, start + count)]


def settings(**changes: object) -> RewardTrainingConfig:
    defaults = {"mi_epochs": 4, "mi_learning_rate": 1e-2, "mi_batch_tokens": 256}
    return RewardTrainingConfig.model_validate(defaults | changes)


def train(direction: Direction, model: Path, output: Path, count: int = 80, **changes: object) -> DialogueReport:
    dev, test = dialogue(8, 1000), dialogue(40, 2000)
    return train_dialogue_model(
        direction, dialogue(count), dev, test, model, settings(**changes), MAX_TOKENS, output, 0
    )


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request: pytest.FixtureRequest, model_cache: Path) -> LanguageModel:
    return load_language_model(f"random:{request.param}", model_cache, "cpu")


@pytest.fixture(scope="module")
def llama(model_cache: Path) -> Path:
    return resolve("random:llama", model_cache)


def rows_of(lm: LanguageModel, texts: tuple[str, ...]) -> list[TargetRow]:
    return encode_rows(lm, "backward", texts, texts[::-1], MAX_TOKENS)


def test_loss_and_gradients_are_those_of_the_model_itself(
    lm: LanguageModel, texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(target_loss, "HEAD_ROWS", 7)
    rows = rows_of(lm, texts)
    longest = max(len(row.context) + len(row.target) for row in rows)
    ids_BT = torch.zeros((len(rows), longest), dtype=torch.long)
    labels_BT = torch.full_like(ids_BT, -100)
    mask_BT = torch.zeros_like(ids_BT)
    for i, row in enumerate(rows):
        end = len(row.context) + len(row.target)
        ids_BT[i, :end] = torch.tensor(row.context + row.target)
        labels_BT[i, len(row.context) : end] = torch.tensor(row.target)
        mask_BT[i, :end] = 1
    gradients = []
    for loss in (
        lm.model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss,
        TargetLoss(lm.model)(*make_batch(rows).to(CPU)),
    ):
        lm.model.zero_grad()
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None})
        gradients[-1]["loss"] = loss.detach()
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-4, rtol=1e-3)


def test_the_contrastive_loss_and_its_gradients_are_those_of_its_formula(
    lm: LanguageModel, texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(target_loss, "HEAD_ROWS", 7)
    true = rows_of(lm, texts)
    partners = [(i + 1) % len(true) for i in range(len(true))]
    rows = with_wrong_conditions(true, range(len(true)), partners)
    assert [row.target for row in rows] == [row.target for row in true] * 2
    assert rows[len(true)].context == true[1].context != true[0].context
    sums = []
    for row in rows:
        ids = torch.tensor([row.context + row.target])
        logprobs = lm.model(input_ids=ids).logits[0].log_softmax(-1)
        start = len(row.context)
        sums.append(sum(logprobs[start + t - 1, token] for t, token in enumerate(row.target)))
    log_p_true, log_p_wrong = torch.stack(sums).chunk(2)
    tokens = sum(len(row.target) for row in true)
    formula = -log_p_true.sum() / tokens - 0.3 * (log_p_true - log_p_wrong).sigmoid().log().mean()
    gradients = []
    for loss in (formula, TargetLoss(lm.model, 0.3)(*make_batch(rows).to(CPU))):
        lm.model.zero_grad()
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None})
        gradients[-1]["loss"] = loss.detach()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_loss_is_the_scorers_mean_log_probability(lm: LanguageModel, texts: tuple[str, ...], direction: Direction):
    loss = TargetLoss(lm.model)
    scorer = MutualInformationScorer(lm, lm, MAX_TOKENS)
    for example in (Example("s", "r", texts[1], texts[4]), Example("s", "r", texts[7], f"  {texts[3]}\n")):
        rows = encode_rows(lm, direction, *conditions_and_targets([example], direction), MAX_TOKENS)
        forward, backward = scorer.score([(example.seeker_post, example.response_post)])[0]
        with torch.no_grad():
            found = -float(loss(*make_batch(rows).to(CPU)))
        assert found == pytest.approx(forward if direction == "forward" else backward, abs=1e-4)


def test_batches_hold_every_row_once_within_the_budget():
    rng = np.random.default_rng(0)
    rows = [TargetRow((1,) * int(n), (2,) * int(m)) for n, m in rng.integers(1, 40, (200, 2))]
    batches = token_batches(rows, 200, rng)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    padded = [len(batch) * max(rows[i].length for i in batch) for batch in batches]
    assert max(padded) <= 200
    assert sum(row.length for row in rows) / sum(padded) > 0.85
    assert token_batches([TargetRow((1,) * 500, (2,))], 200, rng) == [[0]]


def test_wrong_partners_are_of_other_seekers():
    examples = [Example(f"s{i // 2}", f"r{i}", "a", "b") for i in range(20)]
    seekers = [example.seeker_id for example in examples]
    partners, again, others = (wrong_partners(seekers, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert all(seekers[other] != seekers[i] for i, other in enumerate(partners))
    assert partners == again != others
    assert visible_pairs([Example("s", "r", " \n", "b"), Example("s", "r", "a", ""), examples[0]]) == [examples[0]]


@pytest.mark.parametrize("lora", [{"rank": 8, "alpha": 16.0}, None])
def test_both_directions_are_learnt_and_the_scorer_takes_them(
    llama: Path, tmp_path: Path, lora: dict[str, float] | None
):
    folders = {}
    for direction in ("forward", "backward"):
        folders[direction] = tmp_path / direction
        report = train(direction, llama, folders[direction], mi_lora=lora)
        assert report.before is not None
        assert report.after is not None
        assert report.after.perplexity < report.before.perplexity / 20
        assert report.before.beats_other_condition.value < 0.8
        # A quarter of the wrong partners are of the same topic, where no model can tell: ties lose.
        assert report.after.beats_other_condition.value > 0.6
        assert report.after.information > report.before.information
        assert report.dev_perplexity[report.best_epoch] == min(report.dev_perplexity)
        assert (report.train_pairs, report.after.pairs, len(report.train_loss)) == (80, 40, 4)
    assert not list(tmp_path.rglob("adapter*"))
    scorer = MutualInformationBuilder(str(folders["forward"]), str(folders["backward"]), max_tokens=MAX_TOKENS).build()
    true = scorer.score(TOPICS)
    wrong = scorer.score([(seeker, TOPICS[i - 1][1]) for i, (seeker, _) in enumerate(TOPICS)])
    assert (true > wrong).all()


def test_contrast_tells_true_conditions_from_wrong_ones(llama: Path, tmp_path: Path):
    plain = train("backward", llama, tmp_path / "plain", mi_epochs=1)
    contrast = train("backward", llama, tmp_path / "contrast", mi_epochs=1, mi_contrast=3.0)
    assert plain.after is not None
    assert contrast.after is not None
    assert contrast.after.information > plain.after.information


def test_the_report_is_what_the_saved_model_scores(llama: Path, tmp_path: Path):
    report = train("backward", llama, tmp_path / "m", mi_epochs=2)
    scorer = MutualInformationBuilder(str(tmp_path / "m"), str(tmp_path / "m"), max_tokens=MAX_TOKENS).build()
    examples = dialogue(40, 2000)
    partners = wrong_partners([example.seeker_id for example in examples], np.random.default_rng(0))
    responses = [example.response_post for example in examples]
    true = scorer.score([(e.seeker_post, e.response_post) for e in examples])[:, 1]
    wrong = scorer.score([(e.seeker_post, responses[j]) for e, j in zip(examples, partners, strict=True)])[:, 1]
    assert report.after is not None
    assert report.after.information == pytest.approx(float((true - wrong).mean()), abs=1e-3)
    lengths = [len(scorer.backward.encode(f" {e.seeker_post}", MAX_TOKENS)) for e in examples]
    perplexity = math.exp(-float(np.average(true, weights=lengths)))
    assert report.after.perplexity == pytest.approx(perplexity, rel=1e-3)


@pytest.mark.parametrize("lora", [{"rank": 4, "alpha": 8.0}, None])
def test_only_the_upper_layers_are_trained_when_asked(llama: Path, tmp_path: Path, lora: dict[str, float] | None):
    train("forward", llama, tmp_path / "m", count=16, mi_epochs=1, mi_trained_layers=1, mi_lora=lora)
    before, after = load_causal_lm(llama).state_dict(), load_causal_lm(tmp_path / "m").state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed)


def test_a_training_that_makes_it_worse_changes_nothing(llama: Path, tmp_path: Path):
    good = tmp_path / "good"
    train("forward", llama, good)
    wrong = [Example(f"s{i}", f"r{i}", TOPICS[i % 4][0], TOPICS[(i + 1) % 4][1]) for i in range(80)]
    report = train_dialogue_model(
        "forward", wrong, dialogue(8, 1000), dialogue(8, 99), good, settings(mi_epochs=3), MAX_TOKENS, tmp_path / "m", 0
    )
    assert (report.best_epoch, len(report.train_loss)) == (0, 1)  # patience is one pass
    assert report.dev_perplexity[1] > report.dev_perplexity[0]
    assert report.before == report.after
    before, after = load_causal_lm(good).state_dict(), load_causal_lm(tmp_path / "m").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_loss_that_is_not_finite_says_what_to_do(llama: Path, tmp_path: Path):
    with pytest.raises(PartnerError, match="mi_learning_rate"):
        train("forward", llama, tmp_path / "m", mi_learning_rate=1e4)
    assert list(tmp_path.iterdir()) == []


def test_a_seed_gives_one_model_and_progress_counts_to_the_end(llama: Path, tmp_path: Path):
    state = torch.random.get_rng_state()
    weights = []
    steps: list[tuple[int, int]] = []
    for name in ("a", "b"):
        train_dialogue_model(
            "forward", dialogue(16), dialogue(8, 50), dialogue(8, 99), llama, settings(mi_epochs=1), MAX_TOKENS,
            tmp_path / name, 0, progress=lambda done, total: steps.append((done, total)),
        )  # fmt: skip
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert torch.equal(state, torch.random.get_rng_state())
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps[: len(steps) // 2]] == sorted(done for done, _ in steps[: len(steps) // 2])


def test_without_pairs_there_is_an_error_and_no_folder(llama: Path, tmp_path: Path):
    with pytest.raises(PartnerError, match="no pairs to train the backward dialogue model"):
        train_dialogue_model(
            "backward", [Example("s", "r", "a", " ")], [], [], llama, settings(), MAX_TOKENS, tmp_path / "m", 0
        )
    assert list(tmp_path.iterdir()) == []


def test_without_dev_and_test_pairs_the_last_pass_is_kept(llama: Path, tmp_path: Path):
    report = train_dialogue_model(
        "forward", dialogue(16), [], dialogue(1), llama, settings(mi_epochs=2), MAX_TOKENS, tmp_path / "m", 0
    )
    assert (report.best_epoch, report.before, report.after, report.dev_perplexity) == (2, None, None, ())


def test_the_command_trains_one_direction_and_writes_a_card(tmp_path: Path):
    output = tmp_path / "mi"
    arguments = ["rewards", "train", "mi", "--data", "sample", "--output", str(output), "--preset", "smoke"]
    with pytest.raises(SystemExit) as status:
        main([*arguments, "--direction", "backward", "resources.driver_threads=1"])
    assert status.value.code == 0
    assert [path.name for path in output.iterdir()] == ["backward"]
    report = json.loads((output / "backward" / "report.json").read_text())
    card = (output / "backward" / "README.md").read_text()
    assert f"{report['after']['perplexity']:.1f}" in card
    assert str(tmp_path) not in card + json.dumps(report)
    assert load_language_model(str(output / "backward"), None, "cpu").vocabulary_size > 0


@pytest.mark.slow
def test_two_processes_train_one_model(llama: Path, tmp_path: Path):
    result = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", str(free_port()),
            "-m", "launch.cli", "rewards", "train", "mi", "--data", "sample", "--output", "mi", "--preset", "smoke",
            "--direction", "forward", "device=cpu",
        ],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "mi" / "forward" / "report.json").read_text())
    assert report["processes"] == 2
    assert report["after"]["perplexity"] < report["before"]["perplexity"]
    assert [path.name for path in (tmp_path / "mi").iterdir()] == ["forward"]
