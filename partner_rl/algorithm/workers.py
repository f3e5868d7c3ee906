"""Remote env runners and learners, of which some may be lost in the middle of an iteration."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE

from partner_rl.algorithm.env_runner import SYNCS
from partner_rl.algorithm.learner import RewriteLearner
from partner_rl.algorithm.trajectory import Rollout
from partner_rl.cluster import ray_metrics
from partner_rl.cluster.nodes import free_resources
from partner_rl.cluster.object_store import put
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

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


class EnvRunners:
    """The remote env runners: they hold the learner's weights, and shards of lost ones are sampled again.

    Args:
        group: RLlib's env runners.
        weights: Gives the learner's newest weights, as an env runner's module takes them.
        wait_s: Seconds to wait for room in Ray's object store.
    """

    def __init__(self, group: EnvRunnerGroup, weights: Callable[[], Any], wait_s: float) -> None:
        self._group = group
        self._weights = weights
        self._wait_s = wait_s
        self._syncs = 0

    def sync_weights(self) -> None:
        """Sends the newest weights to every env runner and waits until they are set.

        RLlib's own sync drops a message while the last one is in flight; a run then samples with old weights.
        """
        self._syncs += 1
        reference = put({COMPONENT_RL_MODULE: self._weights(), SYNCS: self._syncs}, self._wait_s)
        self._group.foreach_env_runner(
            "set_state", kwargs={"state": reference}, local_env_runner=False, mark_healthy=True
        )

    def sample(
        self, shards: Sequence[dict[str, Any]], iteration: int, on_retry: Callable[[], None] = lambda: None
    ) -> list[Rollout]:
        """Samples shards of an iteration's groups, in their order, whoever of the env runners is lost meanwhile.

        Args:
            shards: Arguments of `RewriteEnvRunner.sample`. A seed belongs to its shard, so that whoever samples it
                again draws the same.
            iteration: For messages.
            on_retry: Called before lost shards are sampled again.

        Raises:
            PartnerError: Env runners are lost again and again, or none comes back; or what one of them says.
        """
        done: dict[int, Rollout] = {}
        losses = 0
        while len(done) < len(shards):
            # With fewer env runners than shards, the others wait for a next round.
            open_shards = (shard for shard in range(len(shards)) if shard not in done)
            asked = dict(zip(open_shards, self._await_some(), strict=False))
            done |= self._sample_once({shard: (runner, shards[shard]) for shard, runner in asked.items()})
            lost = sum(shard not in done for shard in asked)
            if not lost:
                continue
            losses += 1
            ray_metrics.record(ray_metrics.RESTARTS, "env runner", lost)
            if losses == SAMPLE_ATTEMPTS:
                raise PartnerError(
                    f"env runners were lost {losses} times in iteration {iteration}: see the Ray logs, "
                    "and lower algorithm.groups_per_iteration if they ran out of memory"
                )
            logger.warning("%d of %d env runners were lost: their groups are sampled again", lost, len(shards))
            # One that Ray restarted before anybody noticed has the weights that training started from.
            self.sync_weights()
            on_retry()
        return [done[shard] for shard in range(len(shards))]

    def _sample_once(self, asked: dict[int, tuple[int, dict[str, Any]]]) -> dict[int, Rollout]:
        """Samples shards (→ env runner, arguments); leaves out those of env runners that are lost or not in step."""
        syncs = self._syncs

        def run(shard: int, kwargs: dict[str, Any]) -> Any:
            return lambda env_runner: (shard, env_runner.sample_in_step(syncs, kwargs))

        answers: list[tuple[int, Rollout | PartnerError | None]] = self._group.foreach_env_runner(
            [run(shard, kwargs) for shard, (_, kwargs) in asked.items()],
            local_env_runner=False,
            remote_worker_ids=[runner for runner, _ in asked.values()],
        )
        for _, answer in answers:
            if isinstance(answer, PartnerError):
                raise answer
        return {shard: answer for shard, answer in answers if isinstance(answer, Rollout)}

    def _await_some(self) -> list[int]:
        """The env runners that can sample; waits for the first one to come back when all are lost."""
        started = told = time.monotonic()
        while not (healthy := self._group.healthy_worker_ids()):
            now = time.monotonic()
            if now - started > RETURN_TIMEOUT_S:
                raise PartnerError(
                    f"no env runner came back within {RETURN_TIMEOUT_S:.0f} s: {free_resources()}; start nodes, and "
                    "resume the run"
                )
            if now - told > SILENCE_S:
                told = now
                logger.warning(
                    "waiting for an env runner to come back since %.0f s: %s", now - started, free_resources()
                )
            time.sleep(PROBE_S)
            self.take_back()
        return list(healthy)

    def take_back(self) -> list[int]:
        """Takes back lost env runners that answer again, on whatever node, and returns their numbers.

        An actor whose node went away is started again by Ray as soon as another node has room for it.
        """
        restored = self._group.probe_unhealthy_env_runners(timeout_seconds=PROBE_S)
        if restored:
            logger.info("%d env runners are back", len(restored))
            self.sync_weights()
        return restored


def on_each_learner(group: LearnerGroup, action: Callable[[RewriteLearner], Any]) -> list[Any]:
    """The results of a call on every learner; an error of a remote learner is raised, which RLlib does not do."""
    # RLlib's annotations ask for a second argument, which it does not pass, and promise plain results.
    answers: list[Any] = list(group.foreach_learner(action))  # type: ignore[arg-type]
    for answer in answers:
        if not answer.ok:
            raise answer.get()
    return [answer.get() for answer in answers]


def weights_for_sampling(group: LearnerGroup) -> Any:
    """The learner's weights, as an env runner's module takes them."""
    components = [f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"]
    return group.get_state(components=components, inference_only=True)[COMPONENT_LEARNER][COMPONENT_RL_MODULE]


def lost_learners(group: LearnerGroup) -> int:
    """Remote learners that do not answer any more; to be asked when a call of theirs has failed."""
    answers: list[Any] = list(
        group.foreach_learner(_answer, healthy_only=False, timeout_seconds=LOST_LEARNER_S)  # type: ignore[arg-type]
    )
    return 0 if group.is_local else len(group) - sum(answer.ok for answer in answers)


def _answer(learner: RewriteLearner) -> bool:
    """A sign of life."""
    return True
