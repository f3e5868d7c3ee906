"""Figures for those who watch a cluster: Ray exports them on each node to Prometheus, under `ray_` and the name here.

Recording takes microseconds and never waits. A figure's `ray_job` is the number of the driver's job, so that runs that
share a cluster can be told apart. `launch/tracking/grafana_dashboard.json` shows all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import ray
from ray.util.metrics import Counter, Gauge, Histogram

SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Upper bounds of the histograms' buckets."""
_JOB: Final = "ray_job"


@dataclass(frozen=True, slots=True)
class RayMetric:
    """A figure.

    Attributes:
        name: Its name, with the unit; counters end in `_total`.
        kind: A sum that only grows, a level, or the distribution of durations.
        tag: What tells its values apart.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tag: str

    @property
    def exported(self) -> str:
        """Its name in Prometheus; a histogram has `_bucket`, `_sum` and `_count` behind it."""
        return f"ray_{self.name}"


POOL_QUEUE: Final = RayMetric(
    "partner_rl_pool_queue", "gauge", "Micro-batches of a reward pool that wait or are being scored", "pool"
)
POOL_ITEMS: Final = RayMetric("partner_rl_pool_items_total", "counter", "Items that a reward pool scored", "pool")
POOL_SECONDS: Final = RayMetric(
    "partner_rl_pool_seconds", "histogram", "Seconds that a scorer took for a micro-batch", "pool"
)
RESTARTS: Final = RayMetric("partner_rl_restarts_total", "counter", "Actors that were lost and started again", "actors")
PHASE_SECONDS: Final = RayMetric("partner_rl_phase_seconds", "histogram", "Seconds of a phase of an iteration", "phase")
EPISODES: Final = RayMetric("partner_rl_episodes_total", "counter", "Episodes that were trained on", "algorithm")

RAY_METRICS: Final = (POOL_QUEUE, POOL_ITEMS, POOL_SECONDS, RESTARTS, PHASE_SECONDS, EPISODES)


def record(metric: RayMetric, tag: str, value: float) -> None:
    """Adds to a counter, sets a level, or notes a duration."""
    tags = {metric.tag: tag, _JOB: _job()}
    instrument = _instrument(metric)
    if isinstance(instrument, Counter):
        if value > 0:
            instrument.inc(value, tags)
    elif isinstance(instrument, Gauge):
        instrument.set(value, tags)
    else:
        instrument.observe(value, tags)


@cache
def _instrument(metric: RayMetric) -> Counter | Gauge | Histogram:
    keys = (metric.tag, _JOB)
    if metric.kind == "counter":
        return Counter(metric.name, metric.description, keys)
    if metric.kind == "gauge":
        return Gauge(metric.name, metric.description, keys)
    return Histogram(metric.name, metric.description, list(SECONDS), keys)


def _job() -> str:
    return str(ray.get_runtime_context().get_job_id()) if ray.is_initialized() else "none"
