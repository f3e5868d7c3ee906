"""A sweep from beginning to end: what is shared, the trials that are left, the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Final

import torch
from pydantic import JsonValue

from launch.console import err, progress
from launch.interrupt import resumable_by
from launch.preflight.check_request import inputs_of_all
from launch.preflight.requirements import require_inputs
from launch.resources.plan import machine_cores
from launch.resources.session import ray_session
from launch.run_folder.lock import alone
from launch.sweep.opening import Sweep, record_inputs
from launch.sweep.remaining import RemainingTrials, remaining_trials
from launch.sweep.report import Session, SweepResult, write_report
from launch.sweep.sharing import make_shared, pooled_config
from launch.sweep.sizing import Sizing, on_gpus
from launch.sweep.trial import TrialSetup, run_trial
from launch.sweep.trial_records import SweepFolder
from launch.sweep.tuner import run_trials, set_up_tune
from launch.training.phases import reward_pools
from partner_rl.config.load import assignments, load_config
from partner_rl.storage.atomic import growing_folder, write_json
from partner_rl.types import PartnerError

_SESSIONS: Final = "sessions.json"


def run_sweep(sweep: Sweep, *, retry_failed: bool = False) -> SweepResult:
    """Runs what is left of a sweep and writes its report; arguments and errors as those of `run_remaining`."""
    run_remaining(sweep, retry_failed=retry_failed)
    folder = sweep.folder
    return write_report(folder, sweep.spec, folder.records(), _sessions(folder), sweep.incomparable)


def run_remaining(sweep: Sweep, *, retry_failed: bool = False) -> None:
    """Runs what is left of a sweep; `retry_failed` tries failed trials again.

    Raises:
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
        PartnerError: Another process runs this sweep, or nothing can be started.
    """
    folder = sweep.folder
    if remaining_trials(sweep, retry_failed=retry_failed).count:
        sweep.check_room()
        for config, request in inputs_of_all([sweep.config, *sweep.tried]):
            require_inputs(config, replace(request, output=folder.path))
    if not folder.base_file.exists():
        growing_folder(folder.path, folder.kind)
    with alone(folder.path, "running a sweep"), resumable_by(folder.resume_command):
        record_inputs(sweep)
        _run(sweep, remaining_trials(sweep, retry_failed=retry_failed))


def _run(sweep: Sweep, remaining: RemainingTrials) -> None:
    """Trains what is shared, starts Ray, and runs the trials."""
    if not remaining.count:
        err.print("every trial has ended: the report is written anew")
        return
    again = {point.name for point in remaining.pending}
    for record in remaining.known:
        if record.name in again and record.status != "running":
            sweep.folder.update(record.point, status="running", reason=None)
    set_up_tune()
    size, config = sweep.sized(remaining.count), sweep.placed
    err.print(size.session.table())
    torch.set_num_threads(config.resources.driver_threads or machine_cores())
    shared = make_shared(config, sweep.folder, sweep.share)
    _run_on_ray(sweep, remaining, size, shared)


def _run_on_ray(sweep: Sweep, remaining: RemainingTrials, size: Sizing, shared: Mapping[str, JsonValue]) -> None:
    """The time that Ray runs."""
    folder, spec, config = sweep.folder, sweep.spec, sweep.placed
    session, began, earlier = Session(0.0, size.concurrent), time.perf_counter(), _sessions(folder)
    with ExitStack() as stack:
        stack.enter_context(ray_session(config, size.session))
        setup = TrialSetup(
            folder=replace(folder, path=folder.path.absolute()),
            spec=spec,
            shared=shared,
            plan=size.plan,
            client=None,
            redact=config.tracking.redact,
            evaluates=sweep.evaluates,
        )
        if spec.share_rewards:
            loading = time.perf_counter()
            with_shared = load_config(str(folder.base_file), assignments(shared))
            pooled = pooled_config(spec, on_gpus(spec, with_shared, torch.cuda.device_count()))
            pools = stack.enter_context(reward_pools(pooled, folder.shared, size.plan))
            session = replace(session, shared_actors=pools.size, shared_seconds=time.perf_counter() - loading)
            setup = replace(setup, client=pools.spec)

        def note() -> None:
            _write_sessions(folder, [*earlier, replace(session, seconds=round(time.perf_counter() - began, 3))])

        stack.callback(note)
        show = stack.enter_context(progress("Trials"))

        def report(done: int, total: int) -> None:
            # Each time, because nobody knows when this process is killed.
            note()
            show(done, total)

        limit = size.concurrent if config.resources.address is None else spec.max_concurrent
        callback = run_trials(folder, remaining, partial(run_trial, setup), size.bundles, limit, report)
    callback.settle()


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
