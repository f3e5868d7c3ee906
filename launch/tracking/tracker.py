"""Hands each step's metrics to every place that tracks the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

from launch.tracking.files import JsonlSink, TensorBoardSink
from launch.tracking.mode import wandb_mode
from launch.tracking.nodes import NodeWatch
from launch.tracking.sink import SampleRow, Sink
from launch.tracking.terminal import ConsoleSink
from launch.tracking.wandb_sink import BEST, LATEST, WandbSink
from partner_rl import metric_names
from partner_rl.config.schema import RunConfig, TrackingConfig


class Tracker:
    """Hands each step's metrics to every sink; a context manager that closes them.

    Leaving the context after an exception closes with the exit code that the command will have: 130 after Ctrl-C,
    else 1.

    Args:
        run_dir: The run folder; made if it is missing.
        resume_step: The step that the run was restored at: what was logged after it is dropped, and the W&B run goes
            on. None for a new run.

    Raises:
        PartnerError: A new run's folder already holds metrics, or the metrics to go on with cannot be read.
    """

    def __init__(
        self, run_dir: Path, config: RunConfig, tracking: TrackingConfig, *, resume_step: int | None = None
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._tracking = tracking
        self._checkpoint_every = config.checkpoint.every
        self._closed = False
        jsonl = self._jsonl = JsonlSink(run_dir, resume_step, config.faults.room_wait_s)
        reward = metric_names.REWARD_TOTAL
        self._rewards = {row[metric_names.STEP]: row.get(reward) for row in jsonl.restored_metrics}
        self._sinks: list[Sink] = [jsonl]
        if tracking.tensorboard:
            self._sinks.append(TensorBoardSink(run_dir / "tensorboard", resume_step, config.faults.room_wait_s))
        self._wandb: WandbSink | None = None
        self._nodes: NodeWatch | None = None
        if wandb_mode(tracking) != "disabled":
            samples = [] if tracking.redact else jsonl.restored_samples
            self._wandb = WandbSink(run_dir, config, tracking, samples, resume_step)
            self._sinks.append(self._wandb)
            self._nodes = NodeWatch(tracking.system_interval_s)
        self._sinks.append(ConsoleSink(config.algorithm.iterations))

    def wants(self, step: int) -> bool:
        """Whether a step is one of those to log, every `tracking.log_every`-th."""
        return step % self._tracking.log_every == 0

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[SampleRow] = ()) -> None:
        """Logs one step, counted from 1, with metrics by their keys (`partner_rl.metric_names`) and before/after rows.

        Rows over `tracking.sample_rows` are left out, and with `tracking.redact` the texts of all of them.
        """
        self._rewards[step] = metrics.get(metric_names.REWARD_TOTAL)
        shown = rows[: self._tracking.sample_rows]
        records = [row.as_redacted_record(step) if self._tracking.redact else row.as_record(step) for row in shown]
        if self._wandb is not None and self._nodes is not None:
            self._wandb.note_system(self._nodes.latest())
        for sink in self._sinks:
            sink.log(step, metrics, records)

    def sync(self) -> None:
        """Waits until the lines logged so far are on the disk; a checkpoint must not know more steps than they."""
        self._jsonl.sync()

    def checkpoint(self, step: int, folder: Path) -> None:
        """Hands the checkpoint after a step to W&B, if `tracking.artifacts` asks for it; it may be removed then."""
        if self._wandb is not None and self._tracking.artifacts == "checkpoints":
            best = is_best(self._rewards, step, self._checkpoint_every)
            self._wandb.checkpoint(step, folder, [LATEST, BEST] if best else [LATEST])

    def policy(self, folder: Path) -> None:
        """Hands the exported policy, which stays where it is, to W&B, unless `tracking.artifacts` is `none`."""
        if self._wandb is not None and self._tracking.artifacts != "none":
            self._wandb.policy(folder)

    def alert(self, title: str, text: str) -> None:
        """Sends a warning, without any text of a post, to whoever follows the run on W&B."""
        if self._wandb is not None:
            self._wandb.alert(title, text)

    def close(self, exit_code: int) -> None:
        """Closes every sink; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._nodes is not None:
            self._nodes.stop()
        for sink in self._sinks:
            sink.close(exit_code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close(0)
        else:
            self.close(130 if issubclass(kind, KeyboardInterrupt) else 1)


def is_best(rewards: Mapping[int, float | None], step: int, every: int) -> bool:
    """Whether the iterations of a checkpoint earned more, on average, than those of every earlier one.

    An iteration's reward depends on its few examples, so that a checkpoint is judged by all iterations since the one
    before; a reward of None is not known.
    """
    means: dict[int, list[float]] = {}
    for logged, reward in rewards.items():
        if logged <= step and reward is not None:
            means.setdefault((logged - 1) // every, []).append(reward)
    own = means.pop((step - 1) // every, None)
    return own is not None and all(fmean(own) > fmean(earlier) for earlier in means.values())
