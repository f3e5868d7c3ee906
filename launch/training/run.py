"""A training run from its corpus to its exported policy, for `train`, `quickstart` and the trials of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launch.console import err
from launch.resources.session import place_on_this_machine, ray_session
from launch.run_folder.folder import RunFolder
from launch.run_folder.reader import read_rows
from launch.tracking.curves import plot_curves
from launch.training import phases
from launch.training.phases import PhaseClock
from launch.training.resuming import record_inputs
from launch.training.rl_loop import AfterIteration, Throughput, train_policy
from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import SplitName, Splits
from rewards.pool import RewardClient


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run whose reward models and warm start are there."""

    config: RunConfig
    run: RunFolder
    splits: Splits
    policy_folder: Path
    clock: PhaseClock

    def reinforce(
        self, client: RewardClient, *, resume: bool, after_iteration: AfterIteration | None = None
    ) -> Throughput:
        """Trains by RL up to the export, and draws the curves; arguments as those of `train_policy`."""
        pairs = phases.rewritable(self.splits.train, self.config)
        with self.clock.phase("rl", "reinforcement learning"):
            throughput = train_policy(
                self.config,
                self.run,
                self.policy_folder,
                pairs,
                client,
                resume=resume,
                after_iteration=after_iteration,
            )
        plot_curves(read_rows(self.run.metrics), self.run.curves)
        return throughput


def prepare(
    config: RunConfig, run: RunFolder, clock: PhaseClock, chosen: RunConfig, *held_out: SplitName
) -> PreparedRun:
    """Everything before RL: the corpus, the reward models and the warm start, as far as the run folder lacks them.

    To be called inside of the run's lock.

    `chosen` is the configuration as the user chose it, which the run folder notes; `held_out` are the splits that the
    policy is evaluated on.

    Raises:
        InputError: An input holds something else than when the run began.
        PartnerError: The corpus leaves a phase without examples.
    """
    splits = phases.load_splits(config)
    record_inputs(run, chosen, splits)
    phases.require_rewritable(config, splits, *held_out)
    # Found out first: a corpus that gives no example must not cost the training of reward models.
    examples = phases.warm_start_examples(config, run, splits)
    with clock.phase("rewards", "training the reward models"):
        phases.train_reward_models(config, run, splits)
    with clock.phase("warm_start", "warm start of the policy"):
        policy_folder = phases.warm_start(config, run, examples)
    return PreparedRun(config, run, splits, policy_folder, clock)


def train(config: RunConfig, run: RunFolder, *, resume: bool) -> None:
    """Trains a run up to its export; `resume` tells whether it was started before."""
    placed, plan = place_on_this_machine(config, scores_all=False)
    err.print(plan.table())
    with run.resumable():
        prepared = prepare(placed, run, PhaseClock(), config)
        with ray_session(placed, plan), phases.reward_pools(placed, run, plan) as pools:
            prepared.reinforce(pools.client(), resume=resume)
