"""The weight of the KL penalty: fixed, or steered towards a target (Ziegler et al., 2019, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_MAX_ERROR: Final = 0.2
"""A KL divergence that is further from the target, relative to it, counts as this far (Ziegler et al.)."""


class KlController:
    """Holds `β`, the weight of the KL penalty; after each iteration `β ← β (1 + clip(KL/target − 1, ±0.2) / horizon)`.

    Args:
        coefficient: `β` of the first iteration.
        target: KL divergence to hold, in nats a sentence (an action: position and sentence); None keeps `β` as it is.
        horizon: `1 / K_β`: with the paper's `K_β` = 0.1, which is a horizon of 10, an iteration changes `β` by 2 % at
            most.
    """

    def __init__(self, coefficient: float, target: float | None, horizon: float) -> None:
        self.coefficient = coefficient
        self._first = coefficient
        self._scale = 1.0
        self._target = target
        self._horizon = horizon

    @property
    def adaptive(self) -> bool:
        """Whether the coefficient changes."""
        return self._target is not None

    def update(self, kl: float) -> None:
        """Takes an iteration's KL divergence from the reference, in nats a sentence."""
        if self._target is None:
            return
        error = min(max(kl / self._target - 1.0, -_MAX_ERROR), _MAX_ERROR)
        self.coefficient *= 1.0 + error / self._horizon

    def scale(self, factor: float) -> None:
        """Multiplies the coefficient; a target goes on steering it from there."""
        self.coefficient *= factor
        self._scale *= factor

    def state(self) -> Mapping[str, float]:
        """What must be saved for an exact resume, as JSON."""
        return {"coefficient": self.coefficient, "scale": self._scale}

    def restore(self, state: Mapping[str, float]) -> None:
        """Takes back what `state` returned; a fixed coefficient stays that of the configuration, scaled as it was."""
        self._scale = state["scale"]
        self.coefficient = state["coefficient"] if self.adaptive else self._first * self._scale
