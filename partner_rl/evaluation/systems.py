"""Scores of systems on held-out pairs: in brief for one system, in full for several on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from envs import rewriting
from envs.rewriting import written_sentences
from partner_rl.config.schema import EnvConfig
from partner_rl.evaluation.compare import compare
from partner_rl.evaluation.component_scores import RewardSource, component_scores, whole_response_coherence
from partner_rl.evaluation.listener_accuracy import listener_accuracy
from partner_rl.evaluation.pair_scores import RememberingJudge, Sources, base_levels, score_pairs
from partner_rl.evaluation.resampling import Bools
from partner_rl.evaluation.result import EvaluationResult, Group
from partner_rl.evaluation.system import ORIGINAL, WARM_START, System
from partner_rl.evaluation.text_metrics import (
    Embed,
    change_in_empathy,
    coherence,
    commonest_sentence,
    distinct_n,
    distinct_sentences,
    edit_rate,
    mean,
    mean_length,
    perplexity,
    share_disclosing,
    share_unchanged,
    specificity,
)
from partner_rl.progress import Progress, no_progress, part_of
from partner_rl.types import MECHANISMS, Example, PartnerError, ScoreRequest
from rewards.empathy import NAME as EMPATHY
from rewards.fluency import NAME as FLUENCY
from rewards.mutual_information import NAME as MUTUAL_INFORMATION
from rewards.scorer import RewardDefinition


@dataclass(frozen=True, slots=True)
class SystemScores:
    """How well a system rewrites; each figure's definition stands in its file in `evaluation/metrics`.

    Attributes:
        name: The system, such as `original`, `warm_start` or `rl`.
        n: Rewritten responses.
        change_in_empathy: Mean change of the empathy score (0…6), by the training's classifier.
        change_by_mechanism: Mechanism → mean change of its level (0…2).
        perplexity: Perplexity of the rewritten responses under the reward's language model.
        coherence: Mean probability that two sentences of a rewritten response belong together.
        specificity: Mean cosine similarity of the seeker's post and the rewritten response.
        listener_accuracy: Share of the written sentences by which a listener finds the post among 16; None when there
            was none, or fewer posts.
        mutual_information: Mean of the reward of that name, in nats a token.
        distinct_1: Different words over words.
        distinct_2: Different word pairs over word pairs.
        distinct_sentences: Share of the written sentences that are different; None when none was written.
        commonest_sentence: Share of the written sentences that are the most frequent one; None when none was written.
        self_disclosure: Share of responses into which a sentence about the writer's own life was written.
        edit_rate: Mean word-level edit distance over the original's length.
        unchanged: Share of responses left as they were.
        length: Mean words of a rewritten response.
    """

    name: str
    n: int
    change_in_empathy: float
    change_by_mechanism: dict[str, float]
    perplexity: float
    coherence: float
    specificity: float
    listener_accuracy: float | None
    mutual_information: float
    distinct_1: float
    distinct_2: float
    distinct_sentences: float | None
    commonest_sentence: float | None
    self_disclosure: float
    edit_rate: float
    unchanged: float
    length: float

    def as_json(self) -> dict[str, Any]:
        """The scores as JSON-able values."""
        return asdict(self)


def original_requests(examples: Sequence[Example], env: EnvConfig) -> list[ScoreRequest]:
    """The responses as their supporters wrote them, as if they were rewrites: the system `original`."""
    return [rewriting.score_request(rewriting.reset(example, env)) for example in examples]


def evaluate_system(
    name: str,
    requests: Sequence[ScoreRequest],
    client: RewardSource,
    definitions: Mapping[str, RewardDefinition],
    embed: Embed,
) -> SystemScores:
    """Scores a system's rewrites. Systems compare only on the same pairs and the same rewards.

    Args:
        name: The system.
        requests: Its rewrites.
        client: The rewards, all four components, also those without a weight.
        definitions: Component name → its definition, also of those without a weight.
        embed: Sentence embeddings for specificity and listener accuracy.

    Raises:
        PartnerError: There is nothing to evaluate, or a reward fails.
    """
    if not requests:
        raise PartnerError(f"there is no pair to evaluate the system {name!r} on: use more data or a larger test split")
    measured = [definitions[component] for component in (EMPATHY, FLUENCY, MUTUAL_INFORMATION)]
    scores = component_scores(client, measured, requests)
    seekers = [request.seeker_post for request in requests]
    originals = [request.original_response for request in requests]
    rewrites = [request.rewritten_response for request in requests]
    by_response = [written_sentences(request) for request in requests]
    written = [sentence for sentences in by_response for sentence in sentences]
    return SystemScores(
        name=name,
        n=len(requests),
        change_in_empathy=change_in_empathy([score.value for score in scores[EMPATHY]]),
        change_by_mechanism={
            mechanism: change_in_empathy([score.details[mechanism] for score in scores[EMPATHY]])
            for mechanism in MECHANISMS
        },
        perplexity=perplexity([score.details["inverse_perplexity"] for score in scores[FLUENCY]]),
        coherence=coherence(whole_response_coherence(client, rewrites)),
        specificity=specificity(seekers, rewrites, embed),
        listener_accuracy=listener_accuracy(seekers, by_response, embed),
        mutual_information=mean([score.value for score in scores[MUTUAL_INFORMATION]], MUTUAL_INFORMATION),
        distinct_1=distinct_n(rewrites, 1),
        distinct_2=distinct_n(rewrites, 2),
        distinct_sentences=distinct_sentences(written),
        commonest_sentence=commonest_sentence(written),
        self_disclosure=share_disclosing(by_response),
        edit_rate=edit_rate(originals, rewrites),
        unchanged=share_unchanged(originals, rewrites),
        length=mean_length(rewrites),
    )


LEVEL_GROUPS: Final = (
    ("level_0", "level 0", 0, 0),
    ("level_1-2", "levels 1 and 2", 1, 2),
    ("level_3", "level 3", 3, 3),
    ("level_4-6", "levels 4 to 6", 4, 6),
    *((f"level_{level}", f"level {level}", level, level) for level in (1, 2, 4, 5, 6)),
)
"""Groups of pairs by the original's empathy: key, title, lowest and highest level."""


