"""The RL phase: iterations, tracking, checkpoints and Ctrl-C."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from ray.exceptions import RayError, RayTaskError

from launch.console import waiting_for
from launch.interrupt import stop_on_request
from launch.run_folder.folder import RunFolder, iterations_of
from launch.tracking import SampleRow, Tracker
from launch.training.guard_actions import GUARDS_STATE, GuardWatch, RollBack, Stop, decide
from launch.training.phases import export_policy
from launch.training.watchdog import Watchdog, WatchedActor, reward_candidates
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.build import to_algorithm_config
from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.algorithm.phase_tracker import CHECKPOINT, EVALUATE, EXPORT, LOG, STOP, PhaseTracker
from partner_rl.algorithm.state import TrainingState
from partner_rl.algorithm.trajectory import Iteration
from partner_rl.cluster.free_resources import free_resources
from partner_rl.cluster.object_store import full_store, is_full_store
from partner_rl.config.schema import RunConfig
from partner_rl.storage.full_disk import disk_of, when_there_is_room
from partner_rl.types import Example, PartnerError
from rewards.pool import RewardClient

logger = logging.getLogger(__name__)

LEARNER_RESTARTS: Final = 3
"""Restarts of the learners from one checkpoint before the run ends."""

AfterIteration = Callable[[int, RewriteAlgorithm], None]
"""Told the iteration, counted from 1, and the algorithm; what it raises ends the training."""


@dataclass
class Snapshot:
    """What remote learners know, in the driver's memory, where it outlives them; None above `limit_mib` MiB."""

    limit_mib: float
    state: TrainingState | None = None
    _is_kept: bool | None = None

    def take(self, algorithm: RewriteAlgorithm) -> None:
        """Keeps the present state, where there are remote learners and it is small enough."""
        if self._is_kept is None:
            self._is_kept = algorithm.config.num_learners > 0 and algorithm.training_state_mib() <= self.limit_mib
        if self._is_kept:
            self.state = algorithm.training_state()


@dataclass
class Throughput:
    """Episodes that the RL phase sampled in this process, and the seconds of their iterations."""

    episodes: int = 0
    seconds: float = 0.0

    @property
    def episodes_per_second(self) -> float | None:
        """Throughput, or None when a resumed run had nothing left to do."""
        return self.episodes / self.seconds if self.seconds else None


def train_policy(
    config: RunConfig,
    run: RunFolder,
    policy_folder: Path,
    pairs: Sequence[Example],
    client: RewardClient,
    *,
    resume: bool,
    after_iteration: AfterIteration | None = None,
) -> Throughput:
    """Trains to the last iteration, from the newest checkpoint if there is one, and exports the policy.

    Ctrl-C lets the iteration finish, writes a checkpoint and raises KeyboardInterrupt. Guards may stop the run or send
    it back to an earlier checkpoint (`launch.training.guard_actions`).

    Args:
        config: The run's configuration.
        run: The run folder.
        policy_folder: The policy that training starts from.
        pairs: The training pairs.
        client: Scores the rewrites.
        resume: Whether the run was started before: its metrics go on after its newest checkpoint, or from the start if
            it was stopped before the first one.
        after_iteration: Called after each iteration and its checkpoint, if it has one.

    Raises:
        PartnerError: A guard stopped the run, its checkpoints cannot be read, or a component fails.
    """
    # RLlib advises about the choice of its API stack, which is not the user's.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    # What a scorer answers depends, in the last digits, on what else is in its batch. A memory of earlier iterations
    # would change the batches, and a resumed run starts without one: so each call is scored anew.
    forgetful = RewardClient(replace(client.spec, cache_size=0))
    settings = to_algorithm_config(
        config, policy_folder=str(policy_folder.absolute()), score=forgetful.score, load_examples=lambda: pairs
    )
    phases = PhaseTracker()
    algorithms: list[RewriteAlgorithm] = []
    with Watchdog(phases, lambda: _candidates(client, algorithms), config.faults, run.path):
        algorithm = cast(RewriteAlgorithm, settings.build_algo())
        algorithm.phases = phases
        algorithms.append(algorithm)
        try:
            return _train_to_the_end(algorithm, config, run, resume, after_iteration)
        finally:
            phases.begin(STOP)
            algorithm.stop()  # type: ignore[no-untyped-call]


