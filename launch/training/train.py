"""The phases of a training run, from the corpus to the export."""

from __future__ import annotations

from launch.console import err
from launch.run_folder.folder import RunFolder
from launch.training.phases import PhaseClock
from partner_rl.config.schema import RunConfig


def train(config: RunConfig, run: RunFolder, *, resume: bool) -> None:
    """Runs all phases up to the export; `resume` tells whether the run was started before."""
    from launch.resources.session import place_on_this_machine, ray_session
    from launch.tracking.curves import plot_curves, read_metrics
    from launch.training import phases
    from launch.training.resuming import settle
    from launch.training.rl_loop import train_policy

    clock = PhaseClock()
    chosen = config
    config, plan = place_on_this_machine(config, scores_all=False)
    err.print(plan.table())
    with run.resumable():
        splits = phases.load_splits(config)
        settle(run, chosen, splits)
        phases.require_rewritable(config, splits)
        examples = phases.warm_start_examples(config, run, splits)
        with clock.phase("rewards", "training the reward models"):
            phases.train_reward_models(config, run, splits)
        with clock.phase("warm_start", "warm start"):
            policy_folder = phases.warm_start(config, run, examples)
        with ray_session(config, plan), phases.reward_pools(config, run, plan) as pools:
            pairs = phases.rewritable(splits.train, config)
            with clock.phase("rl", "reinforcement learning"):
                train_policy(config, run, policy_folder, pairs, pools.client(), resume=resume)
    plot_curves(read_metrics(run.metrics), run.curves)
