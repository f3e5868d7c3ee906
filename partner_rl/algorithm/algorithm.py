"""The training iteration: sample → score → advantage → update → sync.

How to run: `partner-rl train --preset smoke`. Results to expect: with the toy reward of
`tests/algorithm/test_training.py` the mean reward of a tiny model rises within a minute.
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ray
import torch
from ray.exceptions import RayError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from partner_rl.algorithm.advantages.estimator import Array
from partner_rl.algorithm.batch import minibatches, to_rllib, training_groups
from partner_rl.algorithm.build import RewriteConfig
from partner_rl.algorithm.data_order import examples_of_iteration
from partner_rl.algorithm.env_runner import SYNCS
from partner_rl.algorithm.kl_control import KlController
from partner_rl.algorithm.learner import RewriteLearner
from partner_rl.algorithm.phase_tracker import SAMPLE, SYNC, UPDATE, PhaseTracker
from partner_rl.algorithm.reward_signal import AdvantageBatch, RewardSignal
from partner_rl.algorithm.state import TrainingState
from partner_rl.algorithm.trajectory import Rollout, SampledGroup
from partner_rl.algorithm.update_metrics import KL_SENTENCE, StepMetrics, update_metrics
from partner_rl.cluster import metrics as ray_metrics
from partner_rl.cluster.object_store import put
from partner_rl.policy.model import Policy
from partner_rl.policy.module import RewriteModule, load_trained_policy
from partner_rl.types import Example, PartnerError

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.env_runner_group import EnvRunnerGroup
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

logger = logging.getLogger(__name__)

SAMPLE_ATTEMPTS = 5
"""Rounds of sampling in one iteration that may lose env runners; after the last one the run ends."""
PROBE_S = 1.0
"""Seconds that an env runner which was lost has to answer, when it is asked whether it is back."""
RETURN_TIMEOUT_S = 1800.0
"""Seconds to wait for an env runner when all are lost: a cluster that grows needs minutes for a new node."""
LOST_LEARNER_S = 120.0
"""Seconds that learners have to answer, when an update has failed: Ray needs up to a minute to notice a dead node."""
SILENCE_S = 60.0
"""Seconds after which a wait says again what it is for."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """What an iteration did.

    Attributes:
        number: Counted from 0.
        signal: The sampled groups with their rewards and advantages.
        learner: The update's metrics by the names of `update_metrics`: means over steps and learners, and the
            log-probability gap before the first step.
        seconds: Seconds in `generate`, `score`, `update`, `sync`, and `iteration` for all of it; `overlap` is scoring
            that the generation hid.
        kl_coeff: Weight of the KL penalty in this iteration.
    """

    number: int
    signal: AdvantageBatch
    learner: dict[str, float]
    seconds: dict[str, float]
    kl_coeff: float

    @property
    def groups(self) -> tuple[SampledGroup, ...]:
        """The sampled groups, their rewards mixed with this iteration's weights."""
        return self.signal.groups


