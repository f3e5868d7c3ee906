"""Which objectives are measured alike in all trials of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from launch.sweep.sizing import REWARD_TRAINING_KEYS, SCORER_KEYS, first_inside
from launch.sweep.space import ConfigOf
from launch.sweep.spec import METRICS, SweepSpec
from partner_rl.config.schema import RunConfig
from rewards.coherence import NAME as COHERENCE
from rewards.empathy import NAME as EMPATHY
from rewards.fluency import NAME as FLUENCY
from rewards.mutual_information import NAME as MUTUAL_INFORMATION
from rewards.registry import all_components

PAIR_KEYS: Final = ("data", "evaluation.max_pairs")
"""Keys, or sections, that decide which pairs trials are evaluated on."""

OTHER_DATA_KEYS: Final = ("data.max_train_pairs",)
"""Keys of those sections that do not."""

LEARNED: Final = (EMPATHY, COHERENCE)
"""Rewards whose models are trained unless the configuration names a checkpoint."""

FIGURE_OF: Final = {
    EMPATHY: "change_in_empathy",
    FLUENCY: "perplexity",
    COHERENCE: "coherence",
    MUTUAL_INFORMATION: "mutual_information",
}
"""Reward → the figure that its scorer measures."""


def yardsticks(spec: SweepSpec, config_of: ConfigOf) -> dict[str, list[str]]:
    """Objectives that are not measured alike in all trials, so that trials do not compare in them.

    Args:
        spec: The sweep.
        config_of: Makes a trial's configuration.

    Returns:
        Swept key → objectives that are measured with what it changes.
    """
    base = config_of({})
    found = {key: _moved_by(spec, config_of, base, key) & set(spec.goals) for key in spec.space}
    return {key: sorted(metrics) for key, metrics in found.items() if metrics}


def _moved_by(spec: SweepSpec, config_of: ConfigOf, base: RunConfig, key: str) -> set[str]:
    """Figures that are measured with what a key changes."""
    if first_inside([key], PAIR_KEYS) and key not in OTHER_DATA_KEYS:
        return set(METRICS)
    learned = {name for name in LEARNED if getattr(base.rewards, name).checkpoint is None}
    moved = {FIGURE_OF[name] for name in learned} if first_inside([key], REWARD_TRAINING_KEYS) else set()
    if first_inside([key], ("models.encoder",)):
        moved.add("specificity")
    before = all_components(base, Path("run"))
    for value in spec.space[key].examples if first_inside([key], SCORER_KEYS) else ():
        after = all_components(config_of({key: value}), Path("run"))
        moved |= {figure for name, figure in FIGURE_OF.items() if before[name].builder != after[name].builder}
        if before[MUTUAL_INFORMATION].definition != after[MUTUAL_INFORMATION].definition:
            moved.add(FIGURE_OF[MUTUAL_INFORMATION])
    return moved
