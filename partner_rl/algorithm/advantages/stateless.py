"""The saved state of estimators that carry nothing from one iteration to the next."""

from __future__ import annotations

from collections.abc import Mapping


class Stateless:
    """Base of the estimators that look at one iteration alone."""

    def state(self) -> Mapping[str, list[float]]:
        """Nothing is carried from one iteration to the next."""
        return {}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Nothing is carried from one iteration to the next."""
