"""What a sweep makes once for all trials, and which objectives its swept keys make incomparable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from launch.run_folder.folder import RunFolder
from launch.sweep.space import ConfigOf
from launch.sweep.spec import METRICS, SweepSpec
from launch.sweep.trial_records import SweepFolder
from launch.training import phases
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError
from rewards.coherence import NAME as COHERENCE
from rewards.empathy import NAME as EMPATHY
from rewards.fluency import NAME as FLUENCY
from rewards.mutual_information import NAME as MUTUAL_INFORMATION
from rewards.registry import all_components
from rewards.scorer import ScorerBuilder

REWARD_TRAINING_KEYS: Final = ("data", "seed", "device", "models.encoder", "models.cache_dir", "reward_training")
"""Keys, or sections, that the trained reward models depend on."""

SCORER_KEYS: Final = ("rewards", "models")
"""Sections that scorers are made from."""

WARM_START_KEYS: Final = (
    *("data", "seed", "device", "models.policy", "models.cache_dir", "env", "warmstart"),
    *("policy.max_seeker_tokens", "policy.max_sentence_tokens", "policy.max_new_tokens", "policy.lora", "policy.dtype"),
)
"""Keys, or sections, that the warm start depends on."""


PAIR_KEYS: Final = ("data", "evaluation.max_pairs")
"""Keys, or sections, that decide which pairs trials are evaluated on."""

OTHER_DATA_KEYS: Final = ("data.max_train_pairs",)
"""Keys of those sections that do not."""

LEARNED: Final = (EMPATHY, COHERENCE)
"""Rewards whose models are trained unless the configuration names a checkpoint."""

METRIC_OF: Final = {
    EMPATHY: "change_in_empathy",
    FLUENCY: "perplexity",
    COHERENCE: "coherence",
    MUTUAL_INFORMATION: "mutual_information",
}
"""Reward → the metric that its scorer measures."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Whether the trained reward classifiers and the warm-started policy are made once for all trials."""

    reward_models: bool
    warm_start: bool


def shares(spec: SweepSpec) -> Shares:
    """What a sweep's keys leave alone.

    Raises:
        PartnerError: `share_rewards` is asked for, and a key changes a scorer.
    """
    reward_key = first_inside(spec.space, REWARD_TRAINING_KEYS) or next(
        (key for key in spec.space if key in ("rewards.empathy.checkpoint", "rewards.coherence.checkpoint")), None
    )
    warm_key = first_inside(spec.space, WARM_START_KEYS)
    if spec.share_rewards and reward_key is not None:
        raise PartnerError(
            f"share_rewards: the reward models depend on {reward_key}, which is swept: set share_rewards to false"
        )
    return Shares(reward_key is None, warm_key is None)


def check_scorers(spec: SweepSpec, config_of: ConfigOf) -> None:
    """Raises PartnerError when a swept key changes what the reward actors compute."""

    def scorers(values: Mapping[str, JsonValue]) -> dict[str, ScorerBuilder]:
        components = all_components(pooled_config(spec, config_of(values)), Path("shared"))
        return {name: component.builder for name, component in components.items()}

    expected = scorers({})
    for key, tried in spec.space.items():
        for value in tried.examples if first_inside([key], SCORER_KEYS) else ():
            different = [name for name, builder in scorers({key: value}).items() if builder != expected.get(name)]
            if different:
                raise PartnerError(
                    f"share_rewards: {key} changes the scorer {different[0]}: set share_rewards to false"
                )


def pooled_config(spec: SweepSpec, config: RunConfig) -> RunConfig:
    """The configuration that a shared pool is made of: every number that a trial may ask for is computed."""
    if f"rewards.{MUTUAL_INFORMATION}.lambda_mi" not in spec.space:
        return config
    both = config.rewards.mutual_information.model_copy(update={"lambda_mi": 0.5})
    return config.model_copy(update={"rewards": config.rewards.model_copy(update={MUTUAL_INFORMATION: both})})


def make_shared(config: RunConfig, sweep: SweepFolder, share: Shares) -> dict[str, JsonValue]:
    """Trains what all trials share and the configuration names no checkpoint of, unless it is there.

    Returns:
        Configuration key → value, for all trials.
    """
    found = shared_keys(config, sweep, share)
    if not found:
        return found
    run = sweep.shared
    if not run.config_file.is_file():
        own = config.model_copy(update={"name": run.path.name, "runs_dir": str(sweep.path)})
        RunFolder.create(own, default_name=run.path.name)
    with run.resumable():
        splits = phases.load_splits(config)
        examples = phases.warm_start_examples(config, run, splits) if share.warm_start else None
        if share.reward_models:
            phases.train_reward_models(config, run, splits)
        if share.warm_start:
            phases.warm_start(config, run, examples)
    return found


def shared_keys(config: RunConfig, sweep: SweepFolder, share: Shares) -> dict[str, JsonValue]:
    """Configuration key → the checkpoint that all trials use, where the configuration names none."""
    folder, keys = sweep.shared.path.absolute(), dict[str, JsonValue]()
    if share.reward_models:
        for name in LEARNED:
            if getattr(config.rewards, name).checkpoint is None:
                keys[f"rewards.{name}.checkpoint"] = str(folder / "rewards" / name)
    if share.warm_start and config.warmstart.checkpoint is None:
        keys["warmstart.checkpoint"] = str(folder / "warm_start")
    return keys


def incomparable_objectives(spec: SweepSpec, config_of: ConfigOf) -> dict[str, list[str]]:
    """Swept key → objectives that are measured with what it changes, so that trials do not compare in them."""
    base = config_of({})
    found = {key: _metrics_measured_with(spec, config_of, base, key) & set(spec.goals) for key in spec.space}
    return {key: sorted(metrics) for key, metrics in found.items() if metrics}


def _metrics_measured_with(spec: SweepSpec, config_of: ConfigOf, base: RunConfig, key: str) -> set[str]:
    """Metrics that are measured with what a key changes."""
    if first_inside([key], PAIR_KEYS) and key not in OTHER_DATA_KEYS:
        return set(METRICS)
    learned = {name for name in LEARNED if getattr(base.rewards, name).checkpoint is None}
    found = {METRIC_OF[name] for name in learned} if first_inside([key], REWARD_TRAINING_KEYS) else set()
    if first_inside([key], ("models.encoder",)):
        found.add("specificity")
    before = all_components(base, Path("run"))
    for value in spec.space[key].examples if first_inside([key], SCORER_KEYS) else ():
        after = all_components(config_of({key: value}), Path("run"))
        found |= {metric for name, metric in METRIC_OF.items() if before[name].builder != after[name].builder}
        if before[MUTUAL_INFORMATION].definition != after[MUTUAL_INFORMATION].definition:
            found.add(METRIC_OF[MUTUAL_INFORMATION])
    return found


def first_inside(keys: Iterable[str], sections: Sequence[str]) -> str | None:
    """The first key that is one of those named or inside one of them."""
    return next((key for key in keys if any(key == s or key.startswith(f"{s}.") for s in sections)), None)
