"""`partner-rl train --smoke`: one iteration of a run's own plan with tiny models, as the last check before the run.

Actors, their resources and the estimator are those of the configuration; models, data and lengths are not. The
run folder lies beside those of other runs, because actors on other nodes must be able to read it, and is removed.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Final

from launch.run_folder.folder import RunFolder
from partner_rl.config.load import load_config
from partner_rl.config.schema import DataConfig, RunConfig, TrackingConfig
from partner_rl.storage.temporary import scratch_folder

_PRESET: Final = "smoke"
"""The preset that models, lengths and training of reward models and warm start are taken from."""
_NAME: Final = "smoke"
_SAMPLES: Final = 2


def smoke_config(config: RunConfig, runs_dir: Path) -> RunConfig:
    """The same run for one iteration with tiny models, its run folder in `runs_dir`.

    Kept are actors with their resources, estimator, normalisation, weights and their schedules, window, adapters,
    number type, and whether the empathy classifier is an ensemble.
    """
    tiny = load_config(_PRESET)
    algorithm, policy = config.algorithm, tiny.policy
    lengths = {"max_seeker_tokens", "max_sentence_tokens", "max_new_tokens"}
    changed = config.model_copy(
        update={
            "name": "smoke",
            "runs_dir": str(runs_dir),
            "data": DataConfig(),
            "models": tiny.models.model_copy(update={"cache_dir": config.models.cache_dir}),
            "policy": config.policy.model_copy(
                update={name: getattr(policy, name) for name in lengths} | {"compile": False}
            ),
            "rewards": _tiny_rewards(config, tiny),
            "reward_training": tiny.reward_training.model_copy(
                update={"empathy_members": 2 if config.rewards.empathy.score == "conservative" else 1}
            ),
            "warmstart": tiny.warmstart,
            "algorithm": algorithm.model_copy(
                update={
                    "iterations": 1,
                    "groups_per_iteration": _groups(config),
                    "minibatch_groups": None,
                    "groups_per_chunk": None,
                    "samples_per_group": min(_SAMPLES, algorithm.samples_per_group),
                    "micro_batch_tokens": tiny.algorithm.micro_batch_tokens,
                }
            ),
            "evaluation": tiny.evaluation,
            "guards": config.guards.model_copy(update={"action": "alarm", "judge_every": None}),
            "checkpoint": tiny.checkpoint,
            "tracking": TrackingConfig(wandb="disabled", tensorboard=False, sample_rows=0),
        }
    )
    # A copy is not checked; the result of these changes is.
    return RunConfig.model_validate(changed.model_dump())


def _tiny_rewards(config: RunConfig, tiny: RunConfig) -> object:
    """The same pools with models that are trained on the spot."""
    rewards = config.rewards
    none = {"checkpoint": None}
    sections = {
        "empathy": rewards.empathy.model_copy(update={**none, "max_tokens": None}),
        "coherence": rewards.coherence.model_copy(update=none),
        "mutual_information": rewards.mutual_information.model_copy(
            update={"forward_checkpoint": None, "backward_checkpoint": None}
        ),
    }
    return rewards.model_copy(update={**sections, "max_tokens": tiny.rewards.max_tokens})


def _groups(config: RunConfig) -> int:
    """As few groups as can be shared out evenly, and at least two, so that there is something to share."""
    algorithm = config.algorithm
    shared = math.lcm(max(1, algorithm.num_env_runners), max(1, algorithm.num_learners))
    return shared if shared > 1 else 2


def smoke(config: RunConfig) -> float:
    """Trains for one iteration and removes what that wrote.

    Returns:
        Seconds that it took, the start of Ray and the training of tiny reward models included.

    Raises:
        PartnerError: Something that would make the run fail, too.
    """
    from launch.training.run import train

    started = time.perf_counter()
    runs_dir = Path(config.runs_dir)
    was_there = runs_dir.is_dir()
    runs_dir.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_folder(runs_dir / _NAME) as folder:
            tiny = smoke_config(config, folder)
            train(tiny, RunFolder.create(tiny, default_name="smoke"), resume=False)
    except KeyboardInterrupt as interrupt:
        # The run's own message tells how to resume it, and it is gone.
        raise KeyboardInterrupt("interrupted") from interrupt
    finally:
        if not was_there and not any(runs_dir.iterdir()):
            runs_dir.rmdir()
    return time.perf_counter() - started
