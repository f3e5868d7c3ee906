"""What a sweep is: the file that `partner-rl sweep` reads, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import Field, JsonValue, ValidationError, model_validator
from pydantic_core import ErrorDetails

from partner_rl.config.inputs import resolve_paths
from partner_rl.config.load import first_problems, json_document, preset_names, read_mapping, shown
from partner_rl.config.paths import absolute_path
from partner_rl.config.section import (
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Processes,
    Section,
    Seed,
    Trials,
)
from partner_rl.config.yaml_text import dump_yaml
from partner_rl.types import PartnerError

SHIPPED: Final = Path(__file__).parents[1] / "sweeps"
"""Folder of the specs that ship with the package."""

Metric = Literal[
    "change_in_empathy",
    "perplexity",
    "specificity",
    "distinct_2",
    "edit_rate",
    "distinct_1",
    "coherence",
    "mutual_information",
    "self_disclosure",
    "unchanged",
    "length",
]
"""Metrics of a trial on held-out pairs (`partner_rl.evaluation.metric_definitions`)."""

METRICS: Final[tuple[Metric, ...]] = get_args(Metric)
"""All metrics of a trial, in the order of the report."""

Direction = Literal["max", "min"]
"""Which way a metric is better."""

OBJECTIVES: Final[dict[Metric, Direction]] = {
    "change_in_empathy": "max",
    "perplexity": "min",
    "specificity": "max",
    "distinct_2": "max",
    "edit_rate": "min",
}

_REWARD_WEIGHT: Final = re.compile(r"rewards\.\w+\.weight")


class Range(Section):
    """The values that a key may take; exactly one of the kinds."""

    choice: tuple[JsonValue, ...] | None = None
    """One of these values, by chance or by the search; every one of them in a grid."""
    grid: tuple[JsonValue, ...] | None = None
    """Every one of these values, also in a random search, which then draws the other keys for each of them."""
    uniform: tuple[float, float] | None = None
    """A number between two bounds."""
    loguniform: tuple[float, float] | None = None
    """A number between two bounds, its logarithm evenly distributed."""
    quniform: tuple[float, float, PositiveFloat] | None = None
    """A multiple of the third number between two bounds."""
    randint: tuple[int, int] | None = None
    """A whole number between two bounds, both of them included."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> Range:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        values = getattr(self, given[0])
        if self.values is not None:
            if not values:
                raise ValueError(f"{given[0]} needs at least one value")
        elif values[0] >= values[1]:
            raise ValueError(f"{given[0]} goes from a lower to a higher bound, not from {values[0]} to {values[1]}")
        elif self.loguniform is not None and values[0] <= 0:
            raise ValueError(f"loguniform needs bounds above 0 (found {values[0]})")
        return self

    @property
    def values(self) -> tuple[JsonValue, ...] | None:
        """The values of a `choice` or `grid`; None for a range of numbers."""
        return self.choice if self.choice is not None else self.grid

    @property
    def examples(self) -> tuple[JsonValue, ...]:
        """Values that stand for all: every listed one, or both bounds."""
        if self.values is not None:
            return self.values
        bounds = self.uniform or self.loguniform or self.quniform or self.randint
        assert bounds is not None
        return bounds[0], bounds[1]


