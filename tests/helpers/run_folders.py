"""Run folders as a training leaves them, made without one."""

from __future__ import annotations

import json
import math
from pathlib import Path

from launch.run_folder.record import recorded
from launch.tracking.sink import SampleRow
from launch.tracking.tracker import Tracker
from partner_rl import metric_names as names
from partner_rl.config.load import load_config, save_config

POST = "My exam went badly and I feel like giving up."
REWRITE = "I am sorry, that must hurt. Try again next year."


def write_run(path: Path, *overrides: str, steps: int = 12, reward: float = 0.5) -> Path:
    """A finished run whose reward rises by 0.1 an iteration to `reward`."""
    config = load_config("smoke", ["tracking.wandb=disabled", "algorithm.iterations=20", *overrides])
    save_config(config, path / "config.yaml")
    with recorded(path), Tracker(path, config, config.tracking) as tracker:
        log_steps(tracker, 1, steps, reward)
    (path / "summary.json").write_text(json.dumps({"systems": {"rl": {"perplexity": 20.0 + reward}}}))
    return path


def log_steps(tracker: Tracker, first: int, last: int, reward: float = 0.5) -> None:
    for step in range(first, last + 1):
        value = reward - (last - step) / 10
        row = SampleRow(POST, "Try again next year.", REWRITE, {"total": value, "empathy": 1.25})
        tracker.log(step, figures(step, value), [row])


def figures(step: int, reward: float) -> dict[str, float]:
    return {
        names.REWARD_TOTAL: reward,
        names.reward_raw("empathy"): reward / 2,
        # A figure that is sometimes none.
        names.reward_raw("coherence"): math.nan if step % 3 == 0 else 0.25,
        names.POLICY_KL: 0.01 * step,
        names.TIME_GENERATE: 6.0,
        names.TIME_UPDATE: 3.0,
        names.TIME_ITERATION: 10.0,
        names.EPISODES_PER_SECOND: 8.0,
        names.guard("alarms"): float(step == 5),
        names.guard("opening_share"): 0.25,
    }
