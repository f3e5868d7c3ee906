"""An evaluation: trained policies on held-out pairs, beside the originals, baselines and their warm start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from launch.console import out, progress
from launch.resources.device import device_of
from launch.resources.session import place_on_this_machine, ray_session
from launch.run_folder.evaluated import EvaluatedRun, warm_starts
from launch.run_folder.folder import RunFolder
from launch.tracking.mode import wandb_mode
from launch.tracking.wandb_sink import log_evaluation
from launch.training.held_out import (
    evaluation_sources,
    held_out_pairs,
    rewrite_with,
    rewriter_of,
    sampling_of,
)
from launch.training.phases import PhaseClock, exported_policy, load_splits, reward_pools, rewritable
from partner_rl.config.paths import short_name
from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import select_pairs
from partner_rl.evaluation.baselines.context import BaselineContext, ScoresRewrites
from partner_rl.evaluation.baselines.make_baselines import baseline_names, make_baselines
from partner_rl.evaluation.evaluate_systems import evaluate_systems, originals
from partner_rl.evaluation.human_sheet import key_path, write_human_sheet
from partner_rl.evaluation.judge import load_judge
from partner_rl.evaluation.report import printed_table
from partner_rl.evaluation.report_files import About, write_report
from partner_rl.evaluation.resampling import Bools
from partner_rl.evaluation.result import EvaluationResult
from partner_rl.evaluation.system import ORIGINAL, System, at_temperature, policy_of
from partner_rl.evaluation.system_scores import LevelJudge
from partner_rl.evaluation.tables import main_table, targets_table, values_by_system
from partner_rl.evaluation.targets import check_targets
from partner_rl.models.sources import resolve
from partner_rl.policy.generate import Sampling
from partner_rl.progress import Progress
from partner_rl.types import Example, PartnerError, ScoreRequest


@dataclass(frozen=True, slots=True)
class EvaluatedPairs:
    """The `N` pairs of an evaluation in the corpus's order, and which of them training would rewrite.

    The others show what happens to empathic responses.
    """

    examples: tuple[Example, ...]
    headline_N: Bools


def choose_pairs(pairs: Sequence[Example], config: RunConfig) -> EvaluatedPairs:
    """At most `evaluation.max_pairs` of the pairs that training would rewrite, and as many of the others.

    Raises:
        PartnerError: None would be rewritten.
    """
    chosen = held_out_pairs(pairs, config)
    if not chosen:
        raise PartnerError(
            f"none of the {len(pairs)} held-out pairs has an empathy of at most data.max_empathy="
            f"{config.data.max_empathy}: give more pairs, or raise it with --set data.max_empathy=6"
        )
    inside = {id(pair) for pair in chosen}
    rewritten = {id(pair) for pair in rewritable(pairs, config)}
    left_alone = [pair for pair in pairs if id(pair) not in rewritten]
    others = select_pairs(left_alone, config.evaluation.max_pairs, config.data.split_salt)
    inside_or_other = inside | {id(pair) for pair in others}
    examples = tuple(pair for pair in pairs if id(pair) in inside_or_other)
    return EvaluatedPairs(examples, np.array([id(pair) in inside for pair in examples], dtype=np.bool_))


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
        rewrites = rewrite_with(called, folder, pairs.examples, run.config, sampling)
        systems.append(System(called, [rewrite.request for rewrite in rewrites], note))
    return systems


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is asked of an evaluation besides the runs.

    Attributes:
        baselines: `NAME,NAME` or `all`; None for none.
        reference: The system to compare with; None for the default.
        greedy: Policies take their likeliest edit.
        human_sheet: Where to write a sheet for raters, with `human_pairs` pairs of each pairing of systems.
        temperatures: Sample policies at each of these; none for `evaluation.temperature` alone.
        redact: Write no texts at all, not even rewrites.
    """

    split: Literal["test", "dev"] = "test"
    baselines: str | None = None
    reference: str | None = None
    greedy: bool = False
    targets: bool = False
    with_posts: bool = False
    human_sheet: Path | None = None
    human_pairs: int = 50
    temperatures: tuple[float, ...] = ()
    redact: bool = False


def evaluate(runs: Sequence[EvaluatedRun], options: EvaluationOptions, output: Path) -> None:
    """Evaluates runs and writes the report; the first run's pairs, reward models and sampling are used for all."""
    # Names that do not exist are found before anything is computed.
    names = () if options.baselines is None else baseline_names(options.baselines)
    samplings = _samplings(runs[0].config, options)
    known = [ORIGINAL, *names]
    known += [at for name in (*warm_starts(runs), *(run.name for run in runs)) for at in names_at(name, samplings)]
    if options.reference is not None and options.reference not in known:
        raise PartnerError(f"--reference: there is no system {options.reference!r}, only {', '.join(known)}")
    clock, first = PhaseClock(), runs[0]
    # Raises where W&B's variables make no sense.
    wandb_mode(first.config.tracking)
    config, plan = place_on_this_machine(first.config)
    splits = load_splits(config)
    pairs = choose_pairs(splits.dev if options.split == "dev" else splits.test, config)
    judge = _judge(config)
    with ray_session(config, plan.for_scoring()), reward_pools(config, first.folder, plan) as pools:
        client = pools.client()
        with clock.phase("rewriting", "rewriting the held-out pairs"):
            systems = [originals(pairs.examples, config.env)]
            if names:
                systems += make_baselines(names, baseline_context(config, first.folder, pairs.examples, client))
            systems += policies(runs, pairs, samplings)
        sources = evaluation_sources(config, first.folder, client, judge)
        with clock.phase("scoring", "scoring the rewrites"), progress("Scoring") as report:
            result = evaluate_systems(
                systems,
                pairs.examples,
                sources,
                headline_N=pairs.headline_N,
                reference=options.reference,
                seed=config.seed,
                batch_size=config.evaluation.batch_size,
                progress=report,
            )
    about = _about(runs, config, result, options, clock)
    written = write_report(output, result, about)
    log_evaluation(first.folder.path, config, values_by_system(result))
    _print(result, about)
    if options.human_sheet is not None:
        _write_sheet(options.human_sheet, options.human_pairs, runs, result, config.seed)
    out.print(f"report: {written[0]}", soft_wrap=True)