class SweepSpec(Section):
    """A sweep."""

    base: str = "embedded"
    """The configuration that trials change: a preset's name or a YAML file, seen from the spec's folder."""
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    """Keys that are changed in all trials."""
    space: dict[str, Range]
    """Configuration key → the values to try."""
    search: Literal["grid", "random", "optuna"] = "random"
    """All combinations; random draws; or Optuna's tree-structured Parzen estimator over all objectives."""
    num_samples: Trials = 16
    """Trials of a random or Optuna search (random: for each point of its `grid` keys); a grid has as many as it has."""
    scheduler: Literal["none", "asha", "pbt"] = "none"
    """Stop bad trials early (asynchronous successive halving); or let bad trials go on from good ones with changed
    reward weights (population-based training)."""
    scheduler_metric: Metric | None = None
    """What the scheduler goes by; null for the first objective."""
    evaluate_every: Positive = 5
    """Iterations between a trial's evaluations, for a scheduler to decide on; without one, trials are evaluated at
    their end."""
    grace_iterations: Positive = 5
    """`asha` stops no trial before this many iterations."""
    reduction_factor: PositiveFloat = 3.0
    """`asha` lets one trial in this many go on at each rung."""
    pbt_quantile: Fraction = 0.25
    """`pbt` replaces this share of the trials, the worst, by as many of the best."""
    objectives: dict[Metric, Direction] = OBJECTIVES
    """What the Pareto front is of, and which way each is better."""
    choose: Literal["knee"] | dict[Metric, NonNegativeFloat] = "knee"
    """Which trial of the front is chosen: the knee, or the best weighted sum of the objectives, each scaled to 0…1 over
    the front."""
    split: Literal["dev", "test"] = "dev"
    """Held-out pairs that trials are evaluated on, at most `evaluation.max_pairs` of them."""
    max_concurrent: Processes | None = None
    """Trials at a time; null for as many as the resources allow."""
    share_rewards: bool = False
    """One pool of reward actors for all trials; possible when no key changes a scorer (weights do not)."""
    trial_cpus: PositiveFloat = 1.0
    """Logical CPUs that a trial reserves besides those of its actors."""
    trial_gpus: NonNegativeFloat = 0.5
    """GPUs, or a fraction of one, of a trial itself where there are any and the configuration places nothing."""
    reward_gpus: NonNegativeFloat = 0.1
    """The same of each reward actor."""
    retries: NonNegative = 1
    """How often a trial whose process was lost goes on from its checkpoint."""
    seed: Seed = 0
    """Seed of the search and the scheduler; that of the training is the configuration's `seed`."""
    group: str | None = None
    """W&B group of the trials; null for the name of the sweep's folder."""

    @model_validator(mode="after")
    def _search_fits_the_space(self) -> SweepSpec:
        if not self.space:
            raise ValueError("space is empty: name at least one key to sweep")
        for key, values in self.space.items():
            if self.search == "grid" and values.values is None:
                raise ValueError(f"space.{key} is a range of numbers: search grid takes lists (grid or choice)")
            if self.search == "optuna" and values.grid is not None:
                raise ValueError(f"space.{key}: search optuna chooses by itself; write choice instead of grid")
        return self

    @model_validator(mode="after")
    def _scheduler_fits_the_search(self) -> SweepSpec:
        if self.scheduler != "pbt":
            return self
        if self.search == "optuna":
            raise ValueError("scheduler pbt changes the values itself: take search random or grid")
        for key, values in self.space.items():
            if not _REWARD_WEIGHT.fullmatch(key):
                raise ValueError(
                    f"scheduler pbt changes keys while training, which {key} does not allow: reward weights do"
                )
            wrong = [v for v in values.examples if isinstance(v, bool) or not isinstance(v, (int, float))]
            if wrong:
                raise ValueError(f"space.{key}: scheduler pbt needs numbers, not {shown(wrong[0])}")
        return self

    @model_validator(mode="after")
    def _choice_is_among_objectives(self) -> SweepSpec:
        if not self.objectives:
            raise ValueError("objectives is empty: name at least one")
        if self.reduction_factor <= 1:
            raise ValueError("reduction_factor must be above 1")
        if isinstance(self.choose, dict):
            foreign = sorted(set(self.choose) - set(self.objectives))
            if foreign or not any(self.choose.values()):
                what = f"{foreign[0]} is no objective" if foreign else "every weight is 0"
                raise ValueError(f"choose weighs the objectives: {what}")
        return self

    @property
    def decisive(self) -> tuple[Metric, Direction]:
        """What a scheduler goes by, and which way it is better."""
        metric = next(iter(self.objectives)) if self.scheduler_metric is None else self.scheduler_metric
        fallback: Direction = "min" if metric in ("perplexity", "edit_rate", "unchanged") else "max"
        return metric, self.objectives.get(metric, fallback)

    @property
    def goals(self) -> dict[str, str]:
        """The objectives: metric → `max` or `min`."""
        return {str(metric): str(better) for metric, better in self.objectives.items()}

    @property
    def preference(self) -> Literal["knee"] | dict[str, float]:
        """How the chosen trial is found: `knee`, or objective → weight."""
        return "knee" if self.choose == "knee" else {str(metric): weight for metric, weight in self.choose.items()}

    @property
    def evaluation_interval(self) -> int | None:
        """Iterations between evaluations while training; None when there is no scheduler."""
        return None if self.scheduler == "none" else self.evaluate_every


