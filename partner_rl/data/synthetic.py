"""Corpora of any size, for measuring: the sample's sentences recombined, with known duplicates and personal data.

Every choice is a hash of (seed, row, what is chosen), so that any row can be made at any time, and a duplicate can
repeat a row of an earlier file without keeping it. Two neighbouring rows share their seeker post, as in real corpora.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from partner_rl.config.paths import SAMPLE
from partner_rl.data.pair_schema import PAIR_SCHEMA
from partner_rl.data.parquet import write_tables
from partner_rl.data.readers import read_examples
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.atomic import folder_when_whole, write_json
from partner_rl.types import PartnerError

ROWS_PER_FILE: Final = 100_000
"""Rows of each file but the last."""

KIND: Final = "generated pairs"
"""What the output folder says that it is."""

SUMMARY: Final = "generated.json"
"""File that says what was planted, in the output folder."""

PII_KINDS: Final = ("email", "phone", "user", "url")
"""Kinds of personal data that are planted, in turn."""

_ROW_GROUP_ROWS: Final = 10_000
_RESPONSES_PER_SEEKER: Final = 2
_PII_VARIANTS: Final = 1000
_NUMBERS: Final = 5000
_SENTENCE: Final = re.compile(r"[^.!?]+[.!?]+")
_MAX_SENTENCE_CHARACTERS: Final = 120
_MIN_SENTENCE_WORDS: Final = 5
_LAST_WORDS: Final = ("Honestly.", "Really.", "Anyway.", "Truly.")

# What a random number is drawn for.
_SEEKER, _RESPONSE, _DUPLICATE, _SOURCE, _NEAR, _PII, _PII_VALUE, _WORD = range(0, 800, 100)

Rows = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class CorpusSettings:
    """What to generate.

    Attributes:
        duplicates: Share of rows that repeat an earlier pair; half of them to the letter but for the case, half with
            a word added to both posts.
        pii: Share of rows with a piece of personal data.
    """

    rows: int
    seed: int = 0
    duplicates: float = 0.05
    pii: float = 0.02

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            PartnerError: One of them is out of range.
        """
        if self.rows < 1:
            raise PartnerError(f"rows={self.rows}: give at least 1")
        for name in ("duplicates", "pii"):
            if not 0 <= getattr(self, name) <= 1:
                raise PartnerError(f"{name}={getattr(self, name)}: give a share from 0 to 1")


@dataclass(frozen=True, slots=True)
class Generated:
    """What was planted.

    Attributes:
        exact: Rows that repeat an earlier one but for the case.
        near: Rows that repeat an earlier one with a word added.
        pii: Kind → rows with a piece of personal data of this kind, duplicates included.
    """

    rows: int
    exact: int
    near: int
    pii: dict[str, int]


def generate(
    settings: CorpusSettings,
    output: Path,
    progress: Progress = no_progress,
    rows_per_file: int = ROWS_PER_FILE,
) -> Generated:
    """Writes a corpus as a folder of Parquet files of unlabelled pairs.

    The folder appears whole or not at all; an earlier corpus of this function is replaced.

    Raises:
        PartnerError: The folder holds something else, or cannot be written.
    """
    maker = _Maker(settings)
    planted: Counter[str] = Counter()
    with folder_when_whole(output, KIND) as folder:
        for number, start in enumerate(range(0, settings.rows, rows_per_file)):
            end = min(start + rows_per_file, settings.rows)
            groups = (range(at, min(at + _ROW_GROUP_ROWS, end)) for at in range(start, end, _ROW_GROUP_ROWS))
            tables = (maker.table(group, planted) for group in groups)
            write_tables(folder / f"part-{number:05d}.parquet", PAIR_SCHEMA, tables)
            progress(end, settings.rows)
        kinds = {kind: planted[kind] for kind in PII_KINDS}
        generated = Generated(settings.rows, planted["exact"], planted["near"], kinds)
        write_json(folder / SUMMARY, asdict(settings) | {"planted": asdict(generated)}, indent=1)
    return generated


