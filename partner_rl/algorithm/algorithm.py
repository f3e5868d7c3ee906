"""The training iteration: sample → score → advantage → update → sync.

How to run: `partner-rl train --preset smoke`. Results to expect: with the toy reward of
`tests/algorithm/test_training.py` the mean reward of a tiny model rises within a minute.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from partner_rl import metric_names as names
from partner_rl.algorithm.advantages.estimator import Array
from partner_rl.algorithm.batch import minibatches, to_rllib, training_groups
from partner_rl.algorithm.data_order import examples_of_iteration
from partner_rl.algorithm.kl_control import KlController
from partner_rl.algorithm.phase_tracker import SAMPLE, SYNC, UPDATE, PhaseTracker
from partner_rl.algorithm.reward_signal import RewardSignal
from partner_rl.algorithm.rllib_config import RewriteConfig
from partner_rl.algorithm.rllib_internals import FolderlessAlgorithm, env_runner_actors, kill_learners, learner_actors
from partner_rl.algorithm.state import TrainingState
from partner_rl.algorithm.trajectory import Iteration, Rollout, SampledGroup
from partner_rl.algorithm.update_metrics import GAP_LIMITS, StepMetrics, update_metrics
from partner_rl.algorithm.workers import EnvRunners, lost_learners, on_each_learner, weights_for_sampling
from partner_rl.cluster import ray_metrics
from partner_rl.policy.model import Policy
from partner_rl.policy.module import RewriteModule, load_trained_policy
from partner_rl.types import Example, PartnerError

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.env_runner_group import EnvRunnerGroup
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger


class RewriteAlgorithm(FolderlessAlgorithm):
    """Policy gradient over groups of rewrites."""

    config: RewriteConfig
    last: Iteration
    # The number of this attempt: rollbacks so far.
    attempt: int
    # What others want saved with the training state and back when it is restored, by owner, as JSON.
    extra_state: dict[str, Any]
    # The driver's phases; whoever watches them may put a tracker of its own in this place.
    phases: PhaseTracker
    # Optional in RLlib; `setup` always makes them.
    env_runner_group: EnvRunnerGroup
    learner_group: LearnerGroup
    metrics: MetricsLogger

    @classmethod
    def get_default_config(cls) -> RewriteConfig:
        """RLlib's hook."""
        return RewriteConfig(cls)

    def setup(self, config: Any) -> None:
        """Builds env runners and learners; env runners start from the learner's weights."""
        super().setup(config)
        self._examples = list(self.config.load_examples())
        if not self._examples:
            raise PartnerError("no training pair is left: check data.source, data.max_empathy and data.train_fraction")
        run = self.config.run
        settings = run.algorithm
        self._reward_signal = RewardSignal(settings, run.rewards)
        self._kl = KlController(settings.kl_coeff, settings.kl_target, settings.kl_horizon)
        self._next_iteration = 0
        self.attempt = 0
        self.extra_state = {}
        self.phases = PhaseTracker()
        self._beginning = copy.deepcopy(self._extra())
        self._env_runners = EnvRunners(self.env_runner_group, self._weights_for_sampling, run.faults.room_wait_s)
        if self._shares_module():
            self.env_runner.module = self._local_module()
        self._sync_weights()

    def _shares_module(self) -> bool:
        return self.config.num_env_runners == 0 and self.config.num_learners == 0

    def _local_module(self) -> RewriteModule:
        """The module of the driver's own learner."""
        modules: list[RewriteModule] = on_each_learner(self.learner_group, lambda one: one.module[DEFAULT_MODULE_ID])
        return modules[0]

    def training_step(self) -> None:
        """One iteration; its result is left in `self.last`."""
        started = time.perf_counter()
        settings, seed = self.config.run.algorithm, self.config.run.seed
        self.phases.begin(SAMPLE, self._next_iteration + 1)
        examples = examples_of_iteration(self._examples, settings.groups_per_iteration, self._next_iteration, seed)

        rollouts = self._sample(examples)
        groups = [group for rollout in rollouts for group in rollout.groups]

        batch = self._reward_signal.advantages(groups, self._next_iteration + 1)

        update_started = time.perf_counter()
        metrics = self._update(batch.groups, batch.advantages_GK)
        kl_coeff = self._steer_kl(metrics[names.POLICY_KL_SENTENCE])

        sync_started = time.perf_counter()
        self.phases.begin(SYNC)
        self._sync_weights()
        ended = time.perf_counter()

        seconds = {
            "generate": max(r.generate_s for r in rollouts),
            "score": max(r.score_s for r in rollouts),
            "overlap": max(r.overlap_s for r in rollouts),
            "update": sync_started - update_started,
            "sync": ended - sync_started,
            "iteration": ended - started,
        }
        self.last = Iteration(self._next_iteration, batch, metrics, seconds, kl_coeff)
        self._record_ray_metrics()
        self._next_iteration += 1

    def _record_ray_metrics(self) -> None:
        for phase, seconds in self.last.seconds.items():
            ray_metrics.record(ray_metrics.PHASE_SECONDS, phase, seconds)
        episodes = sum(len(group.trajectories) for group in self.last.groups)
        ray_metrics.record(ray_metrics.EPISODES, self.config.run.algorithm.advantage, episodes)

    def _sample(self, examples: Sequence[Example]) -> list[Rollout]:
        """Samples all groups, shared out over the env runners in order."""
        count = max(1, self.config.num_env_runners)
        size = len(examples) // count
        shards: list[dict[str, Any]] = [
            {
                "examples": examples[shard * size : (shard + 1) * size],
                "samples_per_group": self.config.run.algorithm.samples_per_group,
                # An attempt after a rollback draws other samples.
                "seed": (self.config.run.seed, self._next_iteration, shard, self.attempt),
                "greedy_baseline": self._reward_signal.needs_greedy,
            }
            for shard in range(count)
        ]
        if self.config.num_env_runners == 0:
            return [self.env_runner.sample(**shard) for shard in shards]
        return self._env_runners.sample(shards, self._next_iteration, on_retry=lambda: self.phases.begin(SAMPLE))

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """RLlib's hook before an iteration, which does not wait for lost env runners: others sample their groups."""
        return self._env_runners.take_back()

    def _update(self, groups: Sequence[SampledGroup], advantages_GK: Array) -> dict[str, float]:
        """All optimizer steps of an iteration; returns what the learners measured."""
        settings, run = self.config.run.algorithm, self.config.run
        size = settings.minibatch_groups or len(groups)
        steps = []
        for part in minibatches(len(groups), size, settings.epochs, run.seed, self._next_iteration):
            steps.append(self._step([groups[g] for g in part], advantages_GK[part]))
            if len(steps) == 1:
                self._check_gap(steps[0])
        return update_metrics(steps)

    def _step(self, groups: Sequence[SampledGroup], advantages_GK: Array) -> list[StepMetrics]:
        """Shares whole groups out over the learners for one optimizer step; returns what each of them measured."""
        self.phases.begin(UPDATE)
        learners = max(1, self.config.num_learners)
        size = len(groups) // learners
        batches = [
            to_rllib(training_groups(groups[part], advantages_GK[part]), sum(len(g.trajectories) for g in groups[part]))
            for part in (slice(i * size, (i + 1) * size) for i in range(learners))
        ]
        data = TrainingData(batches=batches) if self.config.num_learners else TrainingData(batch=batches[0])
        results = self.learner_group.update(
            training_data=data,
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self._next_iteration * len(groups)},
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        # Not through RLlib's metrics, which average over learners and give running means.
        measured: list[StepMetrics] = on_each_learner(self.learner_group, lambda learner: learner.step_metrics)
        return measured

    def _check_gap(self, measured: Sequence[StepMetrics]) -> None:
        """Stops the run when sampler and learner do not agree about what was sampled.

        Raises:
            PartnerError: They do not; it says whether by rounding or because they hold different weights.
        """
        odd = next((one for one in measured if one.weights_digest is not None), None)
        if odd is None or odd.gap is None:
            return
        # Where both are one module, the learner has moved on, but what it updated is what was sampled with.
        same = self._shares_module() or set(self._sampler_digests()) == {odd.weights_digest}
        dtype = self.config.run.policy.dtype
        why = GAP_LIMITS[dtype].explain(odd.gap, dtype, same_weights=same)
        raise PartnerError(f"iteration {self._next_iteration}: {why}")

    def _sampler_digests(self) -> list[str]:
        """Digests of the weights that the env runners sample with."""
        digests: list[str] = self.env_runner_group.foreach_env_runner(
            _weights_digest, local_env_runner=self.env_runner is not None
        )
        return digests

    def _steer_kl(self, kl: float) -> float:
        """Adapts the weight of the penalty to the divergence of an action; returns the one that was used."""
        used = self._kl.coefficient
        self._kl.update(kl)
        if self._kl.adaptive:
            self._set_kl_coeff()
        return used

    def _set_kl_coeff(self) -> None:
        coefficient = self._kl.coefficient
        on_each_learner(self.learner_group, lambda learner: learner.set_kl_coeff(coefficient))

    def start_attempt(self, attempt: int, kl_factor: float) -> None:
        """Another try from the present state, after a rollback: other samples, and a KL penalty that weighs more.

        The run began as attempt 0. `kl_factor` multiplies the weight of the KL penalty, once for each attempt since
        that of the present state.
        """
        self._kl.scale(kl_factor ** (attempt - self.attempt))
        self._set_kl_coeff()
        self.attempt = attempt

    def _sync_weights(self) -> None:
        """Brings the learner's weights to whoever samples."""
        if self.config.num_env_runners:
            self._env_runners.sync_weights()
        elif not self._shares_module():
            self.env_runner.set_state({COMPONENT_RL_MODULE: self._weights_for_sampling()})

    def _weights_for_sampling(self) -> Any:
        return weights_for_sampling(self.learner_group)

    def policy_in_driver(self) -> Policy:
        """A policy with the learner's current weights, in the driver's memory; for export and evaluation."""
        if self.config.num_learners == 0:
            return self._local_module().policy
        weights, _ = self._learner_state()
        run = self.config.run
        return load_trained_policy(self.config.policy_folder, run.policy, run.env.window, weights)

    def _learner_state(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        state: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
        state = on_each_learner(self.learner_group, lambda learner: learner.training_state())[0]
        return state

    def save_training_state(self, folder: Path) -> None:
        """Writes what an exact resume needs (see `partner_rl.algorithm.state`)."""
        self.training_state().save(folder, self.config.run.faults.room_wait_s)

    def training_state(self) -> TrainingState:
        """What an exact resume needs, in the driver's memory."""
        weights, optimizer_state = self._learner_state()
        return TrainingState(self._next_iteration, copy.deepcopy(self._extra()), weights, optimizer_state)

    def training_state_mib(self) -> float:
        """MiB of `training_state`: the trained parameters and AdamW's two moments of each."""
        numbers: list[int] = on_each_learner(self.learner_group, lambda learner: learner.trained_numbers())
        return 12 * max(numbers) / 2**20

    def _extra(self) -> dict[str, Any]:
        """What changes from iteration to iteration besides tensors, as JSON."""
        return {
            "signal": self._reward_signal.state(),
            "kl": self._kl.state(),
            "attempt": self.attempt,
            "extra_state": dict(self.extra_state),
        }

    def _take_extra(self, extra: Mapping[str, Any], iterations: int) -> None:
        self._reward_signal.restore(extra["signal"])
        self._kl.restore(extra["kl"])
        self._set_kl_coeff()
        self.attempt = int(extra["attempt"])
        self.extra_state = dict(extra["extra_state"])
        self._next_iteration = iterations

    def restore_training_state(self, folder: Path) -> int:
        """Takes a saved state back and returns the number of iterations that it has behind it.

        Raises:
            PartnerError: It cannot be read, or is that of another configuration.
        """
        state = TrainingState.load(folder)
        try:
            return self.restore_state(state)
        except (KeyError, TypeError, ValueError) as error:
            raise PartnerError(
                f"checkpoint {folder} is of another configuration ({type(error).__name__}): put its config.yaml back"
            ) from error

    def restore_state(self, state: TrainingState) -> int:
        """Takes back what `training_state` gave, and returns the number of iterations that it has behind it."""
        weights, optimizer_state = state.weights, state.optimizer_state
        on_each_learner(self.learner_group, lambda learner: learner.set_training_state(weights, optimizer_state))
        self._take_extra(copy.deepcopy(dict(state.extra)), state.iterations)
        self._sync_weights()
        return state.iterations

    def remote_actors(self) -> list[tuple[str, Any]]:
        """Name and handle of each remote env runner and learner; may be asked for by any thread."""
        return [
            *((f"env runner {number}", actor) for number, actor in env_runner_actors(self.env_runner_group).items()),
            *((f"learner {number}", actor) for number, actor in learner_actors(self.learner_group).items()),
        ]

    def lost_learners(self) -> int:
        """Remote learners that do not answer any more; to be asked when a call of theirs has failed."""
        return lost_learners(self.learner_group)

    def replace_learners(self) -> None:
        """Starts new learners in the place of the old ones, and training at its beginning; env runners stay.

        What follows is `restore_training_state`, where there is a saved state. Learners exchange gradients in a group
        that cannot lose a member, so the surviving ones are replaced too. Waits until the cluster has room.
        """
        kill_learners(self.learner_group)
        ray_metrics.record(ray_metrics.RESTARTS, "learner", self.config.num_learners)
        module = self.config.get_multi_rl_module_spec(spaces=self.spaces, inference_only=False)
        self.learner_group = self.config.build_learner_group(rl_module_spec=module)
        self._take_extra(copy.deepcopy(self._beginning), 0)
        self._sync_weights()


def _weights_digest(env_runner: Any) -> str:
    digest: str = env_runner.module.weights_digest()
    return digest
