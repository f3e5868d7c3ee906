"""Pairs are what they say, the classifier learns topic and manner, and the figures are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from launch.cli import main
from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.types import Example, PartnerError
from rewards.coherence_model import CoherenceClassifier
from rewards.sentence_style import NUM_FEATURES, style_features
from rewards.training import coherence_training
from rewards.training.coherence_scores import classifier_scores, pair_scores
from rewards.training.coherence_training import batch_pairs, train_coherence
from rewards.training.intervals import bootstrap_interval
from rewards.training.sentence_pairs import (
    PAIRS_PER_RESPONSE,
    PairTrial,
    SplitResponse,
    draw_trials,
    embed_texts,
    same_topic,
    split_responses,
    training_batches,
)

TOPICS = (("work", "job", "friends", "call", "town"), ("sleep", "night", "tired", "appointment", "walk"))


def split(text: str) -> Sequence[str]:
    return [part.strip() + "." for part in text.split(".") if part.strip()]


def settings(**changes: object) -> RewardTrainingConfig:
    defaults = {
        "coherence_epochs": 12,
        "coherence_batch_size": 8,
        "coherence_learning_rate": 1e-3,
        "max_tokens": 48,
        "coherence_frozen_layers": 9,
        "coherence_hard_negatives": 0.0,
    }
    return RewardTrainingConfig.model_validate(defaults | changes)


def topical(count: int, seed: int) -> list[Example]:
    """Responses that keep to one of two sets of words, to posts that say nothing."""
    rng = np.random.default_rng(seed)
    return [
        Example(f"s{i}", f"r{i}", "A post.", " ".join(" ".join(rng.choice(TOPICS[i % 2], 4)) + "." for _ in range(3)))
        for i in range(count)
    ]


def mannered(count: int, seed: int) -> list[Example]:
    """Responses of the same words, half of them by writers who never use capitals."""
    rng = np.random.default_rng(seed)
    words = [word for topic in TOPICS for word in topic]
    texts = [[f"I {' '.join(rng.choice(words, 4))}." for _ in range(3)] for _ in range(count)]
    return [
        Example(f"s{i}", f"r{i}", "A post.", " ".join(s.lower() if i % 2 else s for s in text))
        for i, text in enumerate(texts)
    ]


def test_style_sees_what_an_uncased_encoder_does_not():
    plain, careless = style_features("I don't know."), style_features("i dont know")
    assert len(plain) == len(careless) == NUM_FEATURES
    assert plain != careless
    assert all(0 <= x < 3 for text in ("", "🙂", "A" * 5000, "a, b, c " * 900) for x in style_features(text))
    assert style_features("  Ok. \n") == style_features("Ok.")


def test_the_order_of_two_sentences_does_not_matter(coherence_checkpoint: Path, texts: tuple[str, ...]):
    classifier = CoherenceClassifier.load(coherence_checkpoint, 48)
    pairs = [(a, b) for a in texts for b in texts]
    there, back = classifier.probabilities(pairs), classifier.probabilities([(b, a) for a, b in pairs])
    torch.testing.assert_close(there, back, atol=1e-5, rtol=0)
    assert there.std() > 0.01


def test_the_style_of_a_sentence_moves_its_score(coherence_checkpoint: Path):
    """To the encoder both sentences are the same: it is uncased."""
    classifier = CoherenceClassifier.load(coherence_checkpoint, 48)
    large, small = classifier.probabilities([("I am tired.", "What happened?"), ("i am tired.", "what happened?")])
    assert abs(float(large - small)) > 1e-4


def test_topics_are_those_of_the_seeker_and_of_similar_posts():
    responses = [SplitResponse(seeker, ("A.",)) for seeker in ("a", "b", "a", "c", "d")]
    angles = np.array([0.0, 0.1, 2.0, 0.3, 3.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    topics = same_topic(responses, vectors, 2)
    assert topics[0] == (2, 1)  # the response to the same seeker comes first, however far its post
    assert topics[1] == (0, 3)
    assert topics[4] == (2, 3)
    assert all(index not in found for index, found in enumerate(topics))
    assert same_topic(responses[:1], vectors[:1], 3) == [()]


def test_equal_posts_have_equal_vectors(bert: Path):
    vectors = embed_texts(bert, ["I am tired.", "My job is too much.", "I am tired."], 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert (vectors[0] == vectors[2]).all()
    assert not np.allclose(vectors[0], vectors[1])
    assert embed_texts(bert, [], 32).shape[0] == 0


def test_trials_hold_what_they_promise():
    examples = [
        Example("a", "1", "p", "One. Two. Three. Shared."),
        Example("a", "2", "p", "Four. Shared."),
        Example("b", "3", "p", "Five. Six. Shared."),
        Example("c", "4", "p", "Seven."),
    ]
    responses = split_responses(examples, split)
    topics = [(1, 2), (0,), (0,), (2,)]
    trials = draw_trials(responses, topics, np.random.default_rng(0))
    assert {trial.response for trial in trials} == {0, 1, 2}
    for trial in trials:
        response = responses[trial.response]
        assert trial.first != trial.own
        assert {trial.first, trial.own} <= set(response.sentences)
        others = [r for r in responses if r.seeker_id != response.seeker_id]
        assert any(trial.easy in other.sentences for other in others)
        assert any(trial.hard in responses[i].sentences for i in topics[trial.response])
        assert not {trial.easy, trial.hard} & set(response.sentences)
    assert draw_trials(responses, topics, np.random.default_rng(0)) == trials


@pytest.mark.parametrize("sentences", [40, 2000])
def test_a_long_response_gives_few_trials(sentences: int):
    long = ". ".join(f"w{i}" for i in range(sentences)) + "."
    responses = split_responses([Example("a", "1", "p", long), Example("b", "2", "p", "Other.")], split)
    assert len(draw_trials(responses, [(1,), (0,)], np.random.default_rng(0))) == PAIRS_PER_RESPONSE


def test_every_response_that_has_a_pair_is_trained_on_with_one_of_its_topic():
    rng = np.random.default_rng(0)
    responses = [SplitResponse(f"s{i}", ("A.", "B.") if i % 3 else ("A.",)) for i in range(40)]
    topics = [((i + 1) % 40, (i + 2) % 40) for i in range(40)]
    batches = training_batches(responses, topics, 8, rng)
    assert {i for i in range(40) if i % 3} <= {i for batch in batches for i in batch}
    for batch in batches:
        assert len(batch) == len(set(batch)) <= 8
        assert any(set(topics[i]) & set(batch) for i in batch)
    assert len(batches) == -(-26 // 4)


def test_the_pairs_of_a_batch_and_their_weights():
    responses = [
        SplitResponse("a", ("A1.", "A2.", "S.")),
        SplitResponse("b", ("B1.", "S.")),
        SplitResponse("c", ("C.",)),
    ]
    sentences, owners = ["A1.", "A2.", "S.", "B1.", "C."], [0, 0, 0, 1, 2]
    pairs = batch_pairs(
        sentences, owners, responses, {(0, 1)}, settings(coherence_hard_negatives=0.6), np.random.default_rng(0)
    )
    found = {
        (sentences[i], sentences[j]): (bool(together), float(weight))
        for i, j, together, weight in zip(*(t.tolist() for t in (
            pairs.first_P, pairs.second_P, pairs.together_P, pairs.weight_P)), strict=True)
    }  # fmt: skip
    third, quarter = pytest.approx(0.5 / 3), pytest.approx(0.5 * 0.4 / 4)
    for pair in (("A1.", "A2."), ("A1.", "S."), ("A2.", "S.")):
        assert found[pair] == (True, third)
    # "S." stands in both responses, so that it is no negative of B1.
    assert ("S.", "B1.") not in found
    for pair in (("A1.", "B1."), ("A2.", "B1.")):
        assert found[pair] == (False, pytest.approx(0.5 * 0.6 / 2))
    for pair in (("A1.", "C."), ("A2.", "C."), ("S.", "C."), ("B1.", "C.")):
        assert found[pair] == (False, quarter)
    assert float(pairs.weight_P.sum()) == pytest.approx(1.0)


def test_topic_is_learnt(bert: Path, tmp_path: Path):
    steps: list[tuple[int, int]] = []
    report = train_coherence(
        topical(120, 0), topical(60, 1), bert, settings(coherence_frozen_layers=0), tmp_path / "c", 0, split,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    # Half of the negatives are of the same words, so no classifier can do much better than 0.75.
    assert report.dev is not None
    assert report.dev.easy.auc > 0.68
    assert report.dev.easy.auc_interval[0] < report.dev.easy.auc < report.dev.easy.auc_interval[1]
    assert (report.train_responses, report.dev.responses) == (120, 60)
    total = steps[0][1]
    assert steps == [(done, total) for done in range(total + 1)]
    classifier = CoherenceClassifier.load(tmp_path / "c", 48)
    first = "work job friends call."
    same, different = classifier.probabilities([(first, "town job job work."), (first, "sleep night tired walk.")])
    assert same > 0.5 > different


def test_manner_is_learnt(bert: Path, tmp_path: Path):
    report = train_coherence(mannered(120, 0), mannered(60, 1), bert, settings(), tmp_path / "c", 0, split)
    assert report.dev is not None
    assert report.dev.easy.auc > 0.68


def test_the_encoder_is_trained_and_frozen_layers_are_not(bert: Path, tmp_path: Path):
    before = torch.random.get_rng_state()
    encoders = []
    for frozen in (1, 2):
        folder = tmp_path / str(frozen)
        train_coherence(
            topical(16, 0), [], bert, settings(coherence_epochs=1, coherence_frozen_layers=frozen), folder, 0, split
        )
        encoders.append(CoherenceClassifier.load(folder, 48).model.encoder.state_dict())
    changed = {name for name in encoders[0] if not torch.equal(encoders[0][name], encoders[1][name])}
    assert changed
    assert all(name.startswith("encoder.layer.1.") for name in changed)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_seed_gives_one_classifier(bert: Path, tmp_path: Path):
    pairs = [("A walk.", "Sleep well."), ("Work.", "A job.")]
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_coherence(topical(24, 0), [], bert, settings(coherence_epochs=1), tmp_path / name, seed, split)
        found.append(CoherenceClassifier.load(tmp_path / name, 48).probabilities(pairs))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_several_threads_give_one_gradient(coherence_checkpoint: Path):
    model = CoherenceClassifier.load(coherence_checkpoint, 64).model
    random = torch.Generator().manual_seed(0)
    pooled_ND = torch.randn(64, 384, generator=random)
    style_NF = torch.rand(64, NUM_FEATURES, generator=random)
    first_P, second_P = torch.randint(0, 64, (2, 2000), generator=random)
    pairs = coherence_training.BatchPairs(first_P, second_P, torch.ones(2000), torch.rand(2000, generator=random))
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        gradients = []
        for _ in range(10):
            leaf_ND = pooled_ND.clone().requires_grad_()
            coherence_training._loss(model, leaf_ND, style_NF, pairs).backward()
            assert leaf_ND.grad is not None
            gradients.append(leaf_ND.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_passes_through_the_encoder_change_nothing(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sentences go through the encoder sorted by length; their vectors must come back in the batch's order."""
    words = [word for topic in TOPICS for word in topic]
    texts = [". ".join(" ".join(words[i % 7 :][: 1 + (i + j) % 4]) for j in range(4)) + "." for i in range(24)]
    examples = [Example(f"s{i}", f"r{i}", "A post.", text) for i, text in enumerate(texts)]
    found = []
    for budget in (1, 30, 100_000):
        monkeypatch.setattr(coherence_training, "TOKENS_PER_PASS", budget)
        train_coherence(examples, [], bert, settings(coherence_epochs=1), tmp_path / str(budget), 0, split)
        classifier = CoherenceClassifier.load(tmp_path / str(budget), 48)
        found.append(classifier.probabilities([("A walk.", "Sleep well at night."), ("Work.", "A job.")]))
    torch.testing.assert_close(found[0], found[2], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], found[2], atol=1e-4, rtol=0)