class RewriteAlgorithm(Algorithm):
    """Policy gradient over groups of rewrites."""

    config: RewriteConfig
    last: Iteration
    # The number of this attempt: rollbacks so far.
    attempt: int
    # What others want saved with the training state and back when it is restored, by owner, as JSON.
    extra_state: dict[str, Any]
    # What the driver is at; whoever watches it may put its own in this place.
    phases: PhaseTracker
    # Optional in RLlib; `setup` always makes them.
    env_runner_group: EnvRunnerGroup
    learner_group: LearnerGroup
    metrics: MetricsLogger

    @classmethod
    def get_default_config(cls) -> RewriteConfig:
        """RLlib's hook."""
        return RewriteConfig()

    def _setup_logdir(self) -> None:
        """RLlib's hook: it would make a folder in `~/ray_results`, which nothing is written to."""
        self._logdir = os.devnull  # type: ignore[assignment]

    def setup(self, config: Any) -> None:
        """Builds env runners and learners; env runners start from the learner's weights."""
        super().setup(config)
        self._examples = list(self.config.load_examples())
        if not self._examples:
            raise PartnerError("no training pair is left: check data.source, data.max_empathy and data.train_fraction")
        run = self.config.run
        settings = run.algorithm
        self._signal = RewardSignal(settings, run.rewards)
        self._kl = KlController(settings.kl_coeff, settings.kl_target, settings.kl_horizon)
        self._kl_sent = settings.kl_coeff
        self._next_iteration = 0
        self.attempt = 0
        self.extra_state = {}
        self.phases = PhaseTracker()
        self._beginning = copy.deepcopy(self._extra())
        self._syncs = 0
        if self._shares_module():
            self.env_runner.module = self._local_learner().module[DEFAULT_MODULE_ID]
        self._sync_weights()

    def _shares_module(self) -> bool:
        return self.config.num_env_runners == 0 and self.config.num_learners == 0

    def _local_learner(self) -> RewriteLearner:
        return cast(RewriteLearner, self.learner_group._learner)

    def training_step(self) -> None:
        """One iteration; its result is left in `self.last`."""
        started = time.perf_counter()
        settings = self.config.run.algorithm
        self.phases.begin(SAMPLE, self._next_iteration + 1)
        examples = examples_of_iteration(
            self._examples, settings.groups_per_iteration, self._next_iteration, self.config.run.seed
        )

        rollouts = self._sample(examples)
        groups = [group for rollout in rollouts for group in rollout.groups]

        signal = self._signal.advantages(groups, self._next_iteration + 1)

        update_started = time.perf_counter()
        metrics = self._update(signal.groups, signal.advantages_GK)
        kl_coeff = self._steer_kl(metrics[KL_SENTENCE])
        sync_started = time.perf_counter()
        self.phases.begin(SYNC)
        self._sync_weights()
        ended = time.perf_counter()

        self.last = Iteration(
            number=self._next_iteration,
            signal=signal,
            learner=metrics,
            seconds={
                "generate": max(r.generate_s for r in rollouts),
                "score": max(r.score_s for r in rollouts),
                "overlap": max(r.overlap_s for r in rollouts),
                "update": sync_started - update_started,
                "sync": ended - sync_started,
                "iteration": ended - started,
            },
            kl_coeff=kl_coeff,
        )
        self._record_meters()
        self._next_iteration += 1

    def _record_meters(self) -> None:
        for phase, seconds in self.last.seconds.items():
            ray_metrics.record(ray_metrics.PHASE_SECONDS, phase, seconds)
        episodes = sum(len(group.trajectories) for group in self.last.groups)
        ray_metrics.record(ray_metrics.EPISODES, self.config.run.algorithm.advantage, episodes)

    def _sample(self, examples: Sequence[Example]) -> list[Rollout]:
        """Samples all groups, shared out over the env runners in order."""
        shards = max(1, self.config.num_env_runners)
        size = len(examples) // shards
        pending = {
            shard: {
                "examples": examples[shard * size : (shard + 1) * size],
                "samples_per_group": self.config.run.algorithm.samples_per_group,
                # An attempt after a rollback draws other samples.
                "seed": (self.config.run.seed, self._next_iteration, shard, self.attempt),
                "greedy_baseline": self._signal.needs_greedy,
            }
            for shard in range(shards)
        }
        if self.config.num_env_runners == 0:
            return [self.env_runner.sample(**kwargs) for kwargs in pending.values()]
        done: dict[int, Rollout] = {}
        losses = 0
        while len(done) < shards:
            runners = self._await_env_runners()
            # With fewer runners than shards, the others wait for a next round.
            asked = dict(zip((shard for shard in pending if shard not in done), runners, strict=False))
            done |= self._sample_shards(asked, pending)
            lost = sum(shard not in done for shard in asked)
            if not lost:
                continue
            losses += 1
            ray_metrics.record(ray_metrics.RESTARTS, "env runner", lost)
            if losses == SAMPLE_ATTEMPTS:
                raise PartnerError(
                    f"env runners were lost {losses} times in iteration {self._next_iteration}: see the Ray logs, "
                    "and lower algorithm.groups_per_iteration if they ran out of memory"
                )
            # A shard's seed belongs to the shard, so that whoever samples it again draws the same.
            logger.warning("%d of %d env runners were lost: their groups are sampled again", lost, shards)
            # One that Ray restarted before anybody noticed has the weights that training started from.
            self._sync_weights()
            self.phases.begin(SAMPLE)
        return [done[shard] for shard in range(shards)]

    def _sample_shards(self, asked: dict[int, int], arguments: dict[int, dict[str, Any]]) -> dict[int, Rollout]:
        """Samples shards on remote env runners (shard → runner); leaves out those that were lost or not in step."""
        syncs = self._syncs

        def run(shard: int, kwargs: dict[str, Any]) -> Any:
            return lambda env_runner: (shard, env_runner.sample_in_step(syncs, kwargs))

        answers: list[tuple[int, Rollout | PartnerError | None]] = self.env_runner_group.foreach_env_runner(
            [run(shard, arguments[shard]) for shard in asked],
            local_env_runner=False,
            remote_worker_ids=list(asked.values()),
        )
        for _, answer in answers:
            if isinstance(answer, PartnerError):
                raise answer
        return {shard: answer for shard, answer in answers if isinstance(answer, Rollout)}

    def _await_env_runners(self) -> list[int]:
        """The env runners that can sample; waits for the first one to come back when all are lost.

        Raises:
            PartnerError: None comes back.
        """
        started = told = time.monotonic()
        while not (healthy := self.env_runner_group.healthy_worker_ids()):
            now = time.monotonic()
            if now - started > RETURN_TIMEOUT_S:
                raise PartnerError(
                    f"no env runner came back within {RETURN_TIMEOUT_S:.0f} s: {self._shortage()}; start nodes, and "
                    "resume the run"
                )
            if now - told > SILENCE_S:
                told = now
                logger.warning(
                    "waiting for an env runner to come back since %.0f s: %s", now - started, self._shortage()
                )
            time.sleep(PROBE_S)
            self.restore_env_runners(self.env_runner_group)
        return list(healthy)

    def _shortage(self) -> str:
        """What the cluster has left, for messages about actors that find no place."""
        free, total = ray.available_resources(), ray.cluster_resources()
        has = ", ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        return f"the cluster has {has} free"

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """RLlib's hook before an iteration: takes back lost env runners that answer again, on whatever node.

        An actor whose node went away is started again by Ray as soon as another node has room for it. The iteration
        does not wait for that: until then the others sample its groups.
        """
        restored = env_runner_group.probe_unhealthy_env_runners(timeout_seconds=PROBE_S)
        if restored:
            logger.info("%d env runners are back", len(restored))
            self._sync_weights()
        return restored

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
        return self._foreach_learner(_measured)

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
        why = self.config.gap_limits.explain(odd.gap, self.config.run.policy.dtype, same_weights=same)
        raise PartnerError(f"iteration {self._next_iteration}: {why}")

    def _sampler_digests(self) -> list[str]:
        """Digests of the weights that the env runners sample with."""
        is_local = self.env_runner is not None
        digests: list[str] = self.env_runner_group.foreach_env_runner(_digest, local_env_runner=is_local)
        return digests

    def _steer_kl(self, kl: float) -> float:
        """Adapts the weight of the penalty to the divergence of an action; returns the one that was used."""
        used = self._kl.coefficient
        self._kl.update(kl)
        self._set_kl_coeff()
        return used

    def _set_kl_coeff(self) -> None:
        coefficient = self._kl.coefficient
        if coefficient != self._kl_sent:
            self._foreach_learner(lambda learner: learner.set_kl_coeff(coefficient))
            self._kl_sent = coefficient

    def start_attempt(self, attempt: int, kl_factor: float) -> None:
        """Another try from the present state, after a rollback: other samples, and a KL penalty that weighs more.

        Args:
            attempt: Its number; the run began as attempt 0.
            kl_factor: Multiplies the weight of the KL penalty, once for each attempt since that of the present state.
        """
        self._kl.scale(kl_factor ** (attempt - self.attempt))
        self._set_kl_coeff()
        self.attempt = attempt

    def _sync_weights(self) -> None:
        """Sends the learner's weights to every env runner and waits until they are set.

        RLlib's own sync drops a message while the last one is in flight; a run then samples with old weights.
        """
        if self._shares_module():
            return
        state = self.learner_group.get_state(
            components=[f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"], inference_only=True
        )[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        if self.env_runner is not None:
            self.env_runner.set_state({COMPONENT_RL_MODULE: state})
            return
        self._syncs += 1
        reference = put({COMPONENT_RL_MODULE: state, SYNCS: self._syncs}, self.config.run.faults.room_wait_s)
        self.env_runner_group.foreach_env_runner(
            "set_state", kwargs={"state": reference}, local_env_runner=False, mark_healthy=True
        )

    def policy_in_driver(self) -> Policy:
        """A policy with the learner's current weights, in the driver's memory; for export and evaluation."""
        if self.config.num_learners == 0:
            return cast(RewriteModule, self._local_learner().module[DEFAULT_MODULE_ID]).policy
        weights, _ = self._learner_state()
        run = self.config.run
        return load_trained_policy(self.config.policy_folder, run.policy, run.env.window, weights)

    def _learner_state(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        state: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
        state = self._foreach_learner(lambda learner: learner.training_state())[0]
        return state

    def _foreach_learner(self, action: Callable[[RewriteLearner], Any]) -> list[Any]:
        """The results of a call on every learner; an error of a remote learner is raised, which RLlib does not do."""
        # RLlib's annotations ask for a second argument, which it does not pass, and promise plain results.
        answers: list[Any] = list(self.learner_group.foreach_learner(action))  # type: ignore[arg-type]
        for answer in answers:
            if not answer.ok:
                raise answer.get()
        return [answer.get() for answer in answers]

    def save_training_state(self, folder: Path) -> None:
        """Writes what an exact resume needs (see `partner_rl.algorithm.state`)."""
        self.training_state().save(folder, self.config.run.faults.room_wait_s)

    def training_state(self) -> TrainingState:
        """What an exact resume needs, in the driver's memory."""
        weights, optimizer_state = self._learner_state()
        return TrainingState(self._next_iteration, copy.deepcopy(self._extra()), weights, optimizer_state)

    def training_state_mib(self) -> float:
        """MiB of `training_state`: the trained parameters and AdamW's two moments of each."""
        numbers: list[int] = self._foreach_learner(lambda learner: learner.trained_numbers())
        return 12 * max(numbers) / 2**20

    def _extra(self) -> dict[str, Any]:
        """What changes from iteration to iteration besides tensors, as JSON."""
        return {
            "signal": self._signal.state(),
            "kl": self._kl.state(),
            "attempt": self.attempt,
            "extra_state": dict(self.extra_state),
        }

    def _take_extra(self, extra: Mapping[str, Any], iterations: int) -> None:
        self._signal.restore(extra["signal"])
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
        self._foreach_learner(lambda learner: learner.set_training_state(weights, optimizer_state))
        self._take_extra(copy.deepcopy(dict(state.extra)), state.iterations)
        self._sync_weights()
        return state.iterations

    def remote_actors(self) -> list[tuple[str, Any]]:
        """Name and handle of each remote env runner and learner; may be asked for by any thread."""
        runners = list(self.env_runner_group._worker_manager.actors().items())
        return [
            *((f"env runner {number}", actor) for number, actor in runners),
            *((f"learner {number}", actor) for number, actor in self._learner_actors().items()),
        ]

    def _learner_actors(self) -> dict[int, Any]:
        """The remote learners by number; none where the driver learns itself."""
        manager = self.learner_group._worker_manager
        return {} if self.config.num_learners == 0 or manager is None else dict(manager.actors())

    def lost_learners(self) -> int:
        """Remote learners that do not answer any more; to be asked when a call of theirs has failed."""
        calls = [actor.apply.remote(_answer) for actor in self._learner_actors().values()]
        if not calls:
            return 0
        ready, silent = ray.wait(calls, num_returns=len(calls), timeout=LOST_LEARNER_S)
        return len(silent) + sum(not _succeeds(call) for call in ready)

    def replace_learners(self) -> None:
        """Starts new learners in the place of the old ones, and training at its beginning; env runners stay.

        What follows is `restore_training_state`, where there is a saved state. Learners exchange gradients in a group
        that cannot lose a member, so the surviving ones are replaced too. Waits until the cluster has room.
        """
        self._end_learners()
        ray_metrics.record(ray_metrics.RESTARTS, "learner", self.config.num_learners)
        module = self.config.get_multi_rl_module_spec(spaces=self.spaces, inference_only=False)
        self.learner_group = self.config.build_learner_group(rl_module_spec=module)
        self._kl_sent = self.config.kl_coeff
        self._take_extra(copy.deepcopy(self._beginning), 0)
        self._sync_weights()

    def _end_learners(self) -> None:
        """Ends the learners without asking them: one that waits for a dead one would not answer."""
        for actor in self._learner_actors().values():
            ray.kill(actor)
        # RLlib would try to end them in good order when it forgets them.
        self.learner_group._is_shut_down = True


def _measured(learner: RewriteLearner) -> StepMetrics:
    return learner.step_metrics


def _digest(env_runner: Any) -> str:
    digest: str = env_runner.module.weights_digest()
    return digest


def _answer(learner: RewriteLearner) -> bool:
    """A sign of life."""
    return True


def _succeeds(call: Any) -> bool:
    try:
        return bool(ray.get(call))
    except RayError:
        return False
