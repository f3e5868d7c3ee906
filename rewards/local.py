"""The rewards in this process, without Ray: the same answers as `rewards.pool`, one component after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from partner_rl.types import PartnerError, RewardBreakdown, ScoreRequest
from rewards.assembly import assemble, check_rows, collect_items
from rewards.scorer import FloatArray, Item, RewardComponent, Scorer


class LocalRewards:
    """Scorers that are built at once and called directly."""

    def __init__(self, components: Mapping[str, RewardComponent]) -> None:
        """Build the scorers of all components, also of those that weigh nothing.

        Raises:
            PartnerError: A model cannot be found or loaded.
        """
        self._components = dict(components)
        self._scorers = {name: component.builder.build() for name, component in components.items()}

    def score(self, requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
        """The scores of each request; components that weigh nothing are left out.

        Raises:
            PartnerError: A scorer's answer is malformed; names the scorer and the request.
        """
        definitions = [c.definition for c in self._components.values() if c.settings.is_active]
        tables = {definition.name: collect_items(definition, requests) for definition in definitions}
        values = {name: self._score(name, table.items, table.first_request) for name, table in tables.items()}
        return assemble(requests, definitions, tables, values)

    def score_items(self, component: str, items: Sequence[Item]) -> FloatArray:
        """A component's scores of any items, shape `[n_items, width]`; errors name the item by its index.

        Raises:
            PartnerError: As for `score`, or there is no such component.
        """
        self.scorer(component)
        return self._score(component, items, range(len(items)))

    def scorer(self, component: str) -> Scorer:
        """A component's scorer, for what it can tell beside scores.

        Raises:
            PartnerError: There is no such component.
        """
        if component not in self._components:
            raise PartnerError(f"no reward component {component!r}: there are {sorted(self._components)}")
        return self._scorers[component]

    def _score(self, name: str, items: Sequence[Item], rows: Sequence[int]) -> FloatArray:
        width = self._components[name].definition.width
        if not items:
            return np.zeros((0, width), dtype=np.float32)
        return check_rows(self._scorers[name].score(items), name, width, rows)
