"""The examples of a warm start: made from a corpus, or read from files that were made before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import SplitName, Splits, split_of
from partner_rl.types import Example, PartnerError
from partner_rl.warmstart.dataset import iter_warmstart_examples
from partner_rl.warmstart.pairs import MIN_WORDS, PairCounts, WarmStartExample, make_pairs

logger = logging.getLogger(__name__)

WORDS_PER_TOKEN: Final = 0.75
"""English words in a token, roughly: how long a warm-start sentence may be for it to fit `max_new_tokens`."""


@dataclass(frozen=True, slots=True)
class WarmStartExamples:
    """Examples in three parts that share no seeker."""

    train: tuple[WarmStartExample, ...]
    dev: tuple[WarmStartExample, ...]
    test: tuple[WarmStartExample, ...]


def make_examples(config: RunConfig, splits: Splits) -> WarmStartExamples:
    """Makes examples from the labelled pairs of each split.

    Raises:
        PartnerError: The training pairs give no example.
    """
    longest = max(4, int(config.policy.max_new_tokens * WORDS_PER_TOKEN))
    most = config.warmstart.max_sentences
    held_out = config.warmstart.model_copy(update={"max_examples": config.warmstart.max_dev_examples})

    def made(pairs: Sequence[Example]) -> tuple[WarmStartExample, ...]:
        return tuple(make_pairs(pairs, config.env, held_out, config.seed, longest, most)[0])

    train, counts = make_pairs(splits.train, config.env, config.warmstart, config.seed, longest, most)
    if not train and config.warmstart.epochs:
        raise PartnerError(f"{config.data.source} gives no warm-start examples: {_why_none(counts, longest)}")
    logger.info(
        "warm start on %d examples: %d insert, %d replace, %d leave alone",
        len(train),
        counts.inserts,
        counts.replaces,
        counts.noops,
    )
    return WarmStartExamples(tuple(train), made(splits.dev), made(splits.test))


def _why_none(counts: PairCounts, longest: int) -> str:
    """What is wrong with pairs that give no example, and what to do."""
    empathic = counts.empathic_sentences
    if empathic and counts.unusable_sentences == empathic:
        return (
            f"none of its {empathic} empathic sentences can be learned, as each must have {MIN_WORDS} to {longest} "
            "words, three quarters of policy.max_new_tokens: raise that, or give shorter ones"
        )
    if empathic:
        return (
            f"its {empathic} empathic sentences leave nothing of their responses to bring them back to: give longer "
            "responses, or set warmstart.epochs=0"
        )
    return (
        "it needs labelled pairs with an empathic sentence, or make examples with `partner-rl data warmstart-pairs` "
        "and set warmstart.data"
    )


def read_examples_of(config: RunConfig, source: Path) -> WarmStartExamples:
    """Reads examples from Parquet and splits them by seeker, as the corpus that they came from is split.

    A seeker of the corpus's test split is in the test split here too: the policy never learns from the pairs that it is
    evaluated on.

    Raises:
        PartnerError: The source cannot be read, or no example is left to train on.
    """
    parts: dict[SplitName, list[WarmStartExample]] = {"train": [], "dev": [], "test": []}
    for seeker, example in iter_warmstart_examples(source, config.env.window):
        parts[split_of(seeker, config.data)].append(example)
    if not parts["train"]:
        raise PartnerError(
            f"{source} leaves no training examples: give more of them or another data.train_fraction than "
            f"{config.data.train_fraction}"
        )
    settings = config.warmstart
    rng = np.random.default_rng(config.seed)

    def some(examples: list[WarmStartExample], limit: int | None) -> tuple[WarmStartExample, ...]:
        return tuple(examples[row] for row in rng.permutation(len(examples))[:limit])

    found = WarmStartExamples(
        train=some(parts["train"], settings.max_examples),
        dev=some(parts["dev"], settings.max_dev_examples),
        test=some(parts["test"], settings.max_dev_examples),
    )
    logger.info("warm start on %d examples, %d held out", len(found.train), len(found.dev) + len(found.test))
    return found
