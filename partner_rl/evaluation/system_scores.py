"""The scores of one system on each pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from envs.rewriting import written_sentences
from partner_rl.evaluation.component_scores import RewardSource, component_scores, whole_response_coherence
from partner_rl.evaluation.resampling import Bools, Floats
from partner_rl.evaluation.system import System
from partner_rl.evaluation.text_metrics import Embed, discloses, edit_rates, listener_hits, self_bleu, similarities
from partner_rl.progress import Progress, no_progress
from partner_rl.types import MECHANISMS, PartnerError, ScoreRequest
from rewards.empathy import NAME as EMPATHY
from rewards.fluency import NAME as FLUENCY
from rewards.mutual_information import NAME as MUTUAL_INFORMATION
from rewards.scorer import RewardDefinition

Levels = npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""Expected levels."""


class LevelJudge(Protocol):
    """An empathy classifier that no policy was trained against; `partner_rl.evaluation.judge` has one."""

    def levels(self, pairs: Sequence[tuple[str, str]]) -> Levels:
        """Expected level 0…2 of each mechanism for (seeker post, response), shape `[n, 3]`."""
        ...


class RememberingJudge:
    """A judge that reads each pair once: all systems share the originals, and some leave them alone."""

    def __init__(self, judge: LevelJudge) -> None:
        self._judge = judge
        self._known: dict[tuple[str, str], Levels] = {}

    def levels(self, pairs: Sequence[tuple[str, str]]) -> Levels:
        """As the judge's, `[n, 3]`."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            self._known.update(zip(new, self._judge.levels(new), strict=True))
        levels: Floats = np.stack([self._known[pair] for pair in pairs]).astype(np.float64)
        return levels


@dataclass(frozen=True, slots=True)
class Sources:
    """The models that measure, the same for every system: rewards, whatever they weigh in training, and an embedder."""

    client: RewardSource
    definitions: Mapping[str, RewardDefinition]
    embed: Embed
    judge: LevelJudge | None = None


@dataclass(frozen=True, slots=True)
class SystemScores:
    """A system's scores of each pair. Legend: `_N` pairs, `_M` the mechanisms in the order of `MECHANISMS`.

    Attributes:
        change_NM: Change of each mechanism's level by the reward's classifier.
        surprisal_N: Mean negative log-likelihood of the rewritten response, nats a token.
        repeated_N: Share of the rewritten response's tokens that repeat an earlier passage of it.
        coherence_N: Mean probability that two of the response's sentences belong to one response.
        specificity_N: Cosine similarity of the seeker's post and the rewritten response.
        listener_N: Share of the written sentences by which a listener finds the post; NaN where none was written.
        mutual_information_N: The reward of that name, nats a token.
        edit_rate_N: Word-level edit distance over the original's words.
        length_N: Words of the rewritten response.
        unchanged_N: Whether it is the original, character for character.
        self_bleu_N: BLEU of the rewritten response against the system's other responses; None where not asked for.
        judge_change_NM: Change of each mechanism's level by the held-out judge; None without one.
    """

    name: str
    note: str
    requests: tuple[ScoreRequest, ...]
    change_NM: Floats
    surprisal_N: Floats
    repeated_N: Floats
    coherence_N: Floats
    specificity_N: Floats
    listener_N: Floats
    mutual_information_N: Floats
    edit_rate_N: Floats
    length_N: Floats
    unchanged_N: Bools
    self_bleu_N: Floats | None = None
    judge_change_NM: Floats | None = None

    @property
    def rewrites(self) -> list[str]:
        """The rewritten responses."""
        return [request.rewritten_response for request in self.requests]

    @property
    def discloses_N(self) -> Bools:
        """Whether a sentence that the system wrote speaks of its writer."""
        return np.array([discloses(sentences) for sentences in self.written], dtype=np.bool_)

    @property
    def written(self) -> list[tuple[str, ...]]:
        """The sentences that the system wrote into each response."""
        return [written_sentences(request) for request in self.requests]

    def subset(self, chosen_N: Bools) -> SystemScores:
        """The scores of some pairs. Self-BLEU stays that against all of the system's responses."""
        arrays: dict[str, Any] = {
            field.name: value[chosen_N]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray)
        }
        requests = tuple(request for request, keep in zip(self.requests, chosen_N, strict=True) if keep)
        return replace(self, requests=requests, **arrays)


