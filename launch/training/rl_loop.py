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
from launch.tracking.sink import SampleRow
from launch.tracking.tracker import Tracker
from launch.training.guard_actions import GUARDS_STATE, GuardWatch, RollBack, Stop, decide
from launch.training.phases import export_policy
from launch.training.watchdog import Watchdog, WatchedActor, watched_reward_actors
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.build import to_algorithm_config
from partner_rl.algorithm.guards import Alarm
from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.algorithm.phase_tracker import CHECKPOINT, EVALUATE, EXPORT, LOG, STOP, PhaseTracker
from partner_rl.algorithm.state import TrainingState
from partner_rl.algorithm.trajectory import Iteration
from partner_rl.cluster.nodes import free_resources
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
    with Watchdog(phases, lambda: _watched_actors(client, algorithms), config.faults, run.path):
        algorithm = cast(RewriteAlgorithm, settings.build_algo())
        algorithm.phases = phases
        algorithms.append(algorithm)
        try:
            return TrainingLoop(algorithm, config, run, after_iteration).train(resume=resume)
        finally:
            phases.begin(STOP)
            algorithm.stop()  # type: ignore[no-untyped-call]


def _watched_actors(client: RewardClient, algorithms: Sequence[RewriteAlgorithm]) -> list[WatchedActor]:
    """The actors that the run may wait for."""
    workers = [WatchedActor(name, actor) for algorithm in algorithms for name, actor in algorithm.remote_actors()]
    return [*watched_reward_actors(client.spec), *workers]


