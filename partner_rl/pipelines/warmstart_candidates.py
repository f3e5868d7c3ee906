"""The stage `warmstart-candidates`: every warm-start example that pairs yield, before they are balanced.

An example's key is a hash of the seed, the pair's ids and the edit: a random number that does not depend on how the
work was shared out. Equal keys are equal examples.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.config.schema import EnvConfig, PolicyConfig
from partner_rl.data.columns import level_column, pair_column
from partner_rl.data.parquet import READ_ERRORS, damaged
from partner_rl.data.parquet_batches import pair_fields, parse_batch
from partner_rl.pipelines.label import ClassifierSettings, Predict, labels_of, predict_checked
from partner_rl.pipelines.resources import Resources
from partner_rl.pipelines.stage import Stage
from partner_rl.pipelines.units import parquet_files
from partner_rl.types import MECHANISMS, Example, PartnerError
from partner_rl.warmstart.annotate import AnnotatedResponse, SentenceScorer, annotate, annotate_checked, why_unusable
from partner_rl.warmstart.dataset import EXAMPLE_SCHEMA, examples_table
from partner_rl.warmstart.pairs import (
    MIN_LEVEL,
    MIN_WORDS,
    Draft,
    Target,
    draft_edits,
    draft_noops,
    find_targets,
    neutral_sentences,
)

KEY: Final = "key"
"""Column that holds an example's random key."""

CANDIDATE_SCHEMA: Final = EXAMPLE_SCHEMA.append(pa.field(KEY, pa.uint64(), nullable=False))
"""The columns of candidate files."""

DEFAULT_WINDOW: Final = EnvConfig().window
"""`k` of the task, as configured by default."""

DEFAULT_MAX_WORDS: Final = PolicyConfig().max_new_tokens * 3 // 4
"""English words that fit into the sentences that the policy writes by default."""


@dataclass(frozen=True, slots=True)
class CandidateSettings:
    """What makes a sentence an example.

    Attributes:
        window: `k` of the task.
        min_level: A sentence of at least this level in a mechanism is highly empathic.
        seed: Other seeds give other windows, neutral sentences and keys.
        max_sentences: Adjacent empathic sentences make one example, at most this many.
        own_experience: Whether sentences that speak of their writer's life are examples.
    """

    window: int = DEFAULT_WINDOW
    min_level: float = MIN_LEVEL
    max_words: int = DEFAULT_MAX_WORDS
    seed: int = 0
    max_sentences: int = 1
    own_experience: bool = True


@dataclass(frozen=True, slots=True)
class ExtractorBuilder:
    """Builds the transform in a worker; without a classifier, rationales alone say which sentences are empathic."""

    settings: CandidateSettings
    classifier: ClassifierSettings | None

    def __call__(self) -> Extractor:
        """Load the classifier, if there is one.

        Raises:
            PartnerError: See `ClassifierSettings.load`.
        """
        return Extractor(self.settings, None if self.classifier is None else self.classifier.load().predict)


