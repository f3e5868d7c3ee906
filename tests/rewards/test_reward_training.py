"""The classifiers learn what is to be learnt, frozen layers change cost and not results, folders are complete."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.types import MECHANISMS, Example, MechanismLabel, PartnerError
from rewards.empathy_model import EmpathyClassifier, EmpathyModel
from rewards.encoder import encode_states, lowest_layers, pad_id_of, pad_states, run_upper_layers, tokenize
from rewards.training.empathy_targets import IGNORED, class_weights, level_matrix, rationale_tokens
from rewards.training.empathy_training import train_empathy
from rewards.training.frozen import PartlyFrozenEncoder
from rewards.training.schedule import bucketed_batches, layer_groups, process_share

SORRY = "I am so sorry to hear that."
BEEN = "I have been there too."
ASK = "What happened today?"
FILLERS = ("Everyone feels like this sometimes.", "You could go for a walk.", "Just stop thinking about it!")
SEEKERS = ("I am tired.", "My job is too much.", "I can not sleep at night.", "My friends do not call.")
CPU = torch.device("cpu")


def labelled_pairs(count: int, seed: int) -> list[Example]:
    """Responses in which one known sentence stands for each mechanism."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(count):
        present = rng.random(3) < 0.5
        sentences = [s for s, there in zip((SORRY, BEEN, ASK), present, strict=True) if there]
        sentences.insert(int(rng.integers(len(sentences) + 1)), FILLERS[rng.integers(len(FILLERS))])
        labels = tuple(
            MechanismLabel(2, (sentence,)) if there else MechanismLabel(0)
            for sentence, there in zip((SORRY, BEEN, ASK), present, strict=True)
        )
        first, second, third = labels
        examples.append(
            Example(f"s{i}", f"r{i}", SEEKERS[i % len(SEEKERS)], " ".join(sentences), (first, second, third))
        )
    return examples


def settings(**changes: object) -> RewardTrainingConfig:
    defaults = {
        "empathy_epochs": 8,
        "batch_size": 16,
        "max_tokens": 48,
        "frozen_layers": 9,
    }
    return RewardTrainingConfig.model_validate(defaults | changes)


