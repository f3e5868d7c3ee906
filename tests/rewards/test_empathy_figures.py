"""The figures that judge an empathy classifier, its calibration, and the n-grams it is mixed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.metrics import f1_score

from partner_rl.models.loading import load_tokenizer
from partner_rl.types import Example, MechanismLabel
from rewards.empathy_model import EmpathyClassifier
from rewards.encoder import tokenize
from rewards.ngrams import NgramLevels, balanced_offsets
from rewards.training.calibration import expected_calibration_error, fit_temperature
from rewards.training.empathy_baselines import majority_levels, ngram_levels
from rewards.training.empathy_scores import _f1, _macro_f1, _matches, score_classifier, score_levels
from rewards.training.empathy_targets import class_weights, level_matrix, level_offsets

TEXTS = (
    "I am so sorry to hear that!",
    "so sorry for you",
    "What happened today?",
    "and what did she say?",
    "go out",
    "go for a walk out",
)
LEVELS = torch.tensor([[2, 0, 0], [2, 0, 0], [0, 0, 2], [0, 0, 2], [0, 0, 0], [0, 0, 0]])


def pair(seeker: str, response: str, levels: tuple[int, int, int], rationale: str = "") -> Example:
    first, second, third = (MechanismLabel(level, (rationale,) if level and rationale else ()) for level in levels)
    return Example(seeker, f"{seeker}-{response}", "I am tired.", response, (first, second, third))


def test_a_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    true_logits = rng.normal(size=(4000, 3))
    labels = np.array([rng.choice(3, p=p) for p in softmax(true_logits, axis=-1)])
    temperature, loss = fit_temperature(3.0 * true_logits, labels)
    assert temperature == pytest.approx(3.0, rel=0.1)
    assert loss == pytest.approx(-log_softmax(true_logits, -1)[np.arange(4000), labels].mean(), abs=1e-3)
    assert expected_calibration_error(softmax(true_logits, axis=-1), labels) < 0.03
    assert expected_calibration_error(softmax(3.0 * true_logits, axis=-1), labels) > 0.1


def test_calibration_error_is_the_distance_between_confidence_and_accuracy():
    certain = np.tile([[1.0, 0.0, 0.0]], (10, 1))
    labels = np.array([0] * 7 + [1] * 3)
    assert expected_calibration_error(certain, labels) == pytest.approx(0.3)


def test_offsets_take_the_weights_of_the_loss_off_again():
    # The minimum of a weighted cross-entropy without features is at softmax(logits) ∝ weight × share.
    levels = torch.tensor([[0]] * 8 + [[1]] * 2)
    weights = class_weights(levels)
    logits = (weights[0] * torch.tensor([0.8, 0.2, 0.0])).clamp(min=1e-12).log()
    undone = (logits - level_offsets(weights)[0]).softmax(-1)
    torch.testing.assert_close(undone, torch.tensor([0.8, 0.2, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        balanced_offsets(levels)[0].exp() * torch.tensor([0.8, 0.2, 0]), torch.tensor([1.0, 1, 0])
    )


def test_ngrams_know_set_phrases_and_question_marks():
    ngrams = NgramLevels()
    ngrams.fit(TEXTS, LEVELS)
    found = ngrams(["i am sorry to hear", "what now?", "go now"])
    assert found[:, 0].argmax(-1).tolist() == [2, 0, 0]
    assert found[:, 2].argmax(-1).tolist() == [0, 2, 0]
    # A mechanism with one level only, and a level that never occurs.
    assert found[:, 1].argmax(-1).tolist() == [0, 0, 0]
    assert (found[:, :, 1] < -5).all()
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3, 3))
    assert ngrams([]).shape == (0, 3, 3)


def test_a_text_of_no_known_words_is_no_evidence():
    ngrams = NgramLevels()
    ngrams.fit(TEXTS, LEVELS)
    for text in ("zzz", "", "🙂"):
        torch.testing.assert_close(ngrams([text])[0], ngrams.bias_ML.log_softmax(-1))


def test_mixing_reaches_from_the_encoders_alone_to_the_ngrams_alone(empathy_checkpoint: Path):
    classifier = EmpathyClassifier.from_pretrained(empathy_checkpoint, 48)
    classifier.model.ngrams.fit(TEXTS, LEVELS)
    pairs = [("I am tired.", text) for text in TEXTS]
    alone = classifier.level_logits(pairs)
    classifier.model.config.ngram_weight = 1.0
    torch.testing.assert_close(classifier.level_logits(pairs), classifier.model.ngrams(TEXTS))
    classifier.model.config.ngram_weight = 0.5
    mixed = 0.5 * alone.log_softmax(-1) + 0.5 * classifier.model.ngrams(TEXTS)
    torch.testing.assert_close(classifier.level_logits(pairs), mixed)


def test_the_decision_is_the_largest_logit_and_probabilities_are_calibrated(empathy_checkpoint: Path):
    classifier = EmpathyClassifier.from_pretrained(empathy_checkpoint, 48)
    pairs = [("I am tired.", text) for text in TEXTS]
    logits = classifier.level_logits(pairs)
    classifier.model.config.level_offsets = [[0.0, 0.0, 50.0]] * 3
    classifier.model.config.temperatures = [0.5, 1.0, 2.0]
    found = classifier.predict(pairs)
    for row, prediction in enumerate(found):
        for m, mechanism in enumerate(prediction):
            assert mechanism.level == int(logits[row, m].argmax())
            expected = ((logits[row, m] - torch.tensor([0.0, 0.0, 50.0])) / (0.5, 1.0, 2.0)[m]).softmax(-1)
            assert mechanism.probabilities == pytest.approx(expected.tolist(), abs=1e-6)
            assert mechanism.probabilities[2] < 1e-6


def test_level_scores_are_those_of_the_confusion_matrix():
    examples = [pair(f"s{i}", "ok", (level, 0, 2)) for i, level in enumerate((0, 0, 0, 1, 2, 2))]
    found = np.array([[0, 0, 2], [0, 0, 2], [1, 0, 2], [1, 0, 2], [0, 0, 2], [2, 0, 2]])
    scores = score_levels(found, examples, seed=0)
    first = scores["emotional_reactions"]
    assert first.accuracy == pytest.approx(4 / 6)
    assert first.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 2 / 3) / 3)
    assert first.support == (3, 1, 2)
    assert first.accuracy_interval[0] < first.accuracy < first.accuracy_interval[1]
    assert scores["explorations"].macro_f1 == 1.0


def test_macro_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for levels in (1, 2, 3):
        expected, found = rng.integers(levels, size=(2, 50))
        reference = f1_score(expected, found, average="macro", zero_division=0.0)
        assert _macro_f1(expected, found) == pytest.approx(reference)
    assert _macro_f1(np.array([0, 0]), np.array([1, 0])) == pytest.approx(f1_score([0, 0], [1, 0], average="macro"))


def test_rationales_match_by_their_overlap_in_tokens(bert: Path):
    text = "I am so sorry to hear that. What happened today?"
    (encoded,) = tokenize(load_tokenizer(bert), [text], 64)
    sentence, question = (0, 27), (28, len(text))
    assert _matches([sentence, question], [sentence, question], encoded) == (2, 2, 2, 2)
    assert _matches([sentence], [(0, len(text))], encoded)[0] in (0, 1)
    assert _matches([sentence, question], [sentence, (28, 29)], encoded)[:3] == (1, 2, 1)
    assert _matches([], [sentence], encoded) == (0, 0, 0, 1)
    assert _f1(1, 2, 1, 1) == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert _f1(0, 2, 0, 0) == 0.0


def test_a_classifier_is_judged_by_what_it_predicts(empathy_checkpoint: Path):
    classifier = EmpathyClassifier.from_pretrained(empathy_checkpoint, 48)
    examples = [pair(f"s{i}", text, (i % 3, 2, 0), text[:6]) for i, text in enumerate(TEXTS)]
    scores = score_classifier(classifier, examples, seed=0)
    found = np.array(
        [[m.level for m in p] for p in classifier.predict([(e.seeker_post, e.response_post) for e in examples])]
    )
    assert scores["interpretations"].levels.accuracy == pytest.approx((found[:, 1] == 2).mean())
    assert 0 <= scores["interpretations"].token_f1 <= 1


def test_baselines():
    train = [
        pair(f"s{i}", text, tuple(levels.tolist())) for i, (text, levels) in enumerate(zip(TEXTS, LEVELS, strict=True))
    ]
    test = [pair("t0", "what?", (0, 0, 2)), pair("t1", "so sorry", (2, 0, 0))]
    assert majority_levels(train, test).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert ngram_levels(train * 2, test).tolist() == level_matrix(test).tolist()
