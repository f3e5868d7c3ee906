"""The stage `label`: empathy levels and rationales for every pair, by a trained classifier in workers.

The output has the columns of `PAIR_SCHEMA`, so that whatever reads labelled pairs reads it, and per mechanism the
expected level, the three levels' probabilities and where the rationales stand in the response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from partner_rl.data.columns import level_column, rationales_column
from partner_rl.data.pair_schema import PAIR_SCHEMA, TEXT_COLUMNS
from partner_rl.data.parquet_batches import REJECTED, counts_under, none_usable, pair_fields, parse_batch
from partner_rl.pipelines.resources import Resources
from partner_rl.pipelines.stage import Stage, StageReport, run_stage
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.atomic import growing_folder
from partner_rl.storage.fingerprint import fingerprint_of_files
from partner_rl.types import MAX_LEVEL, MECHANISMS, NUM_LEVELS, Example, MechanismLabel, PartnerError
from rewards.empathy_model import EmpathyClassifier, EmpathyPrediction, MechanismPrediction

KIND: Final = "labelled pairs"
"""What the output folder says that it is."""


PROBABILITY_TOLERANCE: Final = 1e-3
"""Probabilities add up to 1 within this much, in every precision that models run in."""

_NOTHING: Final = MechanismPrediction(0, 0.0, (1.0, 0.0, 0.0), ())
"""What a response without visible text expresses, whatever a classifier would say."""

Predict = Callable[[Sequence[tuple[str, str]]], Sequence[EmpathyPrediction]]
"""(Seeker post, response) pairs → one prediction each."""


def expected_column(mechanism: str) -> str:
    """Name of the column that holds a mechanism's expected level, 0…2."""
    return f"{mechanism}_expected_level"


def probabilities_column(mechanism: str) -> str:
    """Name of the column that holds the probabilities of a mechanism's levels."""
    return f"{mechanism}_probabilities"


def spans_column(mechanism: str) -> str:
    """Name of the column that holds first and one-past-last character of each rationale in the response."""
    return f"{mechanism}_rationale_spans"


LABELLED_SCHEMA: Final = pa.schema(
    [
        *PAIR_SCHEMA,
        *(
            field
            for mechanism in MECHANISMS
            for field in (
                pa.field(expected_column(mechanism), pa.float32()),
                pa.field(probabilities_column(mechanism), pa.list_(pa.float32(), NUM_LEVELS)),
                pa.field(spans_column(mechanism), pa.list_(pa.list_(pa.int32(), 2))),
            )
        ),
    ]
)
"""The columns of labelled files."""


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """A trained empathy classifier and how a worker runs it.

    Attributes:
        folder: The classifier, readable where the workers are.
        max_tokens: Each post is cut to its first this many tokens; None cuts as in the classifier's training.
    """

    folder: Path
    max_tokens: int | None = None
    device: str = "cpu"
    threads: int = 1

    def load(self) -> EmpathyClassifier:
        """Load it, in the process that calls.

        Raises:
            PartnerError: The folder holds no classifier, or the process sees no GPU although it should.
        """
        torch.set_num_threads(self.threads)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise PartnerError("a worker was given a GPU, but torch sees none: set --num-gpus 0, or mend the driver")
        return EmpathyClassifier.from_pretrained(self.folder, self.max_tokens, self.device)

    def record(self) -> dict[str, Any]:
        """What of it changes the labels, as JSON values: a copy of a model is the same model.

        Raises:
            PartnerError: There is no such folder.
        """
        return {"model": fingerprint_of_files(self.folder), "max_tokens": self.max_tokens}


@dataclass(frozen=True, slots=True)
class LabellerBuilder:
    """Builds the transform in a worker."""

    classifier: ClassifierSettings

    def __call__(self) -> Labeller:
        """Load the classifier.

        Raises:
            PartnerError: See `ClassifierSettings.load`.
        """
        return Labeller(self.classifier.load().predict)


class Labeller:
    """The transform: rows of pairs in, the same rows with labels out."""

    def __init__(self, predict: Predict) -> None:
        """Take a classifier."""
        self._predict = predict

    def __call__(self, batch: pa.Table) -> tuple[pa.Table, Counter[str]]:
        """Label a batch.

        Raises:
            PartnerError: The classifier's answer cannot be right.
        """
        examples, counts = parse_batch(batch)
        texts = {name: [getattr(example, name) for example in examples] for name in TEXT_COLUMNS}
        predictions = predict_checked(self._predict, texts["seeker_post"], texts["response_post"])
        counts.update(_counts(examples, predictions))
        return _table(texts, predictions), counts


def predict_checked(predict: Predict, seekers: Sequence[str], responses: Sequence[str]) -> list[EmpathyPrediction]:
    """Predictions in the order of the rows, made in the order of the responses' lengths, so that little is padding.

    A response without visible text is not asked about: it has level 0.

    Raises:
        PartnerError: The classifier answers with too few predictions, with probabilities that are none, or with spans
            outside of the response.
    """
    order = sorted((row for row, text in enumerate(responses) if text.strip()), key=lambda row: len(responses[row]))
    answers = predict([(seekers[row], responses[row]) for row in order])
    if len(answers) != len(order):
        raise PartnerError(f"the empathy classifier answered {len(order)} pairs with {len(answers)} predictions")
    predictions: list[EmpathyPrediction] = [(_NOTHING, _NOTHING, _NOTHING)] * len(responses)
    for row, answer in zip(order, answers, strict=True):
        if len(answer) != len(MECHANISMS) or not all(_is_sound(part, len(responses[row])) for part in answer):
            raise PartnerError(
                "the empathy classifier answered with levels, probabilities or rationales that cannot be: "
                "its weights may be damaged; train it again"
            )
        predictions[row] = answer
    return predictions


