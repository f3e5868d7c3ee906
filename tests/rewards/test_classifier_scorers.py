"""The empathy and coherence classifiers against a naive computation, one pair at a time and without padding."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from partner_rl.types import MECHANISMS, PartnerError
from rewards.coherence import CoherenceBuilder
from rewards.coherence_model import CoherenceClassifier
from rewards.empathy import EmpathyBuilder
from rewards.empathy_model import EmpathyClassifier, rationale_spans
from rewards.encoder import EncodedText, tokenize
from rewards.sentence_style import style_features

TOLERANCE = 1e-4
MAX_TOKENS = 48


@pytest.fixture(scope="module")
def classifier(empathy_checkpoint: Path) -> EmpathyClassifier:
    return EmpathyClassifier.from_pretrained(empathy_checkpoint, MAX_TOKENS)


def naive_levels(classifier: EmpathyClassifier, seeker: str, response: str) -> list[list[float]]:
    """Level probabilities of one pair, attention written out by hand."""
    states = []
    for encoder, text in (
        (classifier.model.seeker_encoder, seeker),
        (classifier.model.response_encoder, response),
    ):
        (encoded,) = tokenize(classifier.tokenizer, [text], MAX_TOKENS)
        states.append(encoder(input_ids=torch.tensor([encoded.ids])).last_hidden_state[0])
    seeker_UD, response_TD = states
    probabilities = []
    for head in classifier.model.mechanisms:
        a = head.attention
        scores_TU = a.query(response_TD) @ a.key(seeker_UD).T / a.query.out_features**0.5
        mixed_TD = response_TD + a.out(scores_TU.softmax(-1) @ a.value(seeker_UD))
        probabilities.append(head.level(mixed_TD.mean(0)).softmax(-1).tolist())
    return probabilities


@torch.inference_mode()
def test_levels_equal_the_naive_ones(classifier: EmpathyClassifier, texts: tuple[str, ...]):
    pairs = [(seeker, response) for seeker in texts for response in texts]
    found = classifier.level_probabilities(pairs).numpy()
    expected = np.array([naive_levels(classifier, *pair) for pair in pairs])
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    # The models must be far enough from uniform for this to mean anything.
    assert expected.std() > 0.05


def test_expected_and_argmax_levels(empathy_checkpoint: Path, texts: tuple[str, ...]):
    items = [(texts[0], text) for text in texts]
    classifier = EmpathyClassifier.from_pretrained(empathy_checkpoint, MAX_TOKENS)
    # Offsets that make the decision another level than the likeliest one.
    classifier.model.config.level_offsets = [[0.0, 1.0, 2.0]] * 3
    classifier.save(empathy_checkpoint.with_name("skewed"))
    empathy_checkpoint = empathy_checkpoint.with_name("skewed")
    probabilities = classifier.level_probabilities(items).numpy()
    assert (classifier.level_logits(items).argmax(-1).numpy() != probabilities.argmax(-1)).any()
    expected = EmpathyBuilder(empathy_checkpoint, "expected", MAX_TOKENS).build().score(items)
    likeliest = EmpathyBuilder(empathy_checkpoint, "argmax", MAX_TOKENS).build().score(items)
    np.testing.assert_allclose(expected, probabilities[..., 1] + 2 * probabilities[..., 2], atol=TOLERANCE)
    np.testing.assert_array_equal(likeliest, classifier.level_logits(items).argmax(-1))
    assert expected.dtype == likeliest.dtype == np.float32


def test_a_response_without_text_expresses_nothing(empathy_checkpoint: Path):
    scorer = EmpathyBuilder(empathy_checkpoint).build()
    assert scorer.score([("I am tired.", ""), ("I am tired.", " \n")]).tolist() == [[0.0] * 3] * 2
    assert scorer.score([]).shape == (0, 3)


def test_predictions_agree_with_the_probabilities_and_point_into_the_response(
    classifier: EmpathyClassifier, texts: tuple[str, ...]
):
    pairs = [(texts[1], text) for text in texts]
    probabilities = classifier.level_probabilities(pairs)
    seen = 0
    for row, prediction in enumerate(classifier.predict(pairs)):
        for m, mechanism in enumerate(prediction):
            assert mechanism.probabilities == pytest.approx(probabilities[row, m].tolist(), abs=TOLERANCE)
            assert mechanism.level == int(probabilities[row, m].argmax())
            assert mechanism.expected_level == pytest.approx(
                mechanism.probabilities[1] + 2 * mechanism.probabilities[2], abs=TOLERANCE
            )
            for start, end in mechanism.rationales:
                assert mechanism.level > 0
                assert pairs[row][1][start:end].strip()
                seen += 1
    assert seen > 0


def test_rationale_tokens_merge_into_passages():
    offsets = ((0, 0), (0, 2), (3, 5), (6, 9), (10, 12), (0, 0))
    response = EncodedText(tuple(range(6)), offsets, (True, False, False, False, False, True))
    assert rationale_spans([True, True, True, False, True, True, True], response) == ((0, 5), (10, 12))
    assert rationale_spans([False] * 6, response) == ()


@torch.inference_mode()
def test_coherence_equals_the_naive_one(coherence_checkpoint: Path, texts: tuple[str, ...]):
    scorer = CoherenceBuilder(coherence_checkpoint, MAX_TOKENS).build()
    model = scorer.classifier.model
    items = [(a, b) for a in texts for b in texts if a != b]
    found = scorer.score(items)
    vectors = {}
    for text in texts:
        (encoded,) = tokenize(scorer.classifier.tokenizer, [text], MAX_TOKENS)
        vectors[text] = model.encoder(input_ids=torch.tensor([encoded.ids])).last_hidden_state[0].mean(0)
    expected = []
    for a, b in items:
        u, v = (vectors[t] / vectors[t].norm() for t in (a, b))
        s, t = torch.tensor(style_features(a)), torch.tensor(style_features(b))
        features = torch.cat([(s - t).abs(), s * t, s + t])
        expected.append(float((model.head.similarity((u @ v)[None]) + model.head.style(features)).sigmoid()))
    np.testing.assert_allclose(found[:, 0], expected, atol=TOLERANCE)
    assert np.std(expected) > 0.05
    assert scorer.score([]).shape == (0, 1)


def test_scores_do_not_depend_on_batch_order_or_neighbours(
    empathy_checkpoint: Path, coherence_checkpoint: Path, texts: tuple[str, ...]
):
    items = [(a, b) for a in texts for b in texts] * 2
    order = np.random.default_rng(0).permutation(len(items))
    for scorer in (EmpathyBuilder(empathy_checkpoint).build(), CoherenceBuilder(coherence_checkpoint).build()):
        together = scorer.score(items)
        np.testing.assert_allclose(scorer.score([items[i] for i in order]), together[order], atol=TOLERANCE)
        for i in range(0, len(items), 7):
            np.testing.assert_allclose(scorer.score([items[i]])[0], together[i], atol=TOLERANCE)


def test_a_saved_classifier_comes_back(coherence_checkpoint: Path, tmp_path: Path, texts: tuple[str, ...]):
    classifier = CoherenceClassifier.load(coherence_checkpoint, MAX_TOKENS)
    classifier.save(tmp_path / "copy")
    classifier.save(tmp_path / "copy")
    pairs = [(texts[0], texts[1]), (texts[2], texts[3])]
    again = CoherenceClassifier.load(tmp_path / "copy", MAX_TOKENS)
    assert torch.equal(again.probabilities(pairs), classifier.probabilities(pairs))
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert not list((tmp_path / "copy").glob("*.bin")) + list((tmp_path / "copy").glob("*.pt"))


def test_loading_leaves_the_random_stream_alone(empathy_checkpoint: Path):
    before = torch.random.get_rng_state()
    EmpathyClassifier.from_pretrained(empathy_checkpoint, MAX_TOKENS)
    state = torch.random.get_rng_state()
    assert torch.equal(before, state)


def test_wrong_folders_are_explained(empathy_checkpoint: Path, coherence_checkpoint: Path, tmp_path: Path):
    with pytest.raises(PartnerError, match="no empathy classifier in"):
        EmpathyClassifier.from_pretrained(tmp_path / "nowhere", 8)
    with pytest.raises(PartnerError, match="holds a bert model, not one of ours"):
        EmpathyClassifier.from_pretrained(coherence_checkpoint, 8)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in empathy_checkpoint.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(PartnerError, match="cannot load the model in"):
        EmpathyClassifier.from_pretrained(damaged, 8)
    (damaged / "config.json").write_text("{")
    with pytest.raises(PartnerError, match="cannot read"):
        EmpathyClassifier.from_pretrained(damaged, 8)
    damaged = tmp_path / "coherence"
    damaged.mkdir()
    for path in coherence_checkpoint.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(PartnerError, match="does not fit its configuration"):
        CoherenceClassifier.load(damaged, 8)
    (damaged / "partner_rl.json").write_text(json.dumps({"kind": "coherence"}))
    with pytest.raises(PartnerError, match="is damaged"):
        CoherenceClassifier.load(damaged, 8)


def test_builders_are_picklable(empathy_checkpoint: Path):
    builder = EmpathyBuilder(empathy_checkpoint)
    assert pickle.loads(pickle.dumps(builder)) == builder
    assert len(MECHANISMS) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_explained(empathy_checkpoint: Path):
    with pytest.raises(PartnerError, match=r"rewards\.empathy\.num_gpus"):
        EmpathyBuilder(empathy_checkpoint, device="cuda").build()