def read_spec(name_or_path: str) -> tuple[SweepSpec, str]:
    """Reads a spec that ships with the package, or a YAML file.

    Returns:
        The spec, with paths in it made absolute, seen from its folder; and the spec's name.

    Raises:
        PartnerError: There is no such file, it is no YAML, or a key or value is wrong.
    """
    shipped = SHIPPED / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() else absolute_path(name_or_path)
    try:
        spec = checked_spec(read_mapping(path, str(path)), str(path))
    except FileNotFoundError as error:
        raise PartnerError(f"there is no spec '{name_or_path}'; {_hint(name_or_path, shipped_specs())}") from error
    try:
        return _with_absolute_paths(spec, path.parent), path.stem
    except PartnerError as error:
        raise PartnerError(f"{name_or_path}: {error}") from error


def _with_absolute_paths(spec: SweepSpec, folder: Path) -> SweepSpec:
    """The spec as it is seen from any folder."""
    base = spec.base if spec.base in preset_names() else str(absolute_path(spec.base, folder))
    overrides = {key: resolve_paths(value, key, folder) for key, value in spec.overrides.items()}
    space = dict(spec.space)
    for key, tried in space.items():
        if tried.values is not None:
            listed = tuple(resolve_paths(value, key, folder) for value in tried.values)
            space[key] = Range(choice=listed) if tried.grid is None else Range(grid=listed)
    return spec.model_copy(update={"base": base, "overrides": overrides, "space": space})


def shipped_specs() -> list[str]:
    """Names of the specs that ship with the package (a W&B sweep file is none)."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml") if not path.stem.startswith("wandb"))


def checked_spec(values: dict[str, Any], source: str) -> SweepSpec:
    """A spec from the values of a file.

    Raises:
        PartnerError: A key or value is wrong: one line that says which, what was expected, and what may be meant.
    """
    try:
        return SweepSpec.model_validate_json(json_document(values, source))
    except ValidationError as error:
        problems = [_problem(details) for details in error.errors(include_url=False)]
    raise PartnerError(f"{source}: {first_problems(problems)}")


def spec_yaml(spec: SweepSpec) -> str:
    """The spec with every key as YAML text."""
    values = spec.model_dump(mode="json")
    values["space"] = {key: found.model_dump(mode="json", exclude_none=True) for key, found in spec.space.items()}
    return dump_yaml(values)


def _problem(details: ErrorDetails) -> str:
    """A validation error in one line."""
    # pydantic names the kinds of a union, which are no keys.
    place = [str(part) for part in details["loc"] if not re.match(r"\[key\]|literal\[|dict\[", str(part))]
    key = ".".join(place)
    if details["type"] == "extra_forbidden":
        siblings = Range.model_fields if len(place) == 3 and place[0] == "space" else SweepSpec.model_fields
        return f"{key}: unknown key; {_hint(place[-1], siblings)}"
    if details["type"] == "missing":
        return f"{key}: is missing"
    if details["type"] == "value_error":
        return f"{key}: {details['ctx']['error']}" if key else str(details["ctx"]["error"])
    if details["type"] == "literal_error":
        allowed = re.findall(r"'([^']+)'", details["ctx"]["expected"])
        return f"{key}: {shown(details['input'])} is none of the values; {_hint(str(details['input']), allowed)}"
    return f"{key}: {details['msg'][:1].lower()}{details['msg'][1:]} (got {shown(details['input'])})"


def _hint(given: str, valid: Iterable[str]) -> str:
    names = list(valid)
    nearest = get_close_matches(given, names, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(names)}"