def _candidates(client: RewardClient, algorithms: Sequence[RewriteAlgorithm]) -> list[WatchedActor]:
    """The actors that the run may wait for."""
    workers = [WatchedActor(name, actor) for algorithm in algorithms for name, actor in algorithm.remote_actors()]
    return [*reward_candidates(client.spec), *workers]


def _train_to_the_end(
    algorithm: RewriteAlgorithm, config: RunConfig, run: RunFolder, resume: bool, after_iteration: AfterIteration | None
) -> Throughput:
    """All iterations, with what comes between: rollbacks and lost learners; then the export."""
    watch, throughput, snapshot = GuardWatch(config), Throughput(), Snapshot(config.faults.snapshot_mb)
    done = _restore(algorithm, run)
    watch.restore(algorithm.extra_state)
    resume_step = done if resume else None
    if resume_step == 0:
        logger.info("the run has no checkpoint yet: reinforcement learning begins at iteration 1")
    if done < config.algorithm.iterations:
        run.set_aside_results(done)
    restarts: list[int] = []
    while True:
        try:
            with Tracker(run.path, config, config.tracking, resume_step=resume_step) as tracker:
                back = _iterate(algorithm, tracker, config, run, done, watch, throughput, snapshot, after_iteration)
                if back is None:
                    algorithm.phases.begin(EXPORT)
                    _export(algorithm, config, run)
                    tracker.policy(run.export)
                    return throughput
        except RayError as error:
            done = resume_step = _replace_lost_learners(algorithm, run, watch, restarts, snapshot, error)
        else:
            done = resume_step = _roll_back(algorithm, run, watch, back, config)
            snapshot.take(algorithm)


def _export(algorithm: RewriteAlgorithm, config: RunConfig, run: RunFolder) -> None:
    policy = algorithm.policy_in_driver()
    when_there_is_room(lambda: export_policy(policy, config, run), disk_of(run.path), config.faults.room_wait_s)


def _iterate(
    algorithm: RewriteAlgorithm,
    tracker: Tracker,
    config: RunConfig,
    run: RunFolder,
    done: int,
    watch: GuardWatch,
    throughput: Throughput,
    snapshot: Snapshot,
    after_iteration: AfterIteration | None,
) -> RollBack | None:
    """Trains to the last iteration, or until a guard wants to go back."""
    with stop_on_request("finishing this iteration and saving") as stop_requested:
        for step in range(done + 1, config.algorithm.iterations + 1):
            iteration = _train_once(algorithm)
            algorithm.phases.begin(LOG)
            metrics = iteration_metrics(iteration, config.env.window)
            guard_metrics, alarms = watch.observe(step, iteration, metrics)
            algorithm.extra_state[GUARDS_STATE] = watch.state()
            # Before the metrics: an iteration that was logged is not lost with the learners.
            snapshot.take(algorithm)
            if tracker.wants(step):
                tracker.log(step, {**metrics, **guard_metrics}, _rows(iteration))
            watch.report(step, alarms, tracker)
            throughput.episodes += sum(len(group.trajectories) for group in iteration.groups)
            throughput.seconds += iteration.seconds["iteration"]
            verdict = decide(alarms, config.guards, step, algorithm.attempt)
            if isinstance(verdict, RollBack) and not stop_requested():
                return verdict
            last = step == config.algorithm.iterations or stop_requested() or isinstance(verdict, Stop)
            if last or step % config.checkpoint.every == 0:
                algorithm.phases.begin(CHECKPOINT)
                # The metrics up to here must outlive whatever the checkpoint outlives.
                tracker.sync()
                algorithm.save_training_state(run.checkpoint(step))
                tracker.checkpoint(step, run.checkpoint(step))
                if not watch.needs_old_checkpoints:
                    run.drop_old_checkpoints(config.checkpoint.keep, config.checkpoint.keep_every)
            if isinstance(verdict, Stop):
                raise PartnerError(verdict.reason)
            if stop_requested():
                raise KeyboardInterrupt
            if after_iteration is not None:
                algorithm.phases.begin(EVALUATE)
                after_iteration(step, algorithm)
    return None


