"""A sweep from beginning to end: what is shared, the trials that are left, the report."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import ray
import torch
from pydantic import JsonValue

from launch.console import err, progress, typed_command
from launch.preflight.check_request import inputs_of_all, model_facts, run_request
from launch.preflight.disk import run_bytes
from launch.preflight.environment import require_environment
from launch.preflight.machine import local_machine
from launch.preflight.requirements import require_inputs
from launch.resources.memory import Shapes, run_memory
from launch.resources.plan import Plan, machine_cores, resource_plan
from launch.resources.session import ray_session
from launch.run_folder.fingerprints import (
    Fingerprints,
    allowed_changes,
    check_present,
    inputs_of,
    read_fingerprints,
    settings_of,
)
from launch.run_folder.folder import RunFolder
from launch.run_folder.lock import alone
from launch.sweep.report import Session, SweepResult, write_report
from launch.sweep.sizing import (
    LEARNED,
    Shares,
    Sizing,
    check_reservations,
    check_scorers,
    incomparable_objectives,
    on_gpus,
    pooled_config,
    shares,
    sizing,
    trials_in_memory,
)
from launch.sweep.space import checked_configs, config_maker, planned_points
from launch.sweep.spec import SweepSpec, read_spec, spec_yaml
from launch.sweep.trial import TrialSetup, run_trial
from launch.sweep.trial_records import SweepFolder
from launch.sweep.tuner import Work, run_trials, set_up_tune
from launch.training import phases
from launch.training.phases import load_splits
from partner_rl.config.inputs import NamedInput, input_paths
from partner_rl.config.load import assignments, load_config, save_config
from partner_rl.config.paths import Kind
from partner_rl.config.schema import RunConfig
from partner_rl.storage.atomic import growing_folder, write_json, write_text
from partner_rl.storage.fingerprint import fingerprint_of
from partner_rl.storage.outputs import GrowingFolder, check_outputs
from partner_rl.types import PartnerError
from rewards.pool import ClientSpec, create_pools
from rewards.registry import all_components


@dataclass(frozen=True, slots=True)
class SharedPool:
    """The reward actors that all trials use.

    Attributes:
        client: What a trial needs to know of them.
        seconds: Seconds until their models were loaded.
    """

    client: ClientSpec
    actors: int
    seconds: float


def make_shared(config: RunConfig, sweep: SweepFolder, share: Shares) -> dict[str, JsonValue]:
    """Trains what no swept key changes and the configuration names no checkpoint of, unless it is there.

    Returns:
        Configuration key → value, for all trials.
    """
    found = shared_keys(config, sweep, share)
    if not found:
        return found
    run = sweep.shared
    if not run.config_file.is_file():
        own = config.model_copy(update={"name": run.path.name, "runs_dir": str(sweep.path)})
        RunFolder.create(own, default_name=run.path.name)
    with run.resumable():
        splits = phases.load_splits(config)
        examples = phases.warm_start_examples(config, run, splits) if share.warm_start else None
        if share.reward_models:
            phases.train_reward_models(config, run, splits)
        if share.warm_start:
            phases.warm_start(config, run, examples)
    return found


def shared_keys(config: RunConfig, sweep: SweepFolder, share: Shares) -> dict[str, JsonValue]:
    """Configuration key → the checkpoint that all trials use, where the configuration names none."""
    folder, keys = sweep.shared.path.absolute(), dict[str, JsonValue]()
    if share.reward_models:
        for name in ("empathy", "coherence"):
            if getattr(config.rewards, name).checkpoint is None:
                keys[f"rewards.{name}.checkpoint"] = str(folder / "rewards" / name)
    if share.warm_start and config.warmstart.checkpoint is None:
        keys["warmstart.checkpoint"] = str(folder / "warm_start")
    return keys


@contextmanager
def shared_pool(spec: SweepSpec, config: RunConfig, sweep: SweepFolder, plan: Plan) -> Iterator[SharedPool]:
    """The shared reward actors, for the time of a block."""
    group = next(group for group in plan.groups if group.name.startswith("reward "))
    run_id = f"{sweep.path.name}-{ray.get_runtime_context().get_job_id()}"
    components = all_components(pooled_config(spec, config), sweep.shared.path)
    placed, began = config.resources.placement.share("rewards"), time.perf_counter()
    with progress("Starting the shared reward actors") as report:
        pools = create_pools(components, config.rewards, run_id, group.threads, report, resources=placed)
    with pools:
        actors = sum(len(pool.actors) for pool in pools.spec.pools.values())
        yield SharedPool(pools.spec, actors, time.perf_counter() - began)


logger = logging.getLogger(__name__)

KIND: Final = "sweep"
"""What a sweep's folder says that it is."""
_SESSIONS: Final = "sessions.json"
_COMPARED: Final = (
    "space",
    "search",
    "seed",
    "scheduler",
    "scheduler_metric",
    "evaluate_every",
    "grace_iterations",
    "reduction_factor",
    "pbt_quantile",
    "split",
)
"""Keys of a spec that decide which trials there are and how they compare."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep that was checked.

    Attributes:
        config: The configuration that trials change.
        incomparable: Swept key → objectives that are measured with what it changes: trials do not compare in them.
        tried: Configurations of the trials, or those with each swept key's extreme values where the trials are not
            known yet.
    """

    folder: SweepFolder
    spec: SweepSpec
    config: RunConfig
    incomparable: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tried: tuple[RunConfig, ...] = ()

    @property
    def placed(self) -> RunConfig:
        """The configuration, on this machine's GPUs if it has any."""
        return on_gpus(self.spec, self.config, torch.cuda.device_count())

    @property
    def _shapes(self) -> Shapes:
        """Sizes of the models, as far as they are here."""
        return {fact.key: fact.shape for fact in model_facts(self.config, run_request(self.config))}

    def sized(self, trials: int) -> Sizing:
        """The resources of that many trials."""
        config, cores, gpus = self.placed, machine_cores(), torch.cuda.device_count()
        plan = resource_plan(config, cores, gpus)
        needs = run_memory(config, plan, self._shapes)
        in_memory = trials_in_memory(self.spec, plan, needs, local_machine().free_memory)
        return sizing(self.spec, config, trials, cores, gpus, in_memory)

    def trial_bytes(self) -> int | None:
        """What a trial leaves on the disk; None where the policy's sizes are not known."""
        made, config, once = shares(self.spec), self.config, {"checkpoint": "shared"}
        rewards = {name: getattr(config.rewards, name).model_copy(update=once) for name in LEARNED}
        update = {
            "rewards": config.rewards.model_copy(update=rewards if made.reward_models else {}),
            "warmstart": config.warmstart.model_copy(update=once if made.warm_start else {}),
        }
        return run_bytes(config.model_copy(update=update), self._shapes)

    def check_room(self) -> None:
        """Refuses, before anything is computed or written, trials that there is no room for.

        Raises:
            PartnerError: There is no room for a single one, or the cluster cannot be reached.
        """
        require_environment(self.config)
        size = self.sized(1)
        if self.config.resources.address is not None:
            with ray_session(self.placed, size.session):
                pass


