"""One trial: a run in its own folder, through the code of `partner-rl train`, with short evaluations."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import JsonValue
from ray import tune
from ray.exceptions import RayError, RayTaskError

from launch.preflight.check_request import run_request
from launch.resources.plan import DRIVER, Plan
from launch.run_folder.fingerprints import InputError, check_present, inputs_of
from launch.run_folder.folder import RunFolder
from launch.sweep.sizing import on_gpus
from launch.sweep.space import Point
from launch.sweep.spec import METRICS, SweepSpec
from launch.sweep.trial_records import SweepFolder, TrialEvaluation, TrialRecord, WeightsFrom
from launch.tracking.wandb_sink import log_evaluation
from launch.training import phases
from launch.training.held_out import evaluation_sources, held_out_pairs, rewrite_all, rewriter_of, sampling_of
from launch.training.phases import PhaseClock
from launch.training.run import prepare
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.config.load import assignments, load_config, save_config
from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import Splits
from partner_rl.evaluation.measure_systems import measure_systems
from partner_rl.evaluation.system import TRAINED, System
from partner_rl.evaluation.system_scores import score_pairs
from partner_rl.policy.model import Policy
from partner_rl.storage.atomic import folder_when_whole, write_json, write_text
from partner_rl.types import PartnerError
from rewards.pool import ClientSpec, PoolSpec, RewardClient
from rewards.registry import all_components


class TrialEvaluator:
    """Measures a trial's policy on held-out pairs, always the same ones."""

    def __init__(
        self,
        split: Literal["dev", "test"],
        config: RunConfig,
        run: RunFolder,
        splits: Splits,
        client: RewardClient,
        clock: PhaseClock,
    ) -> None:
        """Chooses the pairs and loads the sentence encoder."""
        self._pairs = held_out_pairs(splits.dev if split == "dev" else splits.test, config)
        self._config, self._clock = config, clock
        # A client of its own: the training's must not remember.
        self._sources = evaluation_sources(config, run, RewardClient(client.spec))

    def measure(self, policy: Policy) -> dict[str, float]:
        """Metric → value of a policy; raises PartnerError when one is no number."""
        with self._clock.phase("evaluation", "evaluation on held-out pairs"):
            rewriter = rewriter_of(policy, self._config, sampling_of(self._config))
            requests = [rewrite.request for rewrite in rewrite_all(rewriter, self._pairs)]
            scores = score_pairs(System(TRAINED, requests), self._sources, len(requests), with_self_bleu=False)
            (found,) = measure_systems([scores], intervals=False)
        return finite_metrics({key: estimate.value for key, estimate in found.metrics.items()})