def _roll_back(
    algorithm: RewriteAlgorithm, run: RunFolder, watch: GuardWatch, back: RollBack, config: RunConfig
) -> int:
    """Restores the newest good checkpoint and begins another attempt there; returns the iterations done."""
    done = _restore(algorithm, run, before=back.before)
    watch.restore(algorithm.extra_state)
    algorithm.start_attempt(back.attempt, config.guards.rollback_kl_factor)
    # A resume must go on with this attempt, not with the one that failed.
    algorithm.save_training_state(run.checkpoint(done))
    logger.warning("guard: back to iteration %d; rollback %d of %d", done, back.attempt, config.guards.max_rollbacks)
    return done


def _replace_lost_learners(
    algorithm: RewriteAlgorithm,
    run: RunFolder,
    watch: GuardWatch,
    restarts: list[int],
    snapshot: Snapshot,
    error: RayError,
) -> int:
    """Goes on with new learners, when some were lost with their process or node.

    They start from the state in the driver's memory, or else from the newest checkpoint.

    Args:
        algorithm: Its learners are replaced.
        run: The run folder.
        watch: Takes the checkpoint's state.
        restarts: The iterations done at each such restart so far; the new one is added.
        snapshot: The state in the driver's memory, if it is kept.
        error: What the driver saw; raised again when all learners are there.

    Returns:
        The iterations done.

    Raises:
        PartnerError: Learners were lost too often without a new checkpoint in between, Ray's object store is full, or
            a learner has something to say to the user.
    """
    if is_full_store(error):
        raise full_store() from error
    lost = algorithm.lost_learners()
    if not lost:
        # What a remote learner says to the user is not to arrive wrapped in its traceback.
        raise error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, PartnerError) else error
    logger.warning("%d of %d learners were lost: starting new ones", lost, algorithm.config.num_learners)
    with waiting_for(f"room for {algorithm.config.num_learners} learners", free_resources):
        algorithm.replace_learners()
    done = _restore(algorithm, run) if snapshot.state is None else algorithm.restore_state(snapshot.state)
    logger.info("going on after iteration %d", done)
    watch.restore(algorithm.extra_state)
    restarts.append(done)
    if restarts.count(done) > LEARNER_RESTARTS:
        raise PartnerError(
            f"learners were lost {restarts.count(done)} times after iteration {done}: see the Ray logs; lower "
            "algorithm.micro_batch_tokens if they ran out of memory, then resume the run"
        ) from error
    return done


def _train_once(algorithm: RewriteAlgorithm) -> Iteration:
    """One iteration, timed from outside, so that what RLlib does around the training step counts too."""
    start = time.perf_counter()
    algorithm.train()  # type: ignore[no-untyped-call]
    seconds = {**algorithm.last.seconds, "iteration": time.perf_counter() - start}
    return replace(algorithm.last, seconds=seconds)


def _restore(algorithm: RewriteAlgorithm, run: RunFolder, before: int | None = None) -> int:
    """Restores the newest checkpoint that can be read, and sets aside those that it passed over.

    With `before`, only checkpoints of fewer iterations count.

    Returns:
        The iterations that are done; 0 when the run was stopped before its first checkpoint.

    Raises:
        PartnerError: There are checkpoints, and none can be read; or there is none before the given iteration.
    """
    saved = [path for path in run.saved_checkpoints() if before is None or iterations_of(path) < before]
    for path in reversed(saved):
        try:
            done = algorithm.restore_training_state(path)
        except PartnerError as error:
            logger.warning("%s; trying the one before", error)
            continue
        logger.info("resuming after iteration %d", done)
        run.set_aside_checkpoints_after(done)
        return done
    if saved:
        raise PartnerError(
            f"none of the {len(saved)} checkpoints in {run.checkpoints} can be read: put a copy back, "
            "or start the RL phase again by removing that folder"
        )
    if before is not None:
        raise PartnerError(f"there is no checkpoint before iteration {before} to go back to: lower checkpoint.every")
    return 0


def _rows(iteration: Iteration) -> list[SampleRow]:
    """The first sample of each group, before and after."""
    firsts = [group.trajectories[0] for group in iteration.groups]
    return [
        SampleRow(
            t.request.seeker_post,
            t.request.original_response,
            t.request.rewritten_response,
            {"total": t.breakdown.total, **t.breakdown.weighted},
        )
        for t in firsts
    ]