def _judge(config: RunConfig) -> LevelJudge | None:
    """The held-out judge that the configuration names."""
    if config.evaluation.judge is None:
        return None
    return load_judge(Path(config.evaluation.judge), device_of(config), config.models.cache)


def _samplings(config: RunConfig, options: EvaluationOptions) -> list[Sampling]:
    """The ways to sample policies, at least one."""
    settings = config.evaluation
    if options.greedy:
        return [Sampling.greedy()]
    return [Sampling(at, settings.top_p, settings.top_k) for at in options.temperatures or (settings.temperature,)]


def _about(
    runs: Sequence[EvaluatedRun],
    config: RunConfig,
    result: EvaluationResult,
    options: EvaluationOptions,
    clock: PhaseClock,
) -> About:
    """What the report says besides the metrics."""
    settings, first = config.evaluation, runs[0].folder.path.resolve().name
    samplings = _samplings(config, options)
    temperatures = ", ".join(f"{sampling.temperature:g}" for sampling in samplings)
    sampled = f"temperature {temperatures}, top-p {settings.top_p:g}, top-k {settings.top_k}"
    labels = f"{len(result.examples)}, of which {result.headline.pairs} in the main table"
    facts = {
        "runs": ", ".join(run.folder.path.resolve().name for run in runs),
        "pairs": f"{labels}; {options.split} split of {short_name(config.data.source)}",
        "reward models": f"those of {first}, for every system",
        "held-out judge": "none" if settings.judge is None else short_name(settings.judge),
        "policies": "greedy" if options.greedy else f"sampled: {sampled}",
        "compared with": result.reference,
        "seed": str(config.seed),
    }
    return About(
        title=f"Evaluation of {facts['runs']}",
        facts=facts,
        remarks=_remarks(runs, result),
        targets={at: check_targets(result, at) for run in runs for at in names_at(run.name, samplings)}
        if options.targets
        else {},
        with_posts=options.with_posts,
        with_rewrites=not options.redact,
        seconds=clock.seconds,
        seed=config.seed,
    )


def _remarks(runs: Sequence[EvaluatedRun], result: EvaluationResult) -> list[str]:
    """What keeps the metrics from being taken at their word."""
    remarks = []
    if not result.judged:
        remarks.append(
            "No held-out judge took part: the change in empathy is by the classifier that policies were trained "
            "against. Give one with --judge."
        )
    apart = [run.name for run in runs if _split_of(run.config) != _split_of(runs[0].config)]
    if apart:
        remarks.append(
            f"{', '.join(apart)} split the corpus in another way than {runs[0].name}: "
            "they may have been trained on some of these pairs."
        )
    return remarks


def _split_of(config: RunConfig) -> tuple[str, float, float]:
    return config.data.split_salt, config.data.train_fraction, config.data.dev_fraction


def _print(result: EvaluationResult, about: About) -> None:
    out.print(printed_table(main_table(result.headline)))
    for system, results in about.targets.items():
        out.print(printed_table(targets_table(system, results)))
    for remark in about.remarks:
        out.print(remark, soft_wrap=True)


def _write_sheet(
    sheet: Path, pairs_each: int, runs: Sequence[EvaluatedRun], result: EvaluationResult, seed: int
) -> None:
    """A sheet of each trained policy against every other system."""
    trained = {run.name for run in runs}
    names = [scores.name for scores in result.scores]
    pairings = [pairing for pairing in combinations(names, 2) if trained.intersection(map(policy_of, pairing))]
    items = write_human_sheet(sheet, result, pairings, pairs_each, seed)
    out.print(f"{items} items for raters: {sheet}; the key, not for raters: {key_path(sheet)}", soft_wrap=True)


def baseline_context(
    config: RunConfig, run: RunFolder, pairs: Sequence[Example], client: ScoresRewrites
) -> BaselineContext:
    """What `make_baselines` needs of a run, whose configuration is placed on this machine.

    Raises:
        PartnerError: The base model cannot be found.
    """

    def rewrite(folder: Path, samples: int, report: Progress) -> list[list[ScoreRequest]]:
        return rewriter_of(exported_policy(folder, config), config, sampling_of(config)).sample(pairs, samples, report)

    given, seq2seq = config.warmstart.checkpoint, config.evaluation.seq2seq
    warm_start = run.warm_start if given is None else Path(given)
    return BaselineContext(
        pairs=pairs,
        config=config,
        base_model=resolve(config.models.policy, config.models.cache),
        warm_start=warm_start if warm_start.is_dir() else None,
        seq2seq=None if seq2seq is None else Path(seq2seq),
        client=client,
        rewrite=rewrite,
        device=device_of(config),
        seed=config.seed,
        progress=progress,
    )
