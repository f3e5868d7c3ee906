"""How well a dialogue model knows the pairs of a corpus, and whether it knows them from wrong ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator
from accelerate.utils import gather_object

from partner_rl.types import Example
from rewards.language_model import LanguageModel
from rewards.training.dialogue_pairs import Direction, TargetRow, conditions_and_targets, encode_rows, wrong_partners
from rewards.training.intervals import IntArray, bootstrap_interval

CHUNK: Final = 16
"""Pairs that are scored together, between two calls of the progress."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of pairs with its 95 % bootstrap interval, pairs of one seeker resampled together."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class DialogueScores:
    """Held-out metrics of one direction.

    Wrong partners are drawn at random among the pairs of other seekers. For the backward model the condition is the
    response R and the target the seeker post S; for the forward model the other way round.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of a target token.
        beats_other_condition: Share of pairs whose target is likelier after its own condition than after another's:
            backward log p(S|R) > log p(S|R'), forward log p(R|S) > log p(R|S').
        beats_other_target: Share of pairs whose own target is likelier, per token, than another's after the same
            condition: backward log p(S|R) > log p(S'|R), forward log p(R|S) > log p(R'|S). Targets differ in how
            predictable they are whatever precedes them, so that even a good model is far from 1 here.
        information: Mean of log p(target|condition) − log p(target|other condition), in nats a token.
    """

    perplexity: float
    beats_other_condition: Share
    beats_other_target: Share
    information: float
    pairs: int


def dialogue_scores(
    language_model: LanguageModel,
    direction: Direction,
    examples: Sequence[Example],
    max_tokens: int,
    seed: int,
    accelerator: Accelerator,
    advance: Callable[[], None],
) -> DialogueScores:
    """Score pairs of at least two seekers, true and wrong ones."""
    partners = wrong_partners([e.seeker_id for e in examples], np.random.default_rng(seed))
    conditions, targets = conditions_and_targets(examples, direction)

    def rows(conditions: Sequence[str], targets: Sequence[str]) -> list[TargetRow]:
        return encode_rows(language_model, direction, conditions, targets, max_tokens)

    true = rows(conditions, targets)
    other_condition = rows([conditions[i] for i in partners], targets)
    other_target = rows(conditions, [targets[i] for i in partners])
    # Side by side, so that a condition that two rows share is computed once.
    triples = list(zip(true, other_condition, other_target, strict=True))
    sums_N3, lengths_N3 = _score(language_model, triples, accelerator, advance)
    means_N3 = sums_N3 / lengths_N3
    seekers = {seeker: number for number, seeker in enumerate(dict.fromkeys(e.seeker_id for e in examples))}
    clusters = np.array([seekers[example.seeker_id] for example in examples], dtype=np.int64)
    return DialogueScores(
        perplexity=math.exp(-sums_N3[:, 0].sum() / lengths_N3[:, 0].sum()),
        beats_other_condition=_share(means_N3[:, 0] > means_N3[:, 1], clusters, seed),
        beats_other_target=_share(means_N3[:, 0] > means_N3[:, 2], clusters, seed),
        information=float((means_N3[:, 0] - means_N3[:, 1]).mean()),
        pairs=len(examples),
    )


def perplexity(
    language_model: LanguageModel, rows: Sequence[TargetRow], accelerator: Accelerator, advance: Callable[[], None]
) -> float:
    """Exp of the mean negative log-likelihood of a target token, over all processes."""
    sums_N1, lengths_N1 = _score(language_model, [(row,) for row in rows], accelerator, advance)
    return math.exp(-sums_N1.sum() / lengths_N1.sum())


def score_chunks(count: int, accelerator: Accelerator) -> int:
    """Calls of `advance` that scoring `count` pairs makes in this process."""
    mine = len(range(accelerator.process_index, count, accelerator.num_processes))
    return -(-mine // CHUNK)


def _score(
    language_model: LanguageModel,
    groups: Sequence[tuple[TargetRow, ...]],
    accelerator: Accelerator,
    advance: Callable[[], None],
) -> tuple[FloatArray, FloatArray]:
    """Summed log-probabilities and numbers of target tokens, each `[n_groups, rows of a group]`."""
    mine = range(accelerator.process_index, len(groups), accelerator.num_processes)
    # Similar lengths together; the order of the answer is restored below.
    order = sorted(mine, key=lambda i: groups[i][0].length)
    found: list[tuple[int, list[float]]] = []
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        rows = [row for i in chunk for row in groups[i]]
        values = language_model.logprobs([row.context for row in rows], [row.target for row in rows])
        sums = [float(value.sum(dtype=np.float64)) for value in values]
        width = len(groups[0])
        found += [(i, sums[width * place : width * (place + 1)]) for place, i in enumerate(chunk)]
        advance()
    everything = gather_object(found) if accelerator.num_processes > 1 else found
    sums_by_group = dict(everything)
    sums_NK = np.array([sums_by_group[i] for i in range(len(groups))])
    lengths_NK = np.array([[len(row.target) for row in group] for group in groups], dtype=np.float64)
    return sums_NK, lengths_NK


def _share(better: npt.NDArray[np.bool_], clusters: IntArray, seed: int) -> Share:
    interval = bootstrap_interval(lambda rows: float(better[rows].mean()), clusters, seed)
    return Share(float(better.mean()), interval)
