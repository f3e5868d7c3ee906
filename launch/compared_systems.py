"""The pairs of an evaluation, and the systems that rewrite them: originals, warm starts and trained policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from launch import pipeline
from launch.run_folder import RunFolder
from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import select_pairs
from partner_rl.evaluation.resampling import Bools
from partner_rl.evaluation.system import ORIGINAL, TRAINED, WARM_START, System, at_temperature
from partner_rl.evaluation.systems import original_requests
from partner_rl.policy.generate import Sampling
from partner_rl.types import Example, PartnerError


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """A run folder and what to call its policy.

    Attributes:
        name: The policy's name in the report.
        folder: The run.
        config: Its configuration.
    """

    name: str
    folder: RunFolder
    config: RunConfig


@dataclass(frozen=True, slots=True)
class EvaluatedPairs:
    """The pairs of an evaluation.

    Attributes:
        examples: The pairs, `N` of them, in the corpus's order.
        headline_N: Which of them training would rewrite; the others show what happens to empathic responses.
    """

    examples: tuple[Example, ...]
    headline_N: Bools


def named_runs(opened: Sequence[tuple[RunFolder, RunConfig]]) -> list[EvaluatedRun]:
    """Names the policies of some runs: `rl` for the only one, else each by its folder, numbered where two are alike.

    Raises:
        PartnerError: A run has no trained policy.
    """
    for folder, _ in opened:
        if not folder.export.is_dir():
            raise PartnerError(f"{folder.path} has no export/: finish its training with `{folder.resume_command}`")
    if len(opened) == 1:
        return [EvaluatedRun(TRAINED, *opened[0])]
    seen: Counter[str] = Counter()
    runs = []
    for folder, config in opened:
        name = folder.path.resolve().name
        seen[name] += 1
        runs.append(EvaluatedRun(name if seen[name] == 1 else f"{name}#{seen[name]}", folder, config))
    return runs


def choose_pairs(pairs: Sequence[Example], config: RunConfig) -> EvaluatedPairs:
    """At most `evaluation.max_pairs` of the pairs that training would rewrite, and as many of the others.

    Raises:
        PartnerError: None would be rewritten.
    """
    limit, salt = config.evaluation.max_pairs, config.data.split_salt
    chosen = select_pairs(pipeline.rewritable(pairs, config), limit, salt)
    if not chosen:
        raise PartnerError(
            f"none of the {len(pairs)} held-out pairs has an empathy of at most data.max_empathy="
            f"{config.data.max_empathy}: give more pairs, or raise it with --set data.max_empathy=6"
        )
    inside = {id(pair) for pair in chosen}
    rewritten = {id(pair) for pair in pipeline.rewritable(pairs, config)}
    others = select_pairs([pair for pair in pairs if id(pair) not in rewritten], limit, salt)
    inside_or_other = inside | {id(pair) for pair in others}
    examples = tuple(pair for pair in pairs if id(pair) in inside_or_other)
    return EvaluatedPairs(examples, np.array([id(pair) in inside for pair in examples], dtype=np.bool_))


def originals(pairs: EvaluatedPairs, config: RunConfig) -> System:
    """The responses as their supporters wrote them."""
    return System(
        ORIGINAL, original_requests(pairs.examples, config.env), "the responses as their supporters wrote them"
    )


def warm_starts(runs: Sequence[EvaluatedRun]) -> dict[str, tuple[Path, EvaluatedRun]]:
    """The policies that the runs started from, each once: `warm_start` for the only one, else `RUN/warm_start`."""
    folders: dict[Path, EvaluatedRun] = {}
    for run in runs:
        checkpoint = run.config.warmstart.checkpoint
        folder = run.folder.warm_start if checkpoint is None else Path(checkpoint)
        if folder.is_dir():
            folders.setdefault(folder.resolve(), run)
    if len(folders) == 1:
        return {WARM_START: next(iter(folders.items()))}
    return {f"{run.name}/{WARM_START}": (folder, run) for folder, run in folders.items()}


def policies(runs: Sequence[EvaluatedRun], pairs: EvaluatedPairs, samplings: Sequence[Sampling]) -> list[System]:
    """The warm starts and the trained policies of the runs, each sampled in every way; several ways are named."""
    systems = []
    for name, (folder, run) in warm_starts(runs).items():
        systems += _sampled(name, folder, run, pairs, samplings, "the policy before RL")
    for run in runs:
        note = f"the trained policy of {run.folder.path.resolve().name}, {run.config.algorithm.iterations} iterations"
        systems += _sampled(run.name, run.folder.export, run, pairs, samplings, note)
    return systems


def names_at(name: str, samplings: Sequence[Sampling]) -> list[str]:
    """What a policy is called when it is sampled in these ways: its own name when there is one way only."""
    return [name] if len(samplings) == 1 else [at_temperature(name, sampling.temperature) for sampling in samplings]


def _sampled(
    name: str, folder: Path, run: EvaluatedRun, pairs: EvaluatedPairs, samplings: Sequence[Sampling], note: str
) -> list[System]:
    systems = []
    for called, sampling in zip(names_at(name, samplings), samplings, strict=True):
        rewrites = pipeline.rewrite_with(called, folder, pairs.examples, run.config, sampling)
        systems.append(System(called, [rewrite.request for rewrite in rewrites], note))
    return systems
