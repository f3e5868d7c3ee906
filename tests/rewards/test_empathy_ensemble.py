"""The ensemble of empathy classifiers: its bound by hand, its folder, its training, and what refuses it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.storage.atomic import folder_when_whole
from partner_rl.types import Example, MechanismLabel, PartnerError
from rewards.empathy import EmpathyBuilder
from rewards.empathy_ensemble import EmpathyEnsemble, lower_bound
from rewards.empathy_model import EmpathyClassifier, EmpathyModel
from rewards.ngrams import NgramLevels
from rewards.training.empathy_training import train_empathy, train_members

SORRY = "I am so sorry to hear that."
FILLERS = ("You could go for a walk.", "Buses leave at nine.", "Just stop thinking about it!")
LEVELS = arrays(np.float32, (3, 4, 3), elements=st.floats(0, 2, width=32))


def untrained(bert: Path, seed: int) -> EmpathyClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EmpathyModel.on_encoder(load_encoder(bert), 64)
    return EmpathyClassifier(model, load_tokenizer(bert), 64)


@pytest.fixture
def ensemble(bert: Path) -> EmpathyEnsemble:
    return EmpathyEnsemble(tuple(untrained(bert, seed) for seed in range(3)))


@pytest.fixture
def pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(seeker, response) for seeker in texts[:2] for response in texts]


def examples(count: int) -> list[Example]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        sorry = rng.random() < 0.5
        response = f"{SORRY} " * sorry + FILLERS[rng.integers(len(FILLERS))]
        first = MechanismLabel(2, (SORRY,)) if sorry else MechanismLabel(0)
        labels = (first, MechanismLabel(0), MechanismLabel(0))
        found.append(Example(f"s{i}", f"r{i}", "I am tired.", response, labels))
    return found


def test_the_bound_by_hand() -> None:
    # Of 0.5, 1 and 1.5 the sample's deviation is 0.5; of 0, 0 and 1.5 it is the root of 0.75, more than the mean.
    levels_ENM = torch.tensor([[[0.5, 0.0, 2.0]], [[1.0, 0.0, 2.0]], [[1.5, 1.5, 2.0]]])
    for deviations, expected in ((0.0, [1.0, 0.5, 2.0]), (0.5, [0.75, 0.5 - 0.5 * 0.75**0.5, 2.0]), (1.0, [0.5, 0, 2])):
        torch.testing.assert_close(lower_bound(levels_ENM, deviations), torch.tensor([expected]))


@given(levels_ENM=LEVELS, deviations=st.floats(0, 5))
def test_the_bound_is_a_level_below_the_mean_and_falls_with_the_deviations(levels_ENM, deviations: float) -> None:
    levels = torch.from_numpy(levels_ENM)
    bound = lower_bound(levels, deviations)
    assert ((bound >= 0) & (bound <= 2)).all()
    assert (bound <= levels.mean(0) + 1e-6).all()
    assert (lower_bound(levels, deviations + 1) <= bound + 1e-6).all()
    torch.testing.assert_close(lower_bound(levels.flip(0), deviations), bound, atol=1e-5, rtol=1e-5)


def test_members_that_agree_lose_nothing(bert: Path, pairs: list[tuple[str, str]]) -> None:
    one = untrained(bert, 0)
    levels_ENM = EmpathyEnsemble((one, one)).expected_levels(pairs)
    assert torch.equal(lower_bound(levels_ENM, 3.0), levels_ENM[0])


def test_a_saved_ensemble_comes_back_and_its_folder_is_that_of_the_first(
    ensemble: EmpathyEnsemble, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "empathy"
    with folder_when_whole(folder, "empathy") as temporary:
        ensemble.save(temporary)
    again = EmpathyEnsemble.load(folder)
    assert torch.equal(again.expected_levels(pairs), ensemble.expected_levels(pairs))
    assert ensemble.expected_levels(pairs).std(0).min() > 0
    first = EmpathyClassifier.from_pretrained(folder)
    assert torch.equal(first.level_logits(pairs), ensemble.members[0].level_logits(pairs))
    ensemble.members[0].save(tmp_path / "alone")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "alone" / name).read_bytes() == (folder / name).read_bytes()
    with folder_when_whole(folder, "empathy") as temporary:
        EmpathyEnsemble(ensemble.members[:2]).save(temporary)
    assert len(EmpathyEnsemble.load(folder, max_tokens=8).members) == 2
    assert len(EmpathyEnsemble.load(tmp_path / "alone").members) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "empathy"}


def test_a_missing_member_is_refused(ensemble: EmpathyEnsemble, tmp_path: Path) -> None:
    ensemble.save(tmp_path / "empathy")
    shutil.rmtree(tmp_path / "empathy" / "members" / "2")
    with pytest.raises(PartnerError, match="holds 3 where members 2 to 2 should be"):
        EmpathyEnsemble.load(tmp_path / "empathy")


def test_the_scores_are_the_bound_or_those_of_the_first_member(
    ensemble: EmpathyEnsemble, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    ensemble.save(tmp_path / "all")
    ensemble.members[0].save(tmp_path / "alone")
    for score in ("expected", "argmax"):
        levels, alone = (EmpathyBuilder(tmp_path / name, score).build().score(pairs) for name in ("all", "alone"))
        np.testing.assert_array_equal(levels, alone)
    bound = EmpathyBuilder(tmp_path / "all", "conservative", deviations=0.5).build().score(pairs)
    expected = lower_bound(ensemble.expected_levels(pairs), 0.5).numpy()
    np.testing.assert_allclose(bound, expected, atol=1e-5)
    blank = EmpathyBuilder(tmp_path / "all", "conservative").build().score([("I am tired.", " ")])
    assert blank.tolist() == [[0.0] * 3]


def test_a_bound_over_one_classifier_is_refused(ensemble: EmpathyEnsemble, tmp_path: Path) -> None:
    ensemble.members[0].save(tmp_path / "alone")
    with pytest.raises(PartnerError, match="conservative needs two or more") as caught:
        EmpathyBuilder(tmp_path / "alone", "conservative").build()
    assert "\n" not in str(caught.value)


def test_members_learn_the_same_and_differ_in_both_halves(bert: Path) -> None:
    settings = RewardTrainingConfig(empathy_epochs=4, batch_size=16, empathy_members=3, head_learning_rate=3e-3)
    train = examples(96)
    steps: list[tuple[int, int]] = []
    ensemble, reports = train_members(
        train, [], bert, settings, 0, progress=lambda done, total: steps.append((done, total))
    )
    assert len(reports) == 3
    assert {total for _, total in steps} == {steps[-1][0]}
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    alone, _ = train_empathy(train, [], bert, settings, 0)
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(tensor, ensemble.members[0].model.state_dict()[name]), name
    first, second, third = (member.model for member in ensemble.members)
    for one, other in ((first, second), (second, third)):
        assert not torch.equal(one.ngrams.weight_FML, other.ngrams.weight_FML)
        assert not torch.equal(one.mechanisms[0].level[1].weight, other.mechanisms[0].level[1].weight)
        assert torch.equal(one.ngrams.idf_F, other.ngrams.idf_F)
    pairs = [("I am tired.", f"{SORRY} {FILLERS[0]}"), ("I am tired.", FILLERS[0])]
    sorry, filler = lower_bound(ensemble.expected_levels(pairs), 1.0)[:, 0].tolist()
    assert sorry > 1.0 > 0.5 > filler


def test_a_regression_on_chosen_rows_is_that_of_these_texts() -> None:
    texts = ["so sorry", "so sad", "walk out", "walk home", "so sorry walk home"]
    levels_NM = torch.tensor([[2, 0, 0], [2, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]])
    whole, chosen = NgramLevels(), NgramLevels()
    whole.fit(texts, levels_NM)
    chosen.fit(texts, levels_NM, np.arange(5))
    assert torch.equal(whole.weight_FML, chosen.weight_FML)
    chosen.fit(texts, levels_NM, np.array([0, 0, 1, 2, 3]))
    assert torch.equal(whole.idf_F, chosen.idf_F)
    # Level 1 was not drawn.
    assert chosen(["so sorry"])[0, 0, 1] < -5 < whole(["so sorry"])[0, 0, 1]