class Extractor:
    """The transform: rows of pairs in, rows of examples out."""

    def __init__(self, settings: CandidateSettings, predict: Predict | None) -> None:
        """Take a classifier, or None to go by the rows' own rationales."""
        self._settings = settings
        self._env = EnvConfig(window=settings.window)
        self._predict = predict

    def __call__(self, batch: pa.Table) -> tuple[pa.Table, Counter[str]]:
        """Extract a batch's examples. Neutral sentences to be replaced come from the same batch.

        Raises:
            PartnerError: The classifier's answer cannot be right.
        """
        examples, counts = parse_batch(batch)
        counts["responses/read"] += len(examples)
        responses = self._annotated(examples, counts)
        rng = np.random.default_rng(_hash(self._settings.seed, *(example.response_id for example in examples)))
        settings = self._settings
        targets = find_targets(
            responses, settings.min_level, settings.max_sentences, settings.max_words, settings.own_experience
        )
        usable = self._usable(targets, counts)
        neutral = neutral_sentences(responses, self._settings.max_words)
        inserts, replaces = draft_edits(usable, neutral, self._env, rng)
        counts["dropped/no sentence would be left"] += len(usable) - len(inserts) - len(replaces)
        drafts = [*inserts, *replaces, *draft_noops(responses, self._env, rng)]
        return self._table(drafts), counts

    def _annotated(self, examples: Sequence[Example], counts: Counter[str]) -> list[AnnotatedResponse]:
        if self._predict is None:
            responses = annotate(examples)
            counts["responses/without labels"] += sum(example.labels is None for example in examples)
        else:
            labelled = _labelled(examples, self._predict)
            responses, checks = annotate_checked(labelled, _sentence_scorer(self._predict), self._settings.min_level)
            for mechanism, cases in checks.items():
                counts.update({f"check/{mechanism}/{case}": count for case, count in cases.items()})
        counts["responses/used"] += len(responses)
        counts["sentences"] += sum(len(response.levels) for response in responses)
        return responses

    def _usable(self, targets: Sequence[Target], counts: Counter[str]) -> list[Target]:
        usable, settings = [], self._settings
        for target in targets:
            counts[f"empathic/{target.mechanism}"] += 1
            reason = why_unusable(target.sentence, MIN_WORDS, settings.max_words, settings.own_experience)
            if reason is None:
                usable.append(target)
            else:
                counts[f"dropped/{reason}"] += 1
        return usable

    def _table(self, drafts: Sequence[Draft]) -> pa.Table:
        keys = pa.array([_key(self._settings.seed, draft) for draft in drafts], pa.uint64())
        return examples_table(drafts, self._settings.window).append_column(CANDIDATE_SCHEMA.field(KEY), keys)


def candidate_stage(settings: CandidateSettings, classifier: ClassifierSettings | None, resources: Resources) -> Stage:
    """The stage.

    Args:
        settings: What makes a sentence an example.
        classifier: Scores sentences, and responses without labels; None goes by the rows' own rationales.
        resources: Rows of a batch lend each other neutral sentences, so that their number is one of the settings.

    Raises:
        PartnerError: There is no such model folder.
    """
    return Stage(
        name="warmstart-candidates",
        build=ExtractorBuilder(settings, classifier),
        columns=pair_fields,
        output_schema=CANDIDATE_SCHEMA,
        settings={
            **asdict(settings),
            "batch_rows": resources.batch_rows,
            **({"model": None} if classifier is None else classifier.record()),
        },
    )


def refuse_unlabelled(source: Path) -> None:
    """Checks, from footers alone, that at least one row may be labelled.

    Raises:
        PartnerError: No row is; or a file is missing or damaged.
    """
    column = level_column(MECHANISMS[0])
    for path in parquet_files(source):
        try:
            metadata = pq.read_metadata(path)
        except READ_ERRORS as error:
            raise damaged(path, error) from error
        if any(_may_hold(metadata.row_group(group), column) for group in range(metadata.num_row_groups)):
            return
    raise PartnerError(f"{source} holds no labelled pair: give --model FOLDER, or label it first (`data label`)")


def _may_hold(group: pq.RowGroupMetaData, column: str) -> bool:
    """Whether a row group may hold a value in the column."""
    chunks = map(group.column, range(group.num_columns))
    found = [chunk.statistics for chunk in chunks if pair_column(chunk.path_in_schema) == column]
    return any(one is None or one.null_count is None or one.null_count < group.num_rows for one in found)


def _labelled(examples: Sequence[Example], predict: Predict) -> list[Example]:
    """The examples, those without labels labelled by the classifier."""
    rows = [row for row, example in enumerate(examples) if example.labels is None]
    posts = [examples[row].seeker_post for row in rows], [examples[row].response_post for row in rows]
    labelled = list(examples)
    for row, prediction in zip(rows, predict_checked(predict, *posts), strict=True):
        labelled[row] = replace(examples[row], labels=labels_of(prediction, examples[row].response_post))
    return labelled


def _sentence_scorer(predict: Predict) -> SentenceScorer:
    def levels(pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.floating]:
        predictions = predict_checked(predict, [seeker for seeker, _ in pairs], [part for _, part in pairs])
        return np.array([[part.expected_level for part in row] for row in predictions])

    return levels


def _key(seed: int, draft: Draft) -> int:
    action = draft.example.action
    return _hash(seed, draft.seeker_id, draft.response_id, str(action.position), action.sentence)


def _hash(seed: int, *parts: str) -> int:
    """A number of 64 bits that depends on all parts and on where one ends."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")