def test_data_without_pairs_is_an_error(bert: Path, tmp_path: Path):
    one_seeker = [Example("s", "1", "a", "One. Two."), Example("s", "2", "a", "Three. Four.")]
    short = [Example("s", "1", "a", "One."), Example("t", "2", "b", "Two.")]
    for examples in (one_seeker, short, []):
        with pytest.raises(PartnerError, match="no sentence pairs"):
            train_coherence(examples, [], bert, settings(), tmp_path / "c", 0, split)
    assert list(tmp_path.iterdir()) == []


def test_figures_of_known_scores():
    trials = [PairTrial(i // 2, f"first{i}", f"own{i}", f"easy{i}", f"hard{i}") for i in range(40)]

    def perfect_on_easy(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.array([0.0 if second.startswith("easy") else 1.0 for _, second in pairs])

    scores = pair_scores(perfect_on_easy, trials, 0.5, 0)
    assert (scores.easy.auc, scores.easy.accuracy, scores.easy.auc_interval) == (1.0, 1.0, (1.0, 1.0))
    assert (scores.hard.auc, scores.hard.accuracy) == (0.5, 0.5)
    assert (scores.mix.auc, scores.mix.accuracy) == (0.75, 0.75)
    assert (scores.pairs, scores.responses) == (40, 20)


def test_figures_equal_those_of_all_pairs(coherence_checkpoint: Path, texts: tuple[str, ...]):
    classifier = CoherenceClassifier.load(coherence_checkpoint, 48)
    trials = [PairTrial(i, texts[i], texts[i + 1], texts[i + 2], texts[i + 3]) for i in range(5)]
    own = classifier.probabilities([(t.first, t.own) for t in trials]).numpy()
    easy = classifier.probabilities([(t.first, t.easy) for t in trials]).numpy()
    scores = classifier_scores(classifier, trials, 0)
    labels = [1] * 5 + [0] * 5
    assert scores.easy.auc == pytest.approx(roc_auc_score(labels, np.concatenate([own, easy])))
    assert scores.easy.accuracy == pytest.approx(((own > 0.5).sum() + (easy <= 0.5).sum()) / 10)


def test_rows_of_a_cluster_are_resampled_together():
    values = np.repeat([0.0, 1.0], 50)
    apart = bootstrap_interval(lambda rows: values[rows].mean(), np.arange(100), 0)
    together = bootstrap_interval(lambda rows: values[rows].mean(), np.repeat([0, 1], 50), 0)
    assert together == (0.0, 1.0)
    assert 0.35 < apart[0] < 0.5 < apart[1] < 0.65


def test_the_command_writes_classifier_report_and_card(tmp_path: Path):
    output = tmp_path / "coherence"
    arguments = ["rewards", "train", "coherence", "--data", "sample", "--output", str(output), "--preset", "smoke"]
    for _ in range(2):  # the second one replaces the first
        with pytest.raises(SystemExit) as status:
            main([*arguments, "resources.driver_threads=1"])
        assert status.value.code == 0
    report = json.loads((output / "report.json").read_text())
    assert 0 <= report["test"]["classifier"]["hard"]["auc"] <= 1
    assert 0 <= report["test"]["bag_of_words"]["easy"]["auc"] <= 1
    card = (output / "README.md").read_text()
    assert f"{report['test']['classifier']['easy']['auc']:.3f}" in card
    assert str(tmp_path) not in card + (output / "report.json").read_text()
    assert CoherenceClassifier.load(output, 24).probabilities([("a", "b")]).shape == (1,)
    assert [path.name for path in tmp_path.iterdir()] == ["coherence"]


def test_the_command_spares_folders_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit) as status:
        main(["rewards", "train", "coherence", "--data", "sample", "--output", str(tmp_path), "--preset", "smoke"])
    assert status.value.code == 1
    assert "holds something else" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "mine.txt").read_text() == "keep"