def score_pairs(
    system: System,
    sources: Sources,
    batch_size: int,
    progress: Progress = no_progress,
    *,
    with_self_bleu: bool = True,
) -> SystemScores:
    """Scores a system's rewrite of each pair.

    Args:
        system: Its rewrites.
        sources: What to measure with.
        batch_size: Responses that are scored together.
        progress: Told after each batch.
        with_self_bleu: Whether to compare the responses with each other, which takes milliseconds a response.

    Raises:
        PartnerError: There is nothing to score, a response is empty, or a reward fails.
    """
    requests = tuple(system.requests)
    if not requests:
        raise PartnerError(f"there is no pair to evaluate the system {system.name!r} on: use more data")
    rewrites = [request.rewritten_response for request in requests]
    empty = sum(not rewrite.strip() for rewrite in rewrites)
    if empty:
        raise PartnerError(f"{empty} rewrites of the system {system.name!r} are empty: give every response some text")
    batches = []
    for start in range(0, len(requests), batch_size):
        batches.append(_scored(requests[start : start + batch_size], sources))
        progress(min(start + batch_size, len(requests)), len(requests))
    columns: dict[str, Any] = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    seekers = [request.seeker_post for request in requests]
    # Not batch by batch: the posts that a listener chooses among are all of them.
    columns["listener_N"] = listener_hits(seekers, [written_sentences(request) for request in requests], sources.embed)
    columns["specificity_N"] = _finite("specificity", similarities(seekers, rewrites, sources.embed))
    columns["coherence_N"] = _finite("coherence", whole_response_coherence(sources.client, rewrites))
    if with_self_bleu:
        columns["self_bleu_N"] = np.array(self_bleu(rewrites))
    return SystemScores(
        name=system.name,
        note=system.note,
        requests=requests,
        edit_rate_N=np.array(edit_rates([request.original_response for request in requests], rewrites)),
        length_N=np.array([float(len(rewrite.split())) for rewrite in rewrites]),
        unchanged_N=np.array([request.rewritten_response == request.original_response for request in requests]),
        **columns,
    )


def base_levels(requests: Sequence[ScoreRequest], sources: Sources, batch_size: int) -> Floats:
    """Empathy of the original responses by the reward's classifier, `[N]`, whole points of 0…6.

    Each mechanism's expected level is rounded to the nearest one.
    """
    items = [(request.seeker_post, request.original_response) for request in requests]
    levels = [
        sources.client.score_items(EMPATHY, items[start : start + batch_size])
        for start in range(0, len(items), batch_size)
    ]
    totals: Floats = np.floor(np.concatenate(levels).astype(np.float64) + 1 / 2).sum(axis=1)
    return totals


def _scored(requests: Sequence[ScoreRequest], sources: Sources) -> dict[str, Floats]:
    """Field of `SystemScores` → its rows for these requests."""
    measured = [sources.definitions[component] for component in (EMPATHY, FLUENCY, MUTUAL_INFORMATION)]
    scores = component_scores(sources.client, measured, requests)
    likelihoods = [score.details["inverse_perplexity"] for score in scores[FLUENCY]]
    columns: dict[str, npt.ArrayLike] = {
        "change_NM": [[score.details[mechanism] for mechanism in MECHANISMS] for score in scores[EMPATHY]],
        "surprisal_N": [-math.log(likelihood) if likelihood > 0.0 else math.inf for likelihood in likelihoods],
        "repeated_N": [score.details["repeated"] for score in scores[FLUENCY]],
        "mutual_information_N": [score.value for score in scores[MUTUAL_INFORMATION]],
    }
    if sources.judge is not None:
        columns["judge_change_NM"] = _judged(requests, sources.judge)
    return {name: _finite(name, values) for name, values in columns.items()}


def _finite(name: str, values: npt.ArrayLike) -> Floats:
    array_N = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array_N).all():
        raise PartnerError(f"evaluation: {name} is not a finite number for some response: check its reward model")
    return array_N


def _judged(requests: Sequence[ScoreRequest], judge: LevelJudge) -> Floats:
    after = judge.levels([(request.seeker_post, request.rewritten_response) for request in requests])
    before = judge.levels([(request.seeker_post, request.original_response) for request in requests])
    return after.astype(np.float64) - before.astype(np.float64)