def new_sweep(name: str, overrides: tuple[str, ...], output: Path | None, num_samples: int | None) -> Sweep:
    """A sweep that has not begun; nothing is written.

    The name is a shipped spec's, or a YAML file; `num_samples` takes the place of the spec's, and without an output the
    folder is `runs/sweep-NAME`.

    Raises:
        PartnerError: The spec or a configuration is wrong, or the folder holds a sweep.
    """
    spec, title = read_spec(name)
    folder = SweepFolder(output or Path("runs") / f"sweep-{title}")
    if folder.spec_file.exists():
        raise PartnerError(
            f"{folder.path} holds a sweep: go on with `{folder.resume_command}`, or name another folder with --output"
        )
    sweep = _checked(folder, _with_samples(spec, num_samples), overrides)
    check_outputs([GrowingFolder(folder.path, KIND)], input_paths(sweep.config))
    return sweep


def open_sweep(path: Path, num_samples: int | None, overrides: tuple[str, ...] = ()) -> Sweep:
    """A sweep that was begun; nothing is written.

    `num_samples` takes the place of the spec's, to add trials.

    Raises:
        PartnerError: The folder holds no sweep, or one that is damaged; a key has changed that may not, or an input is
            gone.
    """
    folder = SweepFolder(path)
    if not folder.spec_file.is_file() or not folder.base_file.is_file():
        start = typed_command("sweep", "SPEC", "--output", path)
        raise PartnerError(f"{path} holds no sweep: start one with `{start}`")
    spec, _ = read_spec(str(folder.spec_file))
    sweep = _checked(folder, _with_samples(spec, num_samples), overrides)
    began = read_fingerprints(path)
    if began is not None:
        # Trials that were trained for longer do not compare with the others.
        allowed_changes(began, sweep.config, str(path), keeps=("algorithm.iterations",))
        _check_spec(began, spec, folder.spec_file)
    check_present(_inputs(sweep, began), folder.resume_command)
    return sweep