class TrainingLoop:
    """All iterations of a run, with what comes between them, rollbacks and lost learners; then the export."""

    def __init__(
        self,
        algorithm: RewriteAlgorithm,
        config: RunConfig,
        run: RunFolder,
        after_iteration: AfterIteration | None = None,
    ) -> None:
        self._algorithm, self._config, self._run = algorithm, config, run
        self._after_iteration = after_iteration
        self._watch, self._throughput = GuardWatch(config), Throughput()
        self._snapshot = Snapshot(config.faults.snapshot_mb)
        self._restarts: list[int] = []

    def train(self, *, resume: bool) -> Throughput:
        """Trains to the last iteration, from the newest checkpoint if there is one, and exports the policy."""
        done = self._restore()
        resume_step = done if resume else None
        if resume_step == 0:
            logger.info("the run has no checkpoint yet: reinforcement learning begins at iteration 1")
        if done < self._config.algorithm.iterations:
            self._run.set_aside_results(done)
        while True:
            try:
                with Tracker(self._run.path, self._config, self._config.tracking, resume_step=resume_step) as tracker:
                    back = self._iterate(tracker, done)
                    if back is None:
                        self._export(tracker)
                        return self._throughput
            except RayError as error:
                done = resume_step = self.replace_lost_learners(error)
            else:
                done = resume_step = self._roll_back(back)
                self._snapshot.take(self._algorithm)

    def _iterate(self, tracker: Tracker, done: int) -> RollBack | None:
        """Trains to the last iteration, or until a guard wants to go back."""
        algorithm, iterations = self._algorithm, self._config.algorithm.iterations
        with stop_on_request("finishing this iteration and saving") as stop_requested:
            for step in range(done + 1, iterations + 1):
                alarms = self._log(tracker, step, _train_once(algorithm))
                verdict = decide(alarms, self._config.guards, step, algorithm.attempt)
                if isinstance(verdict, RollBack) and not stop_requested():
                    return verdict
                last = step == iterations or stop_requested() or isinstance(verdict, Stop)
                if last or step % self._config.checkpoint.every == 0:
                    self._save(tracker, step)
                if isinstance(verdict, Stop):
                    raise PartnerError(verdict.reason)
                if stop_requested():
                    raise KeyboardInterrupt
                if self._after_iteration is not None:
                    algorithm.phases.begin(EVALUATE)
                    self._after_iteration(step, algorithm)
        return None

    def _log(self, tracker: Tracker, step: int, iteration: Iteration) -> tuple[Alarm, ...]:
        """Shows an iteration to the guards and logs it; returns the alarms."""
        algorithm = self._algorithm
        algorithm.phases.begin(LOG)
        metrics = iteration_metrics(iteration, self._config.env.window)
        guard_metrics, alarms = self._watch.observe(step, iteration, metrics)
        algorithm.extra_state[GUARDS_STATE] = self._watch.state()
        # Before the metrics: an iteration that was logged is not lost with the learners.
        self._snapshot.take(algorithm)
        if tracker.wants(step):
            tracker.log(step, {**metrics, **guard_metrics}, _rows(iteration))
        self._watch.report(step, alarms, tracker)
        self._throughput.episodes += sum(len(group.trajectories) for group in iteration.groups)
        self._throughput.seconds += iteration.seconds["iteration"]
        return alarms

    def _save(self, tracker: Tracker, step: int) -> None:
        folder = self._run.checkpoint(step)
        self._algorithm.phases.begin(CHECKPOINT)
        # The metrics up to here must outlive whatever the checkpoint outlives.
        tracker.sync()
        self._algorithm.save_training_state(folder)
        tracker.checkpoint(step, folder)
        if not self._watch.needs_old_checkpoints:
            self._run.drop_old_checkpoints(self._config.checkpoint.keep, self._config.checkpoint.keep_every)

    def _export(self, tracker: Tracker) -> None:
        self._algorithm.phases.begin(EXPORT)
        policy, config, run = self._algorithm.policy_in_driver(), self._config, self._run
        when_there_is_room(lambda: export_policy(policy, config, run), disk_of(run.path), config.faults.room_wait_s)
        tracker.policy(run.export)

    def _roll_back(self, back: RollBack) -> int:
        """Restores the newest good checkpoint and begins another attempt there; returns the iterations done."""
        done, settings = self._restore(before=back.before), self._config.guards
        self._algorithm.start_attempt(back.attempt, settings.rollback_kl_factor)
        # A resume must go on with this attempt, not with the one that failed.
        self._algorithm.save_training_state(self._run.checkpoint(done))
        logger.warning("guard: back to iteration %d; rollback %d of %d", done, back.attempt, settings.max_rollbacks)
        return done

    def replace_lost_learners(self, error: RayError) -> int:
        """Goes on with new learners, when some were lost with their process or node.

        They start from the state in the driver's memory, or else from the newest checkpoint. When all learners are
        there, the error is raised again.

        Returns:
            The iterations done.

        Raises:
            PartnerError: Learners were lost too often without a new checkpoint in between, Ray's object store is full,
                or a learner has something to say to the user.
        """
        if is_full_store(error):
            raise full_store() from error
        algorithm, restarts = self._algorithm, self._restarts
        lost = algorithm.lost_learners()
        if not lost:
            # What a remote learner says to the user is not to arrive wrapped in its traceback.
            raise error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, PartnerError) else error
        logger.warning("%d of %d learners were lost: starting new ones", lost, algorithm.config.num_learners)
        with waiting_for(f"room for {algorithm.config.num_learners} learners", free_resources):
            algorithm.replace_learners()
        done = self._restore(self._snapshot.state)
        logger.info("going on after iteration %d", done)
        restarts.append(done)
        if restarts.count(done) > LEARNER_RESTARTS:
            raise PartnerError(
                f"learners were lost {restarts.count(done)} times after iteration {done}: see the Ray logs; lower "
                "algorithm.micro_batch_tokens if they ran out of memory, then resume the run"
            ) from error
        return done

    def _restore(self, state: TrainingState | None = None, before: int | None = None) -> int:
        """Restores a state, or else the newest checkpoint, and the guards; returns the iterations done."""
        algorithm = self._algorithm
        done = restore_newest(algorithm, self._run, before) if state is None else algorithm.restore_state(state)
        self._watch.restore(algorithm.extra_state)
        return done


def _train_once(algorithm: RewriteAlgorithm) -> Iteration:
    """One iteration, timed from outside, so that what RLlib does around the training step counts too."""
    start = time.perf_counter()
    algorithm.train()  # type: ignore[no-untyped-call]
    seconds = {**algorithm.last.seconds, "iteration": time.perf_counter() - start}
    return replace(algorithm.last, seconds=seconds)


def restore_newest(algorithm: RewriteAlgorithm, run: RunFolder, before: int | None = None) -> int:
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