class _Maker:
    """Makes rows."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._settings = settings
        examples = read_examples(SAMPLE).examples
        numbers = [f"It has been {number} days since then." for number in range(2, _NUMBERS)]
        # Half of all third sentences hold a number, which makes texts distinct however many there are.
        self._seeker_sentences = _sentences(example.seeker_post for example in examples)
        self._response_sentences = _sentences(example.response_post for example in examples)
        self._numbers = numbers
        self._pii = _pii_sentences()
        self._last_words = pa.array(_LAST_WORDS)

    def table(self, rows: range, planted: Counter[str]) -> pa.Table:
        """Some rows; what is planted in them is added to the counts."""
        rows_N = np.arange(rows.start, rows.stop, dtype=np.uint64)
        duplicate_N = self._is_duplicate(rows_N)
        near_N = duplicate_N & (self._share(rows_N, _NEAR) < 0.5)
        exact_N = duplicate_N & ~near_N
        source_N = self._originals(rows_N)
        kind_N = self._pii_kind(source_N)
        seekers_N = source_N // np.uint64(_RESPONSES_PER_SEEKER)
        seeker = self._posts(seekers_N, _SEEKER, self._seeker_sentences)
        response = self._posts(source_N, _RESPONSE, self._response_sentences)
        response = self._with_pii(response, source_N, kind_N)
        word = self._last_words.take(pa.array(self._draw(rows_N, _WORD, len(_LAST_WORDS))))
        near = pa.array(near_N)
        seeker = pc.if_else(near, pc.binary_join_element_wise(seeker, word, " "), seeker)
        response = pc.if_else(near, pc.binary_join_element_wise(response, word, " "), response)
        response = pc.if_else(pa.array(exact_N), pc.utf8_upper(response), response)
        planted.update(exact=int(exact_N.sum()), near=int(near_N.sum()))
        planted.update({kind: int((kind_N == index).sum()) for index, kind in enumerate(PII_KINDS)})
        ids = [_ids("s", seekers_N), _ids("r", rows_N)]
        nulls = [pa.nulls(len(rows_N), field.type) for field in PAIR_SCHEMA][len(ids) + 2 :]
        return pa.Table.from_arrays([*ids, seeker, response, *nulls], schema=PAIR_SCHEMA)

    def _posts(self, rows_N: Rows, slot: int, sentences: list[str]) -> pa.Array:
        """Two different sentences of a list and one of the list or with a number."""
        pool = pa.array([*sentences, *self._numbers])
        size = len(sentences)
        first_N = self._draw(rows_N, slot, size)
        second_N = (first_N + 1 + self._draw(rows_N, slot + 1, size - 1)) % size
        third_N = np.where(
            self._share(rows_N, slot + 2) < 0.5,
            self._draw(rows_N, slot + 3, size),
            size + self._draw(rows_N, slot + 4, len(self._numbers)),
        )
        return pc.binary_join_element_wise(*(pool.take(pa.array(index)) for index in (first_N, second_N, third_N)), " ")

    def _with_pii(self, posts: pa.Array, rows_N: Rows, kind_N: npt.NDArray[np.int64]) -> pa.Array:
        value_N = self._draw(rows_N, _PII_VALUE, _PII_VARIANTS) + np.maximum(kind_N, 0) * _PII_VARIANTS
        with_pii = pc.binary_join_element_wise(posts, self._pii.take(pa.array(value_N)), " ")
        return pc.if_else(pa.array(kind_N >= 0), with_pii, posts)

    def _pii_kind(self, rows_N: Rows) -> npt.NDArray[np.int64]:
        """Index of the kind of personal data in each original row; -1 for none."""
        share_N = self._share(rows_N, _PII)
        return np.where(share_N < self._settings.pii, self._draw(rows_N, _PII + 1, len(PII_KINDS)), -1)

    def _is_duplicate(self, rows_N: Rows) -> npt.NDArray[np.bool_]:
        return np.asarray((self._share(rows_N, _DUPLICATE) < self._settings.duplicates) & (rows_N > 0))

    def _originals(self, rows_N: Rows) -> Rows:
        """The row that each row repeats; itself where it is no duplicate."""
        found_N = rows_N.copy()
        while len(index := np.flatnonzero(self._is_duplicate(found_N))):
            found_N[index] = _hash(found_N[index], self._settings.seed, _SOURCE) % found_N[index]
        return found_N

    def _draw(self, rows_N: Rows, slot: int, size: int) -> npt.NDArray[np.int64]:
        return (_hash(rows_N, self._settings.seed, slot) % np.uint64(size)).astype(np.int64)

    def _share(self, rows_N: Rows, slot: int) -> npt.NDArray[np.float64]:
        return np.asarray((_hash(rows_N, self._settings.seed, slot) >> np.uint64(11)) * 2.0**-53)


def _hash(rows_N: Rows, seed: int, slot: int) -> Rows:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) over row, seed and slot."""
    with np.errstate(over="ignore"):
        key = np.uint64((seed * 1_000_003 + slot) % 2**64) * np.uint64(0xD1342543DE82EF95)
        value = (rows_N + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ key
        for _ in range(2):
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            value = value ^ (value >> np.uint64(31))
    return value


def _sentences(posts: Iterable[str]) -> list[str]:
    """Distinct sentences of handy lengths, in the order in which they come."""
    found = (match[0].strip() for post in posts for match in _SENTENCE.finditer(" ".join(post.split())))
    return list(
        dict.fromkeys(
            text for text in found if len(text) <= _MAX_SENTENCE_CHARACTERS and len(text.split()) >= _MIN_SENTENCE_WORDS
        )
    )


def _pii_sentences() -> pa.Array:
    """The variants of each kind, one kind after the other; numbers and domains are those reserved for fiction."""
    codes = ("212", "415", "312", "617", "206", "303", "512", "702", "813", "919")
    return pa.array(
        [
            *(f"Write to helper{i}@example.org." for i in range(_PII_VARIANTS)),
            *(f"Call me at {codes[i // 100]}-555-01{i % 100:02d}." for i in range(_PII_VARIANTS)),
            *(f"Message u/helper_{i} for more." for i in range(_PII_VARIANTS)),
            *(f"Look at https://example.org/help/{i} today." for i in range(_PII_VARIANTS)),
        ]
    )


def _ids(prefix: str, numbers_N: Rows) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pa.array(numbers_N).cast(pa.string()), "")
