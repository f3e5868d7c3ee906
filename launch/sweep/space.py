"""The points of a search space: what each trial changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from pydantic import JsonValue
from ray import tune
from ray.tune.search.sample import Domain

from launch.sweep.spec import Range, SweepSpec
from partner_rl.config.load import assignments, load_config
from partner_rl.config.reward_schema import WeightedSection
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError


@dataclass(frozen=True, slots=True)
class Point:
    """A trial before it starts.

    Attributes:
        number: Counted from 1.
        values: Configuration key → value.
        name: Name of the trial and of its run folder; `trial-NUMBER` where none is given.
    """

    number: int
    values: Mapping[str, JsonValue]
    name: str = ""

    def __post_init__(self) -> None:
        """Names the trial."""
        object.__setattr__(self, "name", self.name or f"trial-{self.number:04d}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Point:
        """The point that `as_config` was made of."""
        return cls(config["number"], config["values"], config["name"])

    def as_config(self) -> dict[str, Any]:
        """The point as Tune hands it to a trial."""
        return {"name": self.name, "number": self.number, "values": dict(self.values)}


ConfigOf = Callable[[Mapping[str, JsonValue]], RunConfig]
"""Swept key → value, to a trial's configuration; raises PartnerError for a wrong one."""


def planned_points(spec: SweepSpec) -> list[Point] | None:
    """All points of a grid or random search; None for Optuna, which decides as results come in.

    A random point depends on seed and number only, so that raising `num_samples` adds points and changes none.
    """
    if spec.search == "optuna":
        return None
    fixed = {key: values for key, values in spec.space.items() if spec.search == "grid" or values.grid is not None}
    drawn = {key: domain(values) for key, values in spec.space.items() if key not in fixed}
    crossed = [dict(zip(fixed, chosen, strict=True)) for chosen in product(*(r.values or () for r in fixed.values()))]
    draws = 1 if spec.search == "grid" else spec.num_samples
    found: list[Point] = []
    for _ in range(draws):
        for place in crossed:
            random = np.random.RandomState([spec.seed, len(found)])
            sampled = {key: _plain(values.sample(random_state=random)) for key, values in drawn.items()}
            ordered = {key: {**place, **sampled}[key] for key in spec.space}
            found.append(Point(len(found) + 1, ordered))
    return found


def domain(values: Range) -> Domain:
    """A range as Tune's sampler."""
    found: Domain
    if values.uniform is not None:
        found = tune.uniform(*values.uniform)
    elif values.loguniform is not None:
        found = tune.loguniform(*values.loguniform)
    elif values.quniform is not None:
        found = tune.quniform(*values.quniform)
    elif values.randint is not None:
        found = tune.randint(values.randint[0], values.randint[1] + 1)
    else:
        found = tune.choice(list(values.values or ()))
    return found


def _plain(value: Any) -> JsonValue:
    """A sampled value without NumPy's type."""
    plain: JsonValue = value.item() if isinstance(value, np.generic) else value
    return plain


def config_maker(spec: SweepSpec, overrides: Sequence[str]) -> ConfigOf:
    """How the configurations of trials are made; `overrides` come after the spec's own.

    Raises:
        PartnerError: An override sets what is swept, or what is the sweep's own business.
    """
    for given in (*spec.overrides, *(text.partition("=")[0].strip() for text in overrides)):
        if given in spec.space:
            raise PartnerError(f"{given} is swept and set at once: leave it out of the overrides or of the space")
    for given in (*spec.space, *spec.overrides, *(text.partition("=")[0].strip() for text in overrides)):
        if given in ("name", "runs_dir", "tracking.group"):
            raise PartnerError(f"{given} is the sweep's own business: leave it out (the spec has `group`)")
    own = assignments(spec.overrides)
    return lambda values: load_config(spec.base, [*own, *overrides, *assignments(values)])


def checked_configs(
    spec: SweepSpec, config_of: ConfigOf, points: Sequence[Point] | None
) -> Iterator[tuple[str, RunConfig]]:
    """Checks every point, or, where they are not known yet, every key with its extreme values.

    Yields:
        What was checked, in words, and its configuration.

    Raises:
        PartnerError: A configuration is wrong, or a swept weight would have no effect.
    """
    config = config_of({})
    for key in spec.space:
        section, _, name = key.rpartition(".")
        part = getattr(config.rewards, section.removeprefix("rewards."), None)
        if name == "weight" and isinstance(part, WeightedSection) and part.schedule is not None:
            raise PartnerError(f"{key} is swept, but {section}.schedule decides while training: set it to null")
    if points is None:
        for key, values in spec.space.items():
            for value in values.examples:
                yield f"{key}={json.dumps(value)}", config_of({key: value})
        return
    for point in points:
        try:
            yield point.name, config_of(point.values)
        except PartnerError as error:
            raise PartnerError(f"{point.name}: {error}") from error