@pytest.fixture(scope="module")
def trained(bert: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("trained") / "empathy"
    steps: list[tuple[int, int]] = []
    classifier, report = train_empathy(
        labelled_pairs(240, 0), labelled_pairs(40, 1), bert,
        settings(
            frozen_layers=0, empathy_learning_rate=1e-3, head_learning_rate=3e-3, rationale_loss_weight=1.0,
            empathy_ngram_weight=0.0, empathy_patience=8,
        ),
        seed=0,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    classifier.save(folder)
    return report, folder, steps


def test_empathy_levels_are_learnt(trained):
    report, _, _ = trained
    assert list(report.mechanisms) == list(MECHANISMS)
    for mechanism in report.mechanisms.values():
        assert mechanism.levels.macro_f1 > 0.9
        assert sum(mechanism.levels.support) == 40
    assert (report.train_pairs, report.dev_pairs, report.lost_rationales) == (240, 40, 0)


def test_rationales_are_learnt(trained):
    _, folder, _ = trained
    classifier = EmpathyClassifier.from_pretrained(folder, 48)
    text = f"{FILLERS[1]} {SORRY}"
    ((first, _, _),) = classifier.predict([(SEEKERS[0], text)])
    assert first.level == 2
    covered = {i for start, end in first.rationales for i in range(start, end)}
    begin = text.index(SORRY)
    assert len(covered & set(range(begin, begin + len(SORRY)))) > len(SORRY) // 2
    assert len(covered & set(range(begin))) < begin // 2


def test_progress_counts_every_step(trained):
    _, _, steps = trained
    total = steps[0][1]
    assert steps == [(done, total) for done in range(total + 1)]


def test_the_seeker_encoder_stays_as_it_was(bert: Path):
    before = torch.random.get_rng_state()
    classifier, _ = train_empathy(labelled_pairs(24, 0), [], bert, settings(empathy_epochs=1, frozen_layers=0), 0)
    assert torch.equal(before, torch.random.get_rng_state())
    model = classifier.model
    pretrained = load_encoder(bert).state_dict()
    for name, tensor in model.seeker_encoder.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(tensor, pretrained[name])
    changed = [
        name for name, t in model.response_encoder.state_dict().items()
        if not name.startswith("pooler.") and not torch.equal(t, pretrained[name])
    ]  # fmt: skip
    assert changed


def test_training_is_the_same_for_the_same_seed(bert: Path):
    pairs = labelled_pairs(32, 0)
    probabilities = []
    for seed in (0, 0, 1):
        classifier, _ = train_empathy(pairs, [], bert, settings(empathy_epochs=1, frozen_layers=1), seed)
        probabilities.append(classifier.level_probabilities([(pairs[0].seeker_post, pairs[0].response_post)]))
    assert torch.equal(probabilities[0], probabilities[1])
    assert not torch.equal(probabilities[0], probabilities[2])


def test_lower_and_upper_layers_make_the_whole_encoder(bert: Path, texts: tuple[str, ...]):
    encoder, tokenizer = load_encoder(bert), load_tokenizer(bert)
    encoded = tokenize(tokenizer, texts, 40)
    whole = encode_states(encoder, encoded, pad_id_of(tokenizer), CPU)
    for layers in (0, 1, 2):
        with lowest_layers(encoder, layers):
            lower = encode_states(encoder, encoded, pad_id_of(tokenizer), CPU)
        lower_BTD, mask_BT = pad_states(lower)
        upper_BTD = run_upper_layers(encoder, lower_BTD, mask_BT, layers)
        for row, expected in enumerate(whole):
            torch.testing.assert_close(upper_BTD[row, : len(expected)], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frozen", [0, 1, 2, 12])
def test_frozen_layers_get_no_gradient_and_the_others_do(bert: Path, texts: tuple[str, ...], frozen: int):
    encoder, tokenizer = load_encoder(bert), load_tokenizer(bert)
    encoded = tokenize(tokenizer, texts, 40)
    partly = PartlyFrozenEncoder(encoder, encoded, frozen, pad_id_of(tokenizer), lambda: None)
    states_BTD, _ = partly.states([3, 0, 5])
    expected = encode_states(encoder, [encoded[0]], pad_id_of(tokenizer), CPU)[0]
    torch.testing.assert_close(states_BTD[1, : len(expected)], expected, atol=1e-4, rtol=1e-4)
    parameters = partly.parameters()
    if frozen >= 2:
        assert parameters == []
        assert not states_BTD.requires_grad
        return
    states_BTD.square().sum().backward()
    assert all(p.grad is not None for p in parameters)
    trained = {id(p) for p in parameters}
    assert all(p.grad is None for p in encoder.parameters() if id(p) not in trained)


def test_rationales_mark_the_tokens_they_overlap(bert: Path):
    text = f"{SORRY} {ASK}"
    (encoded,) = tokenize(load_tokenizer(bert), [text], 48)
    inside, lost = rationale_tokens(MechanismLabel(2, (f"{ASK} ", "not in there")), text, encoded)
    assert lost == 1
    assert inside[0] == inside[-1] == IGNORED
    for (start, end), mark in zip(encoded.offsets, inside, strict=True):
        if mark != IGNORED:
            assert mark == int(end > text.index(ASK)), (start, end)


def test_rare_levels_weigh_more_and_absent_ones_nothing():
    weights = class_weights(torch.tensor([[0], [0], [0], [0], [2]]))
    assert weights[0, 1] == 0
    assert weights[0, 2] / weights[0, 0] == pytest.approx(2.0)
    assert (weights[0, 0] * 4 + weights[0, 2]) / 5 == pytest.approx(1.0)


def test_batches_hold_every_index_once():
    batches = bucketed_batches([5, 3, 9, 1, 7], 2, np.random.default_rng(0))
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3, 4]


def test_unlabelled_data_is_an_error(bert: Path):
    with pytest.raises(PartnerError, match="no labelled pair"):
        train_empathy([Example("s", "r", "a", "b")], [], bert, settings(), 0)


def test_the_best_epoch_by_dev_loss_is_kept_and_training_stops_early(bert: Path):
    # A rate at which the later epochs spoil what the first ones learnt.
    changes = {"empathy_epochs": 12, "empathy_learning_rate": 1e-2, "head_learning_rate": 3e-3, "empathy_patience": 2}
    dev = labelled_pairs(40, 1)
    classifier, report = train_empathy(labelled_pairs(64, 0), dev, bert, settings(frozen_layers=0, **changes), 0)
    losses = [epoch.dev_loss for epoch in report.epochs]
    assert losses.index(min(losses)) + 1 == report.best_epoch
    assert len(losses) == min(12, report.best_epoch + 2)
    probabilities_NML = classifier.level_probabilities([(e.seeker_post, e.response_post) for e in dev])
    levels_NM = torch.from_numpy(level_matrix(dev))
    loss = -probabilities_NML.gather(2, levels_NM.unsqueeze(-1)).log().mean()
    assert float(loss) == pytest.approx(report.epochs[report.best_epoch - 1].dev_loss, abs=1e-4)


def test_a_checkpoint_is_a_transformers_model(trained):
    _, folder, _ = trained
    assert isinstance(AutoModel.from_pretrained(folder), EmpathyModel)
    first, second = EmpathyClassifier.from_pretrained(folder), EmpathyClassifier.from_pretrained(folder, 48)
    pair = [(SEEKERS[0], f"{FILLERS[0]} {BEEN}")]
    assert torch.equal(first.level_logits(pair), second.level_logits(pair))
    assert not list(folder.glob("*.bin"))
    assert not list(folder.glob("*.pkl"))


def test_each_layer_learns_slower_than_the_one_above(bert: Path, texts: tuple[str, ...]):
    encoder, tokenizer = load_encoder(bert), load_tokenizer(bert)
    whole = PartlyFrozenEncoder(encoder, tokenize(tokenizer, texts, 40), 0, pad_id_of(tokenizer), lambda: None)
    rates = {id(p): group["lr"] for group in layer_groups(whole, 1.0, 0.5) for p in group["params"]}
    for index, layer in enumerate(encoder.encoder.layer):
        assert {rates[id(p)] for p in layer.parameters()} == {0.5 ** (len(encoder.encoder.layer) - 1 - index)}
    assert {rates[id(p)] for p in encoder.embeddings.parameters()} == {0.5 ** len(encoder.encoder.layer)}
    assert set(rates) == {id(p) for p in whole.parameters()}


def test_processes_get_as_many_batches_each_and_miss_none():
    shares = [process_share(list("abcde"), process, 2) for process in (0, 1)]
    assert [len(share) for share in shares] == [3, 3]
    assert {batch for share in shares for batch in share} == set("abcde")
