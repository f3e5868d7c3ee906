"""The private names of RLlib that training needs, each with the public one that is lacking."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.env_runner_group import EnvRunnerGroup


class FolderlessAlgorithm(Algorithm):
    """An algorithm without a folder in `~/ray_results`; no public setting turns that folder off."""

    config: Any

    def _setup_logdir(self) -> None:
        self._logdir = os.devnull  # type: ignore[assignment]


class OwnModelConfig(AlgorithmConfig):
    """A configuration whose module knows its own model config alone; no public setting leaves RLlib's keys out."""

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {}


class WholeStepLearner(TorchLearner):
    """A learner that makes an optimizer step by itself; RLlib's public hooks cannot accumulate gradients."""

    def optimizer_step(self, columns: Mapping[str, Any]) -> float:
        """Makes one optimizer step on a batch and returns its loss."""
        raise NotImplementedError

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        return {}, {DEFAULT_MODULE_ID: self.optimizer_step(batch[DEFAULT_MODULE_ID])}, {}


def env_runner_actors(group: EnvRunnerGroup) -> dict[int, Any]:
    """Handles of the remote env runners by number; the public methods give their numbers alone."""
    return dict(group._worker_manager.actors())


def learner_actors(group: LearnerGroup) -> dict[int, Any]:
    """Handles of the remote learners by number, none where the driver learns; no public method gives them."""
    return {} if group.is_local or group._worker_manager is None else dict(group._worker_manager.actors())


def kill_learners(group: LearnerGroup) -> None:
    """Ends the remote learners; the public `shutdown` asks them first, and one that waits for a dead one is silent."""
    for actor in learner_actors(group).values():
        ray.kill(actor)
    # Otherwise the group shuts down in good order when it is collected.
    group._is_shut_down = True