def labels_of(prediction: EmpathyPrediction, response: str) -> tuple[MechanismLabel, MechanismLabel, MechanismLabel]:
    """A prediction as a pair's labels: the levels that it decides for, the rationales as passages of the response."""
    first, second, third = (
        MechanismLabel(part.level, tuple(response[start:end] for start, end in part.rationales)) for part in prediction
    )
    return first, second, third


def _is_sound(part: MechanismPrediction, length: int) -> bool:
    probabilities = np.asarray(part.probabilities, dtype=np.float64)
    return (
        probabilities.shape == (NUM_LEVELS,)
        and bool(np.isfinite(probabilities).all() and (probabilities >= 0.0).all())
        and abs(float(probabilities.sum()) - 1.0) <= PROBABILITY_TOLERANCE
        and 0 <= part.level <= MAX_LEVEL
        and bool(np.isfinite(part.expected_level))
        and all(0 <= start < end <= length for start, end in part.rationales)
    )


def _table(texts: Mapping[str, list[str]], predictions: Sequence[EmpathyPrediction]) -> pa.Table:
    columns: dict[str, list[Any]] = dict(texts)
    labels = [labels_of(one, response) for one, response in zip(predictions, texts["response_post"], strict=True)]
    for m, mechanism in enumerate(MECHANISMS):
        columns[level_column(mechanism)] = [row[m].level for row in labels]
        columns[rationales_column(mechanism)] = [list(row[m].rationales) for row in labels]
        columns[expected_column(mechanism)] = [row[m].expected_level for row in predictions]
        columns[probabilities_column(mechanism)] = [list(row[m].probabilities) for row in predictions]
        columns[spans_column(mechanism)] = [[list(span) for span in row[m].rationales] for row in predictions]
    return pa.Table.from_pydict(columns, schema=LABELLED_SCHEMA)


def _counts(examples: Sequence[Example], predictions: Sequence[EmpathyPrediction]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for m, mechanism in enumerate(MECHANISMS):
        levels = [prediction[m].level for prediction in predictions]
        counts.update(f"level/{mechanism}/{level}" for level in levels)
        counts[f"rationales/{mechanism}"] += sum(len(prediction[m].rationales) for prediction in predictions)
        given = [None if example.labels is None else example.labels[m].level for example in examples]
        pairs = zip(given, levels, strict=True)
        counts.update(f"given/{mechanism}/{old}/{new}" for old, new in pairs if old is not None)
    return counts


@dataclass(frozen=True, slots=True)
class MechanismCounts:
    """What one mechanism's labels are.

    Attributes:
        levels: Rows of each level, as labelled now.
        confusion: `confusion[old][new]`: rows with level `old` in the input that were labelled `new`; rows without a
            level in the input are in none.
    """

    levels: tuple[int, ...]
    rationales: int
    confusion: tuple[tuple[int, ...], ...]

    @property
    def accuracy(self) -> float | None:
        """Share of the rows with a level in the input that were labelled alike; None if there were no such rows."""
        compared = sum(map(sum, self.confusion))
        return sum(self.confusion[level][level] for level in range(NUM_LEVELS)) / compared if compared else None


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What a labelling did; counts are by mechanism, rejected rows by their reasons."""

    stage: StageReport
    mechanisms: Mapping[str, MechanismCounts]
    rejected: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values; holds no text."""
        return {
            "rows": self.stage.rows_out,
            "new_rows": self.stage.new_rows,
            "rejected": dict(self.rejected),
            "seconds": round(self.stage.seconds, 2),
            "mechanisms": {
                mechanism: {
                    "levels": list(counts.levels),
                    "rationales": counts.rationales,
                    "accuracy_against_input": counts.accuracy,
                    "confusion_input_by_label": [list(row) for row in counts.confusion],
                }
                for mechanism, counts in self.mechanisms.items()
            },
        }


def label_stage(classifier: ClassifierSettings) -> Stage:
    """The stage.

    Raises:
        PartnerError: There is no such model folder.
    """
    return Stage(
        name="label",
        build=LabellerBuilder(classifier),
        columns=pair_fields,
        output_schema=LABELLED_SCHEMA,
        settings=classifier.record(),
    )


def label(
    source: Path,
    output: Path,
    classifier: ClassifierSettings,
    resources: Resources,
    progress: Progress = no_progress,
    *,
    overwrite: bool = False,
) -> LabelReport:
    """Labels all pairs of a Parquet file or folder; continues where an earlier run was stopped.

    `overwrite` deletes what an earlier run wrote into the folder.

    Raises:
        PartnerError: See `run_stage`; or the classifier cannot be loaded or answers nonsense.
    """
    stage = label_stage(classifier)
    growing_folder(output, KIND)
    report = run_stage(stage, source, output, resources, progress, overwrite=overwrite)
    if not report.rows_out:
        raise none_usable(source, report.rows_in, report.counts)
    return LabelReport(report, _summary(report.counts), counts_under(report.counts, REJECTED))


def _summary(counts: Mapping[str, int]) -> dict[str, MechanismCounts]:
    levels = range(NUM_LEVELS)
    return {
        mechanism: MechanismCounts(
            levels=tuple(counts.get(f"level/{mechanism}/{level}", 0) for level in levels),
            rationales=counts.get(f"rationales/{mechanism}", 0),
            confusion=tuple(tuple(counts.get(f"given/{mechanism}/{old}/{new}", 0) for new in levels) for old in levels),
        )
        for mechanism in MECHANISMS
    }