def _fingerprints_of_spec(spec: SweepSpec) -> dict[str, str]:
    """`sweep.KEY` → fingerprint, of the keys that decide which trials there are and how they compare."""
    values = spec.model_dump(mode="json")
    return {f"sweep.{key}": fingerprint_of([values[key]]) for key in _COMPARED}


def _check_spec(began: Fingerprints, spec: SweepSpec, file: Path) -> None:
    """Refuses a spec whose trials would be others than those that there are.

    Raises:
        PartnerError: A key has been changed.
    """
    for key, found in _fingerprints_of_spec(spec).items():
        if began.inputs.get(key, found) != found:
            name = key.removeprefix("sweep.")
            raise PartnerError(f"{file}: {name} was changed since the sweep began: put it back, or start another one")


def _inputs(sweep: Sweep, began: Fingerprints | None) -> list[NamedInput]:
    """What all trials read; of an input that is swept, each trial has its own."""
    changes = () if began is None else began.changes(sweep.config)
    swept = sweep.spec.space
    sweeps_corpus = any(key.startswith("data.") for key in swept)
    return [
        one
        for one in inputs_of(sweep.config, run_request(sweep.config).keys, changes)
        if one.key not in swept and not (one.kind is Kind.CORPUS and sweeps_corpus)
    ]


def settle(sweep: Sweep) -> None:
    """Compares what the trials depend on with what the sweep began with, and notes it.

    Raises:
        InputError: An input holds something else than at the beginning.
    """
    folder = sweep.folder
    began = read_fingerprints(folder.path)
    if began is None and folder.records():
        logger.warning("%s does not say what it began with: its data and models are taken as they are now", folder.path)
    inputs = _inputs(sweep, began)
    splits = load_splits(sweep.config) if any(one.kind is Kind.CORPUS for one in inputs) else None
    noted = (began or Fingerprints(settings_of(sweep.config), {})).followed_by(sweep.config, inputs, splits)
    save_config(sweep.config, folder.base_file)
    # From here on the folder's own file is what trials change.
    kept = sweep.spec.model_copy(update={"base": folder.base_file.name, "overrides": {}})
    write_text(folder.spec_file, spec_yaml(kept))
    Fingerprints(noted.settings, {**noted.inputs, **_fingerprints_of_spec(sweep.spec)}).save(folder.path)


def _with_samples(spec: SweepSpec, num_samples: int | None) -> SweepSpec:
    return spec if num_samples is None else spec.model_copy(update={"num_samples": num_samples})


def _checked(folder: SweepFolder, spec: SweepSpec, overrides: tuple[str, ...]) -> Sweep:
    """Checks every trial that is known before it starts."""
    config_of = config_maker(spec, overrides)
    # The base may be a run's; trials and the chosen configuration have names of their own.
    config = config_of({}).model_copy(update={"name": None})
    trials = list(checked_configs(spec, config_of, planned_points(spec)))
    check_reservations(trials, config)
    if shares(spec).pools:
        check_scorers(spec, config_of)
    return Sweep(folder, spec, config, incomparable_objectives(spec, config_of), tuple(config for _, config in trials))


