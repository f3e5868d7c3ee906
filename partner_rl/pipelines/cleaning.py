"""The first pass of curating: what can be decided about a pair by itself, and its keys for finding duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from partner_rl.curation import duplicates, pii
from partner_rl.curation.usable import Limits, why_unusable
from partner_rl.data.columns import POSTS, rationales_column
from partner_rl.data.pair_schema import PAIR_SCHEMA, batch_from_examples
from partner_rl.data.parquet_batches import parse_batch
from partner_rl.pipelines.stage import Transform
from partner_rl.types import MECHANISMS, Example

if TYPE_CHECKING:
    from partner_rl.curation.topic import TopicFilter

EXACT_COLUMN: Final = "exact_key"
"""Column with the hash of both posts' words."""

BAND_COLUMNS: Final = tuple(f"band_{index:02d}" for index in range(duplicates.BANDS))
"""Columns with the signature."""

CLEAN_SCHEMA: Final = pa.schema(
    [*PAIR_SCHEMA, *(pa.field(name, pa.uint64()) for name in (EXACT_COLUMN, *BAND_COLUMNS))]
)
"""A cleaned pair and its keys."""

OFF_TOPIC: Final = "off_topic"
"""Why a pair is dropped whose seeker post is not about mental health."""

RATIONALES_DROPPED: Final = "rationales_dropped"
"""Count of rationales that are no substring of the cleaned response any more."""


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """The folder of a `TopicFilter`, and the probability from which on a seeker post is kept."""

    model: Path
    threshold: float = 0.5


@dataclass(frozen=True)
class CleanBuilder:
    """Builds the transform of the first pass; without a topic classifier every topic is kept."""

    limits: Limits
    phone_regions: tuple[str, ...]
    topic: TopicSettings | None
    device: str = "cpu"

    def __call__(self) -> Transform:
        """The transform.

        Raises:
            PartnerError: The topic model cannot be loaded.
        """
        if self.topic is None:
            return _Clean(self, None)
        # Imported here, because torch takes more memory than all the rest of a worker.
        from partner_rl.curation.topic import TopicFilter

        return _Clean(self, TopicFilter.load(self.topic.model, self.device))


class _Clean:
    """Drops pairs, puts placeholders in place of personal data and adds keys."""

    def __init__(self, settings: CleanBuilder, topic: TopicFilter | None) -> None:
        self._settings = settings
        self._topic = topic

    def __call__(self, batch: pa.Table) -> tuple[pa.Table, Counter[str]]:
        examples, counts = parse_batch(batch)
        batch = self._drop_unusable(examples, counts)
        batch = self._replace_personal_data(batch, counts)
        batch = self._drop_off_topic(batch, counts)
        return _with_keys(batch), counts

    def _drop_unusable(self, examples: Sequence[Example], counts: Counter[str]) -> pa.Table:
        limits = self._settings.limits
        kept = []
        for example in examples:
            reason = why_unusable(example.seeker_post, limits) or why_unusable(example.response_post, limits)
            if reason is None:
                kept.append(example)
            else:
                counts[f"dropped/{reason}"] += 1
        return pa.Table.from_batches([batch_from_examples(kept)])

    def _replace_personal_data(self, batch: pa.Table, counts: Counter[str]) -> pa.Table:
        for name in POSTS:
            posts = batch[name].to_pylist()
            changed: dict[int, str] = {}
            for row, post in enumerate(posts):
                new, found = pii.replace(post, self._settings.phone_regions)
                if found:
                    changed[row] = new
                    counts.update({f"replaced/{kind}": count for kind, count in found.items()})
            if changed:
                new_posts = [changed.get(row, post) for row, post in enumerate(posts)]
                batch = _replaced(batch, name, new_posts)
                if name == "response_post":
                    batch = self._adapt_rationales(batch, changed, counts)
        return batch

    def _adapt_rationales(self, batch: pa.Table, changed: dict[int, str], counts: Counter[str]) -> pa.Table:
        """Rationales are substrings of the response; those that are not any more go."""
        for name in map(rationales_column, MECHANISMS):
            rationales = batch[name].to_pylist()
            for row, response in changed.items():
                if not rationales[row]:
                    continue
                new = [pii.replace(text, self._settings.phone_regions)[0] for text in rationales[row]]
                kept = [text for text in new if text in response]
                counts[RATIONALES_DROPPED] += len(new) - len(kept)
                rationales[row] = kept
            batch = _replaced(batch, name, rationales)
        return batch

    def _drop_off_topic(self, batch: pa.Table, counts: Counter[str]) -> pa.Table:
        if self._topic is None or self._settings.topic is None or not batch.num_rows:
            return batch
        # A recombined corpus repeats its seeker posts.
        posts, index = np.unique(np.array(batch["seeker_post"].to_pylist(), dtype=object), return_inverse=True)
        keep = (self._topic.probabilities(list(posts)) >= self._settings.topic.threshold)[index]
        dropped = int((~keep).sum())
        if dropped:
            counts[f"dropped/{OFF_TOPIC}"] += dropped
        return batch.filter(pa.array(keep))


def _with_keys(batch: pa.Table) -> pa.Table:
    seekers, responses = ([duplicates.words(post) for post in batch[name].to_pylist()] for name in POSTS)
    keys_N = duplicates.exact_keys(seekers, responses)
    bands_ND = duplicates.signatures(seekers, responses)
    columns = [*(batch[name] for name in PAIR_SCHEMA.names), pa.array(keys_N)]
    columns += [pa.array(np.ascontiguousarray(band_N)) for band_N in bands_ND.T]
    return pa.table(columns, names=CLEAN_SCHEMA.names)


def _replaced(batch: pa.Table, name: str, values: Sequence[object]) -> pa.Table:
    index = batch.column_names.index(name)
    return batch.set_column(index, batch.field(index), pa.array(values, type=batch.field(index).type))
