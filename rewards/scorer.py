"""What a reward component is: a cheap definition for the caller, and a scorer that holds the model.

A definition says which texts need a model's score (its items) and turns the scores into the component's value. It is
pure and small, so it travels to every process that asks for rewards. A scorer maps items to rows of numbers and lives
where its model fits: in an actor of `rewards.pool`, or in this process (`rewards.local`). Scorers are shipped as
builders, which hold paths and settings and construct the model where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from partner_rl.config.reward_schema import RewardSection
from partner_rl.types import ScoreRequest

Item = tuple[str, ...]
"""The texts that one row of scores belongs to; equal items have equal scores."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ComponentScore:
    """One component's score of one request.

    Attributes:
        details: Further metrics to log; `rewards.assembly` puts the component's name before theirs.
    """

    value: float
    details: Mapping[str, float] = field(default_factory=dict)


class RewardDefinition(Protocol):
    """The pure half of a component."""

    @property
    def name(self) -> str:
        """The component's name, as in `rewards.NAME` of the configuration."""
        ...

    @property
    def width(self) -> int:
        """Numbers in a row of the scorer's answer."""
        ...

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        """The items that the request needs scores for, possibly none, repeats allowed."""
        ...

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        """The component's score from the scores of `items(request)`, shape `[n_items, width]` in the same order."""
        ...


class Scorer(Protocol):
    """The half of a component that holds the model."""

    @property
    def name(self) -> str:
        """The component's name."""
        ...

    def score(self, items: Sequence[Item]) -> FloatArray:
        """Scores of the items, shape `[n_items, width]`.

        A row depends on its own item alone: not on the batch's size or order, nor on padding, up to 1e-4.
        """
        ...


class ScorerBuilder(Protocol):
    """A picklable recipe for a scorer."""

    def build(self) -> Scorer:
        """Construct the scorer with its model, in the process that calls.

        Raises:
            PartnerError: The model cannot be found or loaded.
        """
        ...


@dataclass(frozen=True, slots=True)
class RewardComponent:
    """A reward component, ready to be run."""

    definition: RewardDefinition
    builder: ScorerBuilder
    settings: RewardSection
