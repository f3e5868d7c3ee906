"""An evaluation of several systems on the same held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from envs import rewriting
from partner_rl.config.schema import EnvConfig
from partner_rl.evaluation.measure_systems import measure_systems
from partner_rl.evaluation.resampling import Bools
from partner_rl.evaluation.result import EvaluationResult, Group
from partner_rl.evaluation.system import ORIGINAL, WARM_START, System
from partner_rl.evaluation.system_scores import RememberingJudge, Sources, base_levels, score_pairs
from partner_rl.progress import Progress, no_progress, part_of
from partner_rl.types import Example, PartnerError


def originals(examples: Sequence[Example], env: EnvConfig) -> System:
    """The responses as their supporters wrote them, as if they were rewrites."""
    requests = [rewriting.score_request(rewriting.reset(example, env)) for example in examples]
    return System(ORIGINAL, requests, "the responses as their supporters wrote them")


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
    chosen_N = np.ones(len(examples), dtype=np.bool_) if headline_N is None else headline_N

    def group(key: str, title: str, chosen_N: Bools, against: str | None) -> Group:
        parts = [scores.subset(chosen_N) for scores in scored]
        return Group(key, title, int(chosen_N.sum()), measure_systems(parts, against, seed))

    decided_N = base_levels(scored[names.index(ORIGINAL)].requests, sources, batch_size)
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
