"""Labelling with a real (tiny, random) classifier in real workers, and with classifiers that go wrong."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from launch.cli import main
from partner_rl.data.pair_schema import PAIR_SCHEMA, batch_from_examples, write_parquet
from partner_rl.data.readers import read_examples
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.pipelines.label import (
    LABELLED_SCHEMA,
    ClassifierSettings,
    Labeller,
    expected_column,
    label,
    labels_of,
    predict_checked,
    probabilities_column,
    spans_column,
)
from partner_rl.pipelines.resources import MODEL_UNIT_ROWS, Resources
from partner_rl.types import MECHANISMS, Example, MechanismLabel, PartnerError
from rewards.empathy_model import EmpathyClassifier, EmpathyModel, EmpathyPrediction, MechanismPrediction
from tests.rewards.conftest import TEXTS

RESOURCES = Resources(rows_per_unit=MODEL_UNIT_ROWS)
SURE = MechanismPrediction(2, 2.0, (0.0, 0.0, 1.0), ((0, 2),))


@pytest.fixture(scope="module")
def empathy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained classifier whose heads are far from uniform."""
    folder = tmp_path_factory.mktemp("models")
    encoder = resolve("random:bert", folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = EmpathyModel.on_encoder(load_encoder(encoder), 64)
        for parameter in [*model.mechanisms.parameters(), *model.response_encoder.parameters()]:
            parameter.data += 0.1 * torch.randn_like(parameter)
    EmpathyClassifier(model, load_tokenizer(encoder), 64).save(folder / "empathy")
    return folder / "empathy"


def pairs(count: int = 40) -> list[Example]:
    """Pairs of awkward texts; every third is labelled, one response is blank."""
    made = []
    for number in range(count):
        response = "  \n" if number == 7 else f"{TEXTS[number % len(TEXTS)]} {number}"
        example = Example(f"s{number // 2}", f"r{number}", TEXTS[(3 * number) % len(TEXTS)], response)
        old = MechanismLabel(number % 3)
        made.append(replace(example, labels=(old, old, old)) if number % 3 == 0 else example)
    return made


def usable_pairs() -> list[Example]:
    return [example for example in pairs() if example.response_post.strip()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = pairs()
    for name, part in (("a", rows[:25]), ("b", rows[25:])):
        table = pa.Table.from_batches([batch_from_examples(part)])
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=8)
    return folder


@pytest.fixture(scope="module")
def labelled(corpus: Path, empathy_checkpoint: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one labelling through the real command, with two workers."""
    output = tmp_path_factory.mktemp("labelled") / "out"
    assert run("data", "label", corpus, output, "--model", empathy_checkpoint, "--workers", 2, "--max-tokens", 64) == 0
    return output


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_row_is_labelled_as_the_classifier_says_in_the_input_s_order(
    labelled: Path,
    empathy_checkpoint: Path,
) -> None:
    rows, examples = rows_of(labelled), usable_pairs()
    assert [row["response_id"] for row in rows] == [example.response_id for example in examples]
    classifier = EmpathyClassifier.from_pretrained(empathy_checkpoint, 64)
    for row, example in zip(rows, examples, strict=True):
        (prediction,) = classifier.predict([(example.seeker_post, example.response_post)])
        for mechanism, part in zip(MECHANISMS, prediction, strict=True):
            assert row[expected_column(mechanism)] == pytest.approx(part.expected_level, abs=1e-4)
            assert row[probabilities_column(mechanism)] == pytest.approx(part.probabilities, abs=1e-4)
            assert row[f"{mechanism}_level"] == part.level
            spans = row[spans_column(mechanism)]
            assert spans == [list(span) for span in part.rationales]
            assert row[f"{mechanism}_rationales"] == [example.response_post[a:b] for a, b in spans]
    assert len({row["explorations_expected_level"] for row in rows}) > 20


def test_labelled_files_are_read_as_labelled_pairs(labelled: Path) -> None:
    for path in labelled.glob("*.parquet"):
        assert pq.read_schema(path).names == LABELLED_SCHEMA.names
        assert all(example.labels is not None for example in read_examples(str(path)).examples)
    assert [example.response_id for example in read_examples(str(labelled)).examples] == [
        example.response_id for example in usable_pairs()
    ]


def test_agreement_counts_the_rows_that_had_a_level(labelled: Path) -> None:
    counts = json.loads((labelled / "counts.json").read_text())
    assert counts["rows"] == len(usable_pairs())
    assert counts["new_rows"] == len(pairs())
    assert counts["rejected"] == {"response_post is empty": 1}
    new = {row["response_id"]: row for row in rows_of(labelled)}
    old = [example for example in usable_pairs() if example.labels is not None]
    for index, mechanism in enumerate(MECHANISMS):
        found = counts["mechanisms"][mechanism]
        levels = [(e.labels[index].level, new[e.response_id][f"{mechanism}_level"]) for e in old if e.labels]
        assert found["accuracy_against_input"] == pytest.approx(sum(a == b for a, b in levels) / len(levels))
        expected = [[levels.count((before, after)) for after in range(3)] for before in range(3)]
        assert found["confusion_input_by_label"] == expected
        assert sum(found["levels"]) == len(usable_pairs())


def test_again_with_the_same_model_nothing_is_done_and_with_another_it_is_refused(
    labelled: Path,
    corpus: Path,
    empathy_checkpoint: Path,
) -> None:
    report = label(corpus, labelled, ClassifierSettings(empathy_checkpoint, 64), RESOURCES)
    assert report.stage.new_rows == 0
    with pytest.raises(PartnerError, match="max_tokens=64, now it is 16"):
        label(corpus, labelled, ClassifierSettings(empathy_checkpoint, 16), RESOURCES)


def test_the_order_of_the_answers_is_that_of_the_rows() -> None:
    asked: list[int] = []

    def predict(posts: Sequence[tuple[str, str]]) -> list[EmpathyPrediction]:
        asked.extend(len(response) for _, response in posts)
        return [(replace(SURE, expected_level=float(len(response))),) * 3 for _, response in posts]

    responses = ["four", " ", "sixteen letters.", "se"]
    answers = predict_checked(predict, ["s"] * 4, responses)
    assert asked == [2, 4, 16]
    assert [answer[0].expected_level for answer in answers] == [4.0, 0.0, 16.0, 2.0]
    assert [labels_of(answers[row], responses[row])[2] for row in (1, 2)] == [
        MechanismLabel(0),
        MechanismLabel(2, ("si",)),
    ]


@pytest.mark.parametrize(
    "part",
    [
        replace(SURE, probabilities=(0.5, math.nan, 0.5)),
        replace(SURE, probabilities=(0.5, 0.1, 0.1)),
        replace(SURE, expected_level=math.inf),
        replace(SURE, rationales=((3, 900),)),
        replace(SURE, level=3),
    ],
)
def test_answers_that_cannot_be_stop_the_run(part: MechanismPrediction) -> None:
    with pytest.raises(PartnerError, match="that cannot be"):
        predict_checked(lambda posts: [(SURE, SURE, part)] * len(posts), ["s"], ["response"])
    with pytest.raises(PartnerError, match="1 pairs with 0 predictions"):
        predict_checked(lambda posts: [], ["s"], ["response"])


def test_an_empty_batch_and_all_counts() -> None:
    table, counts = Labeller(lambda posts: [(SURE, SURE, SURE)] * len(posts))(PAIR_SCHEMA.empty_table())
    assert table.schema == LABELLED_SCHEMA
    assert sum(counts.values()) == 0


@pytest.mark.reported
def test_a_batch_of_another_writer_is_labelled_and_its_bad_rows_counted() -> None:
    batch = pa.table(
        {
            "response_post": pa.array(["Oh no!", None, "Go on.", "Well."]).cast(pa.string_view()),
            "seeker_post": pa.array(["I fell."] * 4).dictionary_encode(),
            "emotional_reactions_level": pa.array([1, 1, 7, None], pa.int64()),
            "interpretations_level": pa.array([1, 1, 1, None], pa.int64()),
            "explorations_level": pa.array([1.0, 1.0, 1.0, None]),
        }
    )
    table, counts = Labeller(lambda posts: [(SURE, SURE, SURE)] * len(posts))(batch)
    assert table["response_post"].to_pylist() == ["Oh no!", "Well."]
    assert len(set(table["response_id"].to_pylist())) == 2
    assert (
        counts["rejected/response_post is missing"]
        == counts["rejected/emotional_reactions_level is not 0, 1 or 2"]
        == 1
    )
    assert counts["given/explorations/1/2"] == 1


@pytest.mark.reported
def test_a_file_of_no_usable_row_is_not_labelled_in_silence(
    tmp_path: Path, local_ray: None, empathy_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"seeker_post": [1, 2], "response_post": ["Oh no!", "Go on."]}), path)
    assert run("data", "label", path, tmp_path / "out", "--model", empathy_checkpoint) == 1
    assert "not one of 2 rows can be used (2 × seeker_post is no text)" in " ".join(capsys.readouterr().err.split())


def test_models_that_cannot_be_used_are_one_line(
    corpus: Path,
    empathy_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    for model in ("nowhere", "empty"):
        assert run("data", "label", corpus, tmp_path / "out", "--model", tmp_path / model) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: --model: no empathy classifier in")
        assert not (tmp_path / "out").exists()
    bare = tmp_path / "bare"
    shutil.copytree(empathy_checkpoint, bare)
    for path in bare.glob("*token*"):
        path.unlink()
    with pytest.raises(PartnerError, match="tokenizer"):
        ClassifierSettings(bare).load()


def test_a_source_that_is_no_corpus_is_one_line(
    tmp_path: Path,
    empathy_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    assert run("data", "label", tmp_path / "other.parquet", tmp_path / "out", "--model", empathy_checkpoint) == 1
    assert "lacks the columns seeker_post" in capsys.readouterr().err
    write_parquet(iter(pairs(3)), tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-9])
    assert run("data", "label", tmp_path / "cut.parquet", tmp_path / "out", "--model", empathy_checkpoint) == 1
    assert "truncated" in capsys.readouterr().err
