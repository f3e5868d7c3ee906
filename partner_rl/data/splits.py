"""Deterministic splits by a hash of the seeker's id: all responses to one post fall into one split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from partner_rl.config.schema import DataConfig
from partner_rl.types import Example

SplitName = Literal["train", "dev", "test"]
"""Names of the splits."""


@dataclass(frozen=True, slots=True)
class Splits:
    """A corpus in three parts that share no seeker id; each keeps the corpus's order."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]


def hash_fraction(salt: str, *parts: str) -> float:
    """A number in [0, 1) that depends on nothing but the texts given (BLAKE2b, 64 bits)."""
    digest = hashlib.blake2b("\0".join((salt, *parts)).encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
    # 53 bits are what a float holds exactly: more could round up to 1.
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def split_of(seeker_id: str, config: DataConfig) -> SplitName:
    """The split that every pair of this seeker id belongs to."""
    fraction = hash_fraction(config.split_salt, seeker_id)
    if fraction < config.train_fraction:
        return "train"
    return "dev" if fraction < config.train_fraction + config.dev_fraction else "test"


def split_examples(examples: Iterable[Example], config: DataConfig) -> Splits:
    """Split a corpus by seeker id; a small corpus may leave a split empty."""
    parts: dict[SplitName, list[Example]] = {"train": [], "dev": [], "test": []}
    for example in examples:
        parts[split_of(example.seeker_id, config)].append(example)
    return Splits(train=tuple(parts["train"]), dev=tuple(parts["dev"]), test=tuple(parts["test"]))


def select_pairs(examples: Sequence[Example], limit: int | None, salt: str) -> tuple[Example, ...]:
    """At most `limit` pairs, chosen by hash and kept in order; a smaller limit chooses a subset of a larger one's."""
    if limit is None or limit >= len(examples):
        return tuple(examples)
    ranked = sorted(
        range(len(examples)),
        key=lambda row: (hash_fraction(salt, examples[row].seeker_id, examples[row].response_id), row),
    )
    return tuple(examples[row] for row in sorted(ranked[:limit]))