def finite_metrics(found: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a trial among those of a system.

    Raises:
        PartnerError: One is infinite or NaN, which neither compares nor fits into JSON: the trial has failed.
    """
    metrics: dict[str, float] = {metric: found[metric] for metric in METRICS}
    for metric, value in metrics.items():
        if not math.isfinite(value):
            raise PartnerError(f"{metric} of the rewrites is {value}: the policy writes what cannot be measured")
    return metrics


ITERATIONS: Final = "iterations"
"""Key of the iterations done in what a trial reports."""
ENDED: Final = "ended"
"""Key of whether that is the trial's last report: schedulers have no say any more."""
POINTER: Final = "pointer.json"
"""A trial's checkpoint as Tune knows it: the trial and the iterations that its run folder has a checkpoint of."""
FREE_AFTER_S: Final = 90.0
"""Seconds that a trial waits for the process that had its run folder before."""
REASON_CHARACTERS: Final = 500
"""Longest reason of a failure in a record."""

Report = Callable[[TrialEvaluation], None]
"""Tells Tune of an evaluation, from which a scheduler decides whether the trial goes on."""


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """What all trials of a sweep have in common; plain data, to be sent to any process.

    Attributes:
        folder: The sweep's folder, by an absolute path.
        shared: Configuration key → checkpoint that all trials share, unless a trial's values have another.
        plan: The processes of a trial.
        client: The shared reward pool; None when each trial has its own.
        redact: Whether nothing that is written may quote a post.
        evaluates: Whether a trial is evaluated at its end.
    """

    folder: SweepFolder
    spec: SweepSpec
    shared: Mapping[str, JsonValue]
    plan: Plan
    client: ClientSpec | None
    redact: bool = False
    evaluates: bool = True


@dataclass(frozen=True, slots=True)
class Origin:
    """Another trial's checkpoint, by its iterations, that a trial's policy goes on from (PBT)."""

    trial: str
    iterations: int


def run_trial(setup: TrialSetup, config: Mapping[str, Any]) -> None:
    """Runs a trial in a process that Tune has started; what it reaches is written down before Tune hears of it.

    A trial that fails has the reason in its record, and has ended for Tune like any other: it is not tried again.
    Tune's `config` has the point under `trial`.
    """
    point, sweep = Point.from_config(config["trial"]), setup.folder
    try:
        last = _train(setup, sweep, point, _report, _origin(point.name))
    except KeyboardInterrupt:
        # The scheduler has stopped it; Tune expects the thread to end like this.
        sys.exit(0)
    except Exception as error:
        _write_failure(setup, sweep, point, error)
    else:
        _report(last, ended=True)


def _write_failure(setup: TrialSetup, sweep: SweepFolder, point: Point, error: Exception) -> None:
    """Notes why a trial failed, and the whole traceback where the error is not one that is meant for users."""
    reason, where = failure_reason(error, redact=setup.redact), sweep.traceback(point.name)
    if not setup.redact and not isinstance(_cause(error), PartnerError):
        write_text(where, "".join(traceback.format_exception(error)))
        reason = f"{reason} (see {where.relative_to(sweep.path)})"
    sweep.update(point, status="failed", reason=reason, transient=is_transient(error))


def is_transient(error: BaseException | None) -> bool:
    """Whether a trial failed through what lies outside of it, by the error or what led to it."""
    while error is not None:
        if isinstance(error, (InputError, OSError, RayError)) and not isinstance(error, RayTaskError):
            return True
        error = error.cause if isinstance(error, RayTaskError) else error.__cause__
    return False


def failure_reason(error: Exception, *, redact: bool) -> str:
    """Why a trial failed, in one line; with `redact` an error that may quote a post is named by its type alone."""
    cause = _cause(error)
    if isinstance(cause, PartnerError):
        text = str(cause)
    else:
        text = type(cause).__name__ if redact else f"{type(cause).__name__}: {cause}"
    return " ".join(text.split())[:REASON_CHARACTERS]


def _cause(error: Exception) -> Exception:
    """What was raised, without Ray's account of the actor that raised it."""
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error


def _train(
    setup: TrialSetup, sweep: SweepFolder, point: Point, report: Report, origin: Origin | None
) -> TrialEvaluation:
    """The phases of a run, from wherever the trial was stopped; returns the last evaluation."""
    config, clock, began = trial_config(setup, point), PhaseClock(), time.perf_counter()
    with ExitStack() as stack:
        run, resume = _claim(stack, sweep, config)
        # From here on the record is this process's alone, up to the end of the block.
        record = sweep.start(point)
        stack.callback(lambda: sweep.add_seconds(point, {**clock.seconds, "together": time.perf_counter() - began}))
        if setup.spec.scheduler == "pbt":
            sweep.write(_with_weights(sweep, record, run, origin))
        if origin is not None:
            _adopt(sweep, run, config, origin)
        _set_threads(setup.plan)
        check_present(inputs_of(config, run_request(config, resumed=run).keys), sweep.resume_command)
        evaluated_on = [setup.spec.split] if setup.evaluates else []
        prepared = prepare(config, run, clock, config, *evaluated_on)
        with clock.phase("reward actors", "reward actors"):
            client, actors = stack.enter_context(_client(setup, config, run))
        sweep.update(point, reward_actors=actors)
        evaluator = None
        if setup.evaluates:
            evaluator = TrialEvaluator(setup.spec.split, config, run, prepared.splits, client, clock)

        def evaluate(step: int, algorithm: RewriteAlgorithm) -> None:
            interval = setup.spec.evaluation_interval
            if evaluator and interval and step % interval == 0 and step < config.algorithm.iterations:
                found = TrialEvaluation(iterations=step, metrics=evaluator.measure(algorithm.policy_in_driver()))
                sweep.write(sweep.known_or_new(point).evaluated(found))
                _report_or_stop(report, found)

        prepared.reinforce(client, resume=resume, after_iteration=evaluate)
        metrics = {}
        if evaluator is not None:
            metrics = evaluator.measure(phases.exported_policy(run.export, config))
            log_evaluation(run.path, config, [{"system": TRAINED, **metrics}])
        last = TrialEvaluation(iterations=config.algorithm.iterations, metrics=metrics)
        sweep.write(sweep.known_or_new(point).evaluated(last).model_copy(update={"status": "finished"}))
        return last


def _report_or_stop(report: Report, found: TrialEvaluation) -> None:
    """Tells Tune of an evaluation. A stop is an interruption, to the run and to W&B, and no failure."""
    try:
        report(found)
    except SystemExit as stop:
        raise KeyboardInterrupt from stop


def trial_config(setup: TrialSetup, point: Point) -> RunConfig:
    """A trial's whole configuration.

    Raises:
        PartnerError: The values contradict each other.
    """
    config = load_config(str(setup.folder.base_file), assignments({**setup.shared, **point.values}))
    return own_config(config, setup.spec, setup.folder, point.name, setup.plan.machine_gpus)


def own_config(config: RunConfig, spec: SweepSpec, sweep: SweepFolder, name: str, machine_gpus: int) -> RunConfig:
    """A trial's configuration with what every trial has of its own: place, GPUs, checkpoints, W&B group."""
    config, interval = on_gpus(spec, config, machine_gpus), spec.evaluation_interval
    # A scheduler decides at evaluations, and goes back to them: each needs a checkpoint.
    every = config.checkpoint.every if interval is None else math.gcd(config.checkpoint.every, interval)
    # Another trial may go on from any of them until the sweep ends.
    keep_every = interval if spec.scheduler == "pbt" else config.checkpoint.keep_every
    checkpoint = config.checkpoint.model_copy(update={"every": every, "keep_every": keep_every})
    tracking = config.tracking.model_copy(update={"group": spec.group or sweep.path.name})
    own = {"name": name, "runs_dir": str(sweep.trials), "checkpoint": checkpoint, "tracking": tracking}
    return config.model_copy(update=own)


def _claim(stack: ExitStack, sweep: SweepFolder, config: RunConfig) -> tuple[RunFolder, bool]:
    """The trial's run folder, for this process alone; and whether the run was started before."""
    assert config.name is not None
    run = sweep.run(config.name)
    resume = run.config_file.is_file()
    if not resume:
        RunFolder.create(config, default_name=config.name)
    deadline = time.monotonic() + FREE_AFTER_S
    while True:
        try:
            stack.enter_context(run.resumable())
            return run, resume
        except PartnerError:
            # A process that Tune has stopped, or that died with its driver, may still be on its way out.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _set_threads(plan: Plan) -> None:
    driver = plan.group(DRIVER)
    assert driver is not None
    torch.set_num_threads(driver.threads)


# --- rewards ----------------------------------------------------------------------------------------------------------


@contextmanager
def _client(setup: TrialSetup, config: RunConfig, run: RunFolder) -> Iterator[tuple[RewardClient, int]]:
    """Scores the trial's rewrites, with actors of its own or the shared ones; and how many are its own."""
    if setup.client is not None:
        yield RewardClient(client_of(setup.client, config, run)), 0
        return
    with phases.reward_pools(config, run, setup.plan) as pools:
        yield pools.client(), pools.size


def client_of(shared: ClientSpec, config: RunConfig, run: RunFolder) -> ClientSpec:
    """The shared pool as one trial asks it: the actors answer raw scores, which the trial combines."""
    components, pools = all_components(config, run.path), dict[str, PoolSpec]()
    for name, component in components.items():
        if name in shared.pools:
            section = component.settings
            pools[name] = replace(
                shared.pools[name],
                definition=component.definition,
                micro_batch=section.micro_batch,
                is_active=section.is_active,
            )
    return replace(shared, pools=pools)


# --- Tune, and population-based training ------------------------------------------------------------------------------


def _report(found: TrialEvaluation, *, ended: bool = False) -> None:
    """Hands an evaluation to Tune, the last one as such; does not come back when the scheduler stops the trial."""
    name = tune.get_context().get_trial_name()
    with tempfile.TemporaryDirectory() as folder:
        pointer = {"trial": name, ITERATIONS: found.iterations}
        write_json(Path(folder) / POINTER, pointer)
        metrics = {**found.metrics, ITERATIONS: found.iterations, ENDED: int(ended)}
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def _origin(name: str) -> Origin | None:
    """The other trial's checkpoint that the scheduler wants this one to go on from."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        pointer = json.loads((Path(folder) / POINTER).read_text(encoding="utf-8"))
    return None if pointer["trial"] == name else Origin(pointer["trial"], pointer[ITERATIONS])


def _with_weights(sweep: SweepFolder, record: TrialRecord, run: RunFolder, origin: Origin | None) -> TrialRecord:
    """The record with the weights that its policy is trained with from now on, after those that it was."""
    weights = {key: float(value) for key, value in record.values.items() if isinstance(value, (int, float))}
    if origin is None:
        return record if record.weights else record.model_copy(update={"weights": (_from(1, weights),)})
    other = sweep.read(origin.trial)
    if other is None:
        raise PartnerError(f"{origin.trial} is gone, whose policy {run.path.name} was to go on from")
    return record.model_copy(update={"weights": lineage(other.weights, origin.iterations, weights)})


def lineage(before: Sequence[WeightsFrom], iterations: int, weights: Mapping[str, float]) -> tuple[WeightsFrom, ...]:
    """The weights that a policy was trained with: those of `before` up to some iterations, then `weights`."""
    kept = tuple(one for one in before if one.iteration <= iterations)
    return (*kept, _from(iterations + 1, weights))


def _from(iteration: int, weights: Mapping[str, float]) -> WeightsFrom:
    return WeightsFrom(iteration=iteration, weights=dict(weights))


def _adopt(sweep: SweepFolder, run: RunFolder, config: RunConfig, origin: Origin) -> None:
    """Makes another trial's checkpoint the newest one of a run, with the run's new weights."""
    source, target = (folder.checkpoint(origin.iterations) for folder in (sweep.run(origin.trial), run))
    if not source.is_dir():
        raise PartnerError(f"{source} is gone, which {run.path.name} was to go on from")
    run.set_aside_checkpoints_after(origin.iterations)
    with folder_when_whole(target) as folder:
        for path in source.iterdir():
            shutil.copy2(path, folder)
    save_config(config, run.config_file)
