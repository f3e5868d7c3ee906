"""A line on the terminal for each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from launch.console import err
from partner_rl import metric_names


class ConsoleSink:
    """One line on the terminal for each of the iterations; no texts."""

    _METRICS: Final = (
        (metric_names.REWARD_TOTAL, "reward", "+.3f", ""),
        (metric_names.reward_raw("empathy"), "empathy", "+.3f", ""),
        (metric_names.reward_raw("fluency"), "fluency", ".3f", ""),
        (metric_names.POLICY_KL, "kl", ".4f", ""),
        (metric_names.POLICY_POSITION_ENTROPY, "position entropy", ".2f", ""),
        (metric_names.TIME_ITERATION, "took", ".1f", " s"),
    )

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
        """Prints the metrics that say how training goes."""
        parts = [f"{name} {metrics[key]:{form}}{unit}" for key, name, form, unit in self._METRICS if key in metrics]
        err.print(Text(f"iteration {step}/{self._iterations}", "bold"), *parts, sep=" · ", soft_wrap=True)

    def close(self, exit_code: int) -> None:
        """Nothing to close."""
