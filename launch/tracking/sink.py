"""What a tracker hands to its sinks, and what a sink is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from launch.run_folder.record import TEXT_COLUMNS
from partner_rl import metric_names


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One row of the before/after table; `rewards` holds values to show beside the texts, such as the total reward."""

    seeker_post: str
    response_post: str
    rewritten_response: str
    rewards: Mapping[str, float] = field(default_factory=dict)

    def as_record(self, step: int) -> dict[str, Any]:
        """The row as one flat record, for a file or a table."""
        texts = {name: getattr(self, name) for name in TEXT_COLUMNS}
        return {metric_names.STEP: step, **texts, **self.rewards}

    def as_redacted_record(self, step: int) -> dict[str, Any]:
        """The row's metrics, without the texts."""
        return {metric_names.STEP: step, **self.rewards}


class Sink(Protocol):
    """One place that metrics go to."""

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes one step's metrics and before/after rows (`SampleRow.as_record`)."""

    def close(self, exit_code: int) -> None:
        """Writes what is left; nothing is logged afterwards."""