def left_to_do(sweep: Sweep, *, retry_failed: bool = False) -> Work:
    """The trials that have not ended."""
    spec, known = sweep.spec, sweep.folder.records()
    going_on = {r.number: r for r in known if r.status == "running" or r.is_to_be_retried(all_failed=retry_failed)}
    planned = planned_points(spec)
    iterations = sweep.config.algorithm.iterations
    if planned is None:
        proposals = max(0, spec.num_samples - max((record.number for record in known), default=0))
        return Work(spec, known, [record.point for record in going_on.values()], proposals, iterations)
    ended = {record.number for record in known} - set(going_on)
    # With PBT a trial goes on with the weights that it has by now.
    pending = [going_on[p.number].point if p.number in going_on else p for p in planned if p.number not in ended]
    return Work(spec, known, pending, 0, iterations)


def run_sweep(sweep: Sweep, *, retry_failed: bool = False) -> SweepResult:
    """Runs what is left of a sweep and writes its report.

    Raises:
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
        PartnerError: Another process runs this sweep, or nothing can be started.
    """
    folder = sweep.folder
    if left_to_do(sweep, retry_failed=retry_failed).trials:
        sweep.check_room()
        for config, request in inputs_of_all([sweep.config, *sweep.tried]):
            require_inputs(config, replace(request, output=folder.path))
    if not folder.spec_file.exists():
        growing_folder(folder.path, KIND)
    with alone(folder.path, "running a sweep"):
        try:
            settle(sweep)
            _run(sweep, retry_failed=retry_failed)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"interrupted; go on with: {folder.resume_command}") from interrupt
        return write_report(folder, sweep.spec, folder.records(), _sessions(folder), sweep.incomparable)


def _run(sweep: Sweep, *, retry_failed: bool) -> None:
    """Trains what is shared, starts Ray, and runs the trials."""
    work = left_to_do(sweep, retry_failed=retry_failed)
    if not work.trials:
        err.print("every trial has ended: the report is written anew")
        return
    for record in work.known:
        if record.is_to_be_retried(all_failed=retry_failed):
            sweep.folder.write(record.model_copy(update={"status": "running", "reason": None}))
    set_up_tune()
    size, config = sweep.sized(work.trials), sweep.placed
    err.print(size.session.table())
    torch.set_num_threads(config.resources.driver_threads or machine_cores())
    fixed = make_shared(config, sweep.folder, shares(sweep.spec))
    _run_on_ray(sweep, work, size, fixed)


def _run_on_ray(sweep: Sweep, work: Work, size: Sizing, fixed: Mapping[str, JsonValue]) -> None:
    """The time that Ray runs."""
    folder, spec, config = sweep.folder, sweep.spec, sweep.placed
    session, began, earlier = Session(0.0, size.concurrent), time.perf_counter(), _sessions(folder)
    with ExitStack() as stack:
        stack.enter_context(ray_session(config, size.session))
        pool = None
        if spec.share_rewards:
            shared = on_gpus(spec, load_config(str(folder.base_file), assignments(fixed)), torch.cuda.device_count())
            pool = stack.enter_context(shared_pool(spec, shared, folder, size.plan))
            session = Session(0.0, size.concurrent, pool.actors, pool.seconds)
        setup = TrialSetup(
            folder=folder.path.absolute(),
            spec=spec,
            group=spec.group or folder.path.name,
            fixed=fixed,
            plan=size.plan,
            client=None if pool is None else pool.client,
            redact=config.tracking.redact,
        )

        def note() -> None:
            _write_sessions(folder, [*earlier, replace(session, seconds=round(time.perf_counter() - began, 3))])

        stack.callback(note)
        show = stack.enter_context(progress("Trials"))

        def report(done: int, total: int) -> None:
            # Each time, because nobody knows when this process is killed.
            note()
            show(done, total)

        limit = size.concurrent if config.resources.address is None else spec.max_concurrent
        watcher = run_trials(folder, work, partial(run_trial, setup), size.bundles, limit, report)
    watcher.settle()


def _write_sessions(folder: SweepFolder, sessions: Sequence[Session]) -> None:
    write_json(folder.path / _SESSIONS, [asdict(session) for session in sessions])


def _sessions(folder: SweepFolder) -> list[Session]:
    path = folder.path / _SESSIONS
    if not path.is_file():
        return []
    try:
        return [Session(**found) for found in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise PartnerError(f"{path} is damaged: remove it; only the seconds in the report come from it") from error
