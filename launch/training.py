"""The RL phase: iterations, tracking, checkpoints and Ctrl-C."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from launch.interrupt import stop_on_request
from launch.pipeline import export_policy
from launch.run_folder import RunFolder
from launch.tracking import SampleRow, Tracker
from partner_rl.algorithm.algorithm import Iteration, RewriteAlgorithm
from partner_rl.algorithm.config import to_algorithm_config
from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.config.schema import RunConfig
from partner_rl.types import Example, PartnerError
from rewards.pool import RewardClient

logger = logging.getLogger(__name__)


@dataclass
class Throughput:
    """What the RL phase did in this process.

    Attributes:
        episodes: Episodes sampled.
        seconds: Seconds of the iterations.
    """

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
) -> Throughput:
    """Trains to the last iteration, from the newest checkpoint if there is one, and exports the policy.

    Ctrl-C lets the iteration finish, writes a checkpoint and raises KeyboardInterrupt.

    Args:
        config: The run's configuration.
        run: The run folder.
        policy_folder: The policy that training starts from.
        pairs: The training pairs.
        client: Scores the rewrites.
        resume: Whether the run was started before: its figures go on after its newest checkpoint, or from the start if
            it was stopped before the first one.
    """
    # RLlib advises about the choice of its API stack, which is not the user's.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    settings = to_algorithm_config(
        config, policy_folder=str(policy_folder.absolute()), score=client.score, load_examples=lambda: pairs
    )
    algorithm = cast(RewriteAlgorithm, settings.build_algo())
    try:
        done = _restore(algorithm, run)
        with Tracker(run.path, config, config.tracking, resume_step=done if resume else None) as tracker:
            throughput = _iterate(algorithm, tracker, config, run, done)
            export_policy(algorithm.policy_in_driver(), config, run)
        return throughput
    finally:
        algorithm.stop()  # type: ignore[no-untyped-call]


def _iterate(algorithm: RewriteAlgorithm, tracker: Tracker, config: RunConfig, run: RunFolder, done: int) -> Throughput:
    throughput = Throughput()
    with stop_on_request("finishing this iteration and saving") as stop_requested:
        for step in range(done + 1, config.algorithm.iterations + 1):
            iteration = _train_once(algorithm)
            _log(tracker, step, iteration, config)
            throughput.episodes += sum(len(group.trajectories) for group in iteration.groups)
            throughput.seconds += iteration.seconds["iteration"]
            last = step == config.algorithm.iterations or stop_requested()
            if last or step % config.checkpoint.every == 0:
                algorithm.save_training_state(run.checkpoint(step))
                run.drop_old_checkpoints(config.checkpoint.keep)
            if stop_requested():
                raise KeyboardInterrupt
    return throughput


def _train_once(algorithm: RewriteAlgorithm) -> Iteration:
    """One iteration, timed from outside, so that what RLlib does around the training step counts too."""
    start = time.perf_counter()
    algorithm.train()  # type: ignore[no-untyped-call]
    seconds = {**algorithm.last.seconds, "iteration": time.perf_counter() - start}
    return replace(algorithm.last, seconds=seconds)


def _restore(algorithm: RewriteAlgorithm, run: RunFolder) -> int:
    """Restores the newest checkpoint that can be read; returns the iterations done."""
    for path in reversed(run.saved_checkpoints()):
        try:
            done = algorithm.restore_training_state(path)
        except PartnerError as error:
            logger.warning("%s; trying the one before", error)
            continue
        logger.info("resuming after iteration %d", done)
        return done
    return 0


def _log(tracker: Tracker, step: int, iteration: Iteration, config: RunConfig) -> None:
    if tracker.wants(step):
        tracker.log(step, iteration_metrics(iteration, config.env.window), _rows(iteration))


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
