"""Training of the held-out judge: features of a frozen language model once, then regressions, which take seconds.

Which layers and which penalty are chosen by log loss on the dev pairs, because an expected level is only as good as the
probabilities behind it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from partner_rl.evaluation.judge.head import FloatArray, IntArray, expected_levels, fit_head, log_loss
from partner_rl.evaluation.judge.judge import Judge
from partner_rl.evaluation.judge.scores import JudgeScores, rank_correlation, score_judge
from partner_rl.evaluation.judge.states import Pair, ResponseStates, candidate_layers, layer_columns
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.progress import Progress, no_progress
from partner_rl.types import MECHANISMS, Example, PartnerError
from rewards.training.empathy_targets import level_matrix

PENALTIES: Final = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Values of `C` that are tried: there are about half as many features as training pairs."""
LAYER_MARGIN: Final = 0.01
"""A set of layers that costs less is taken when its dev loss is at most this share above the best one's."""


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What a training did and how good its judge is.

    Attributes:
        layers: The layers that were chosen, of `num_layers`.
        dev_loss: Set of layers → log loss of the dev pairs at its best penalties, nats a mechanism.
        penalties: `C` by mechanism.
        cut: Share of the test pairs whose response is longer than what is read.
        total_spearman: Rank correlation of the expected empathy score (0…6) with the labelled one.
    """

    layers: tuple[int, ...]
    num_layers: int
    dev_loss: Mapping[str, float]
    penalties: Mapping[str, float]
    train_pairs: int
    dev_pairs: int
    test_pairs: int
    cut: float
    test: Mapping[str, JudgeScores]
    total_spearman: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Part:
    """Labelled pairs of one split with their features and levels."""

    examples: tuple[Example, ...]
    features_NF: FloatArray
    levels_NM: IntArray


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """A set of layers, the penalty of each mechanism that suits it best, and the dev loss."""

    layers: tuple[int, ...]
    penalties: tuple[float, ...]
    loss: float


def train_judge(
    splits: tuple[Sequence[Example], Sequence[Example], Sequence[Example]],
    language_model: Path,
    name: str,
    seed: int,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> tuple[Judge, JudgeReport]:
    """Trains a judge and measures it on held-out pairs.

    Args:
        splits: Training, dev and test pairs; those without labels are left out.
        language_model: Folder of the language model, which is not trained.
        name: What the language model is called in a configuration; the judge finds it again by this name.
        seed: Seed of the bootstrap intervals; training draws nothing.
        device: Torch device of the language model.
        progress: Called with (pairs read, all pairs).

    Raises:
        PartnerError: A split has no labelled pair, or the language model cannot be loaded.
    """
    start = time.perf_counter()
    labelled = [tuple(example for example in part if example.labels) for part in splits]
    for part, which in zip(labelled, ("training", "dev", "test"), strict=True):
        if not part:
            raise PartnerError(f"no {which} pair is labelled: give data with levels and other data.train_fraction")
    model = load_causal_lm(language_model)
    model.to(device)  # type: ignore[arg-type]
    num_layers = int(model.config.num_hidden_layers)
    tried = candidate_layers(num_layers)
    states = ResponseStates(model, load_tokenizer(language_model), sorted({n for layers in tried for n in layers}))
    parts = _features(states, labelled, progress)
    train, dev, test = parts

    choices = [_best_penalties(layers, _columns(states, layers), train, dev) for layers in tried]
    best = choose_layers(choices)
    columns = _columns(states, best.layers)
    head = fit_head(train.features_NF[:, columns], train.levels_NM, best.penalties)
    probabilities_NML = head.probabilities(test.features_NF[:, columns])
    report = JudgeReport(
        layers=best.layers,
        num_layers=num_layers,
        dev_loss={"+".join(map(str, choice.layers)): choice.loss for choice in choices},
        penalties=dict(zip(MECHANISMS, best.penalties, strict=True)),
        train_pairs=len(train.examples),
        dev_pairs=len(dev.examples),
        test_pairs=len(test.examples),
        cut=states.cut(_pairs(test.examples)),
        test=score_judge(probabilities_NML, test.examples, train.examples, seed),
        total_spearman=rank_correlation(
            expected_levels(probabilities_NML).sum(axis=1), test.levels_NM.sum(axis=1).astype(np.float64)
        ),
        seconds=time.perf_counter() - start,
    )
    chosen = ResponseStates(model, load_tokenizer(language_model), best.layers, *states.limits)
    return Judge(chosen, head, name), report


def choose_layers(choices: Sequence[LayerChoice]) -> LayerChoice:
    """The first, and so cheapest, choice whose loss is within `LAYER_MARGIN` of the smallest one."""
    limit = min(choice.loss for choice in choices) * (1 + LAYER_MARGIN)
    return next(choice for choice in choices if choice.loss <= limit)


def _features(
    states: ResponseStates, splits: Sequence[tuple[Example, ...]], progress: Progress
) -> tuple[_Part, _Part, _Part]:
    """The features of all splits, computed together so that one progress covers them."""
    everything = [example for part in splits for example in part]
    features_NF = states.means(_pairs(everything), progress)
    ends = np.cumsum([len(part) for part in splits])
    train, dev, test = (
        _Part(part, features_NF[end - len(part) : end], level_matrix(part))
        for part, end in zip(splits, ends, strict=True)
    )
    return train, dev, test


def _pairs(examples: Sequence[Example]) -> list[Pair]:
    return [(example.seeker_post, example.response_post) for example in examples]


def _columns(states: ResponseStates, layers: Sequence[int]) -> list[int]:
    return layer_columns(states.layers, layers, states.hidden_size)


def _best_penalties(layers: tuple[int, ...], columns: Sequence[int], train: _Part, dev: _Part) -> LayerChoice:
    """For each mechanism the penalty with the smallest log loss on the dev pairs."""
    losses_PM = np.stack(
        [
            log_loss(
                fit_head(train.features_NF[:, columns], train.levels_NM, [penalty] * len(MECHANISMS)).probabilities(
                    dev.features_NF[:, columns]
                ),
                dev.levels_NM,
            )
            for penalty in PENALTIES
        ]
    )
    best_M = losses_PM.argmin(axis=0)
    return LayerChoice(layers, tuple(PENALTIES[i] for i in best_M), float(losses_PM.min(axis=0).mean()))