def evaluate_systems(
    systems: Sequence[System],
    examples: Sequence[Example],
    sources: Sources,
    *,
    headline_N: Bools | None = None,
    reference: str | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = no_progress,
) -> EvaluationResult:
    """Measures several systems on the same pairs.

    Args:
        systems: The systems; the originals (`partner_rl.evaluation.system.ORIGINAL`) must be among them.
        examples: The pairs that all of them rewrote, `N` of them.
        sources: What to measure with.
        headline_N: Which pairs the main table is of; None for all. The groups by empathy are of all pairs.
        reference: The system to compare the others with; None for the warm start where there is one, else the
            originals.
        seed: Decides all resamples.
        batch_size: Responses that are scored together.
        progress: Told as responses are scored: (done, all systems' responses).

    Raises:
        PartnerError: A system is missing, has another's name or rewrote other pairs, or a reward fails.
    """
    names = _checked_names(systems, examples)
    if reference is None:
        reference = WARM_START if WARM_START in names else ORIGINAL
    if reference not in names:
        raise PartnerError(f"there is no system {reference!r} to compare with: there are {', '.join(names)}")
    if sources.judge is not None:
        sources = replace(sources, judge=RememberingJudge(sources.judge))
    scored = []
    for number, system in enumerate(systems):
        scored.append(score_pairs(system, sources, batch_size, part_of(progress, number, len(systems))))
    original = scored[names.index(ORIGINAL)]
    chosen_N = np.ones(len(examples), dtype=np.bool_) if headline_N is None else headline_N

    def group(key: str, title: str, chosen_N: Bools, against: str | None) -> Group:
        parts = [scores.subset(chosen_N) for scores in scored]
        figures = compare(parts, parts[names.index(ORIGINAL)], against, seed)
        return Group(key, title, int(chosen_N.sum()), figures)

    decided_N = base_levels(original.requests, sources, batch_size)
    levels_N = _levels(examples, decided_N)
    masks = [(key, title, (low <= levels_N) & (levels_N <= high)) for key, title, low, high in LEVEL_GROUPS]
    return EvaluationResult(
        examples=tuple(examples),
        levels_N=levels_N,
        labelled=sum(example.empathy is not None for example in examples),
        headline_N=chosen_N,
        scores=tuple(scored),
        reference=reference,
        headline=group("all", "all pairs", chosen_N, reference),
        groups=tuple(group(key, title, mask_N, None) for key, title, mask_N in masks if mask_N.any()),
        judged=sources.judge is not None,
    )


def _checked_names(systems: Sequence[System], examples: Sequence[Example]) -> list[str]:
    names = [system.name for system in systems]
    if ORIGINAL not in names or len(set(names)) < len(names):
        raise PartnerError(f"an evaluation needs the system {ORIGINAL!r} and one of each name, not: {', '.join(names)}")
    for system in systems:
        pairs = [(request.seeker_post, request.original_response) for request in system.requests]
        if pairs != [(example.seeker_post, example.response_post) for example in examples]:
            raise PartnerError(
                f"the system {system.name!r} did not rewrite the pairs of this evaluation, in their order"
            )
    return names


def _levels(examples: Sequence[Example], decided_N: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Empathy of each original response: its label, else the classifier's decision."""
    labels = (example.empathy for example in examples)
    return np.array(
        [int(decided) if label is None else label for label, decided in zip(labels, decided_N, strict=True)],
        dtype=np.int64,
    )
