"""Every reward component by name: from the configuration of a run to definitions and builders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from partner_rl.config.reward_schema import RewardSection
from partner_rl.config.schema import RunConfig
from rewards import coherence, empathy, fluency, listener, mutual_information
from rewards.coherence import CoherenceBuilder, CoherenceReward
from rewards.empathy import EmpathyBuilder, EmpathyReward
from rewards.fluency import FluencyBuilder, FluencyReward
from rewards.listener import ListenerReward
from rewards.listener_models import BACKWARD, ENCODER, ListenerBuilder
from rewards.mutual_information import MutualInformationBuilder, MutualInformationReward
from rewards.scorer import RewardComponent


def trained_folder(run_folder: Path, name: str) -> Path:
    """Where a run puts the classifier that it trains."""
    # Absolute: actors do not share the driver's working directory.
    return (run_folder / "rewards" / name).absolute()


def _classifier_folder(checkpoint: str | None, run_folder: Path, name: str) -> Path:
    return trained_folder(run_folder, name) if checkpoint is None else Path(checkpoint)


def _empathy(config: RunConfig, run_folder: Path) -> RewardComponent:
    section = config.rewards.empathy
    builder = EmpathyBuilder(
        folder=_classifier_folder(section.checkpoint, run_folder, empathy.NAME),
        score=section.score,
        deviations=section.deviations,
        max_tokens=section.max_tokens,
        device=_device(section),
    )
    return RewardComponent(EmpathyReward(), builder, section)


def _fluency(config: RunConfig, run_folder: Path) -> RewardComponent:
    section = config.rewards.fluency
    builder = FluencyBuilder(
        model=config.models.reward_lm,
        cache_dir=_cache_dir(config),
        max_tokens=config.rewards.max_tokens,
        device=_device(section),
    )
    return RewardComponent(FluencyReward(section.repetition_penalty), builder, section)


def _coherence(config: RunConfig, run_folder: Path) -> RewardComponent:
    section = config.rewards.coherence
    builder = CoherenceBuilder(
        folder=_classifier_folder(section.checkpoint, run_folder, coherence.NAME),
        max_tokens=config.rewards.max_tokens,
        device=_device(section),
    )
    return RewardComponent(CoherenceReward(), builder, section)


def _mutual_information(config: RunConfig, run_folder: Path) -> RewardComponent:
    section, language_model = config.rewards.mutual_information, config.models.reward_lm
    builder = MutualInformationBuilder(
        forward=section.forward_checkpoint or language_model if section.lambda_mi > 0.0 else None,
        backward=section.backward_checkpoint or language_model if section.lambda_mi < 1.0 else None,
        cache_dir=_cache_dir(config),
        max_tokens=config.rewards.max_tokens,
        device=_device(section),
    )
    return RewardComponent(MutualInformationReward(section.lambda_mi), builder, section)


def _listener(config: RunConfig, run_folder: Path) -> RewardComponent:
    section, models = config.rewards.listener, config.models
    backward = config.rewards.mutual_information.backward_checkpoint or models.reward_lm
    is_encoder = section.scorer == "encoder"
    builder = ListenerBuilder(
        kind=ENCODER if is_encoder else BACKWARD,
        model=models.encoder if is_encoder else backward,
        data=config.data,
        candidates=section.candidates,
        temperature=section.temperature,
        cache_dir=_cache_dir(config),
        max_tokens=config.rewards.max_tokens,
        device=_device(section),
    )
    return RewardComponent(ListenerReward(section.candidates), builder, section)


COMPONENTS: Final[Mapping[str, Callable[[RunConfig, Path], RewardComponent]]] = MappingProxyType(
    {
        empathy.NAME: _empathy,
        fluency.NAME: _fluency,
        coherence.NAME: _coherence,
        mutual_information.NAME: _mutual_information,
        listener.NAME: _listener,
    }
)
"""Component name → how to make it from a run's configuration and folder. A new reward is added here."""


def input_keys(config: RunConfig, name: str) -> tuple[str, ...]:
    """Keys of what a component's models are loaded from; a key without a value means the run's own classifier."""
    section = config.rewards.mutual_information
    sides = {
        "forward": (section.lambda_mi > 0.0, section.forward_checkpoint),
        "backward": (section.lambda_mi < 1.0, section.backward_checkpoint),
    }
    models = {
        side: "models.reward_lm" if named is None else f"rewards.mutual_information.{side}_checkpoint"
        for side, (_, named) in sides.items()
    }
    if name == mutual_information.NAME:
        return tuple(models[side] for side, (is_used, _) in sides.items() if is_used)
    if name == listener.NAME:
        return ("models.encoder" if config.rewards.listener.scorer == "encoder" else models["backward"], "data.source")
    return ("models.reward_lm",) if name == fluency.NAME else (f"rewards.{name}.checkpoint",)


def all_components(config: RunConfig, run_folder: Path) -> dict[str, RewardComponent]:
    """Every component that an evaluation scores: those that have a weight, and those that measure whatever they weigh.

    The run's folder holds the classifiers that the run trains.
    """
    sections = {name: getattr(config.rewards, name) for name in COMPONENTS}
    return {name: make(config, run_folder) for name, make in COMPONENTS.items() if sections[name].is_scored}


def active_components(config: RunConfig, run_folder: Path) -> dict[str, RewardComponent]:
    """The components that have a weight, if only in some iterations: those that a reward is made of."""
    return {name: c for name, c in all_components(config, run_folder).items() if c.settings.is_active}


def _device(section: RewardSection) -> str:
    # An actor without GPUs may still see the machine's: Ray hides them only from actors that reserve one.
    return "cuda" if section.num_gpus > 0.0 else "cpu"


def _cache_dir(config: RunConfig) -> Path | None:
    return config.models.cache
