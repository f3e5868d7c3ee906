"""Where a run's figures go: `metrics.jsonl` and `samples.jsonl`, TensorBoard, W&B and a line on the terminal.

Only the driver tracks; Ray's workers never see a tracker. Texts (the before/after rows) are written to the run folder
and to W&B, at most `tracking.sample_rows` a step; none at 0.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

from tensorboardX import SummaryWriter

from launch.console import err
from partner_rl import metric_names
from partner_rl.config.schema import RunConfig, TrackingConfig
from partner_rl.durable import sync
from partner_rl.types import PartnerError

_logger = logging.getLogger(__name__)

METRICS_FILE: Final = "metrics.jsonl"
SAMPLES_FILE: Final = "samples.jsonl"
RUN_FILE: Final = "run.json"
_WANDB_ID_KEY: Final = "wandb_run_id"
_TABLE_KEY: Final = "samples"
_EVALUATION_KEY: Final = "evaluation"
_TEXT_COLUMNS: Final = ("seeker_post", "response_post", "rewritten_response")
_WANDB_START_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One row of the before/after table.

    Attributes:
        seeker_post: The seeker's post.
        response_post: The response as the supporter wrote it.
        rewritten_response: The response as the policy rewrote it.
        rewards: Name → figure to show beside the texts, such as the total reward and its weighted components.
    """

    seeker_post: str
    response_post: str
    rewritten_response: str
    rewards: Mapping[str, float] = field(default_factory=dict)

    def as_record(self, step: int) -> dict[str, Any]:
        """The row as one flat record."""
        texts = {name: getattr(self, name) for name in _TEXT_COLUMNS}
        return {metric_names.STEP: step, **texts, **self.rewards}


class Sink(Protocol):
    """One place that figures go to."""

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[SampleRow]) -> None:
        """Takes one step's metrics and before/after rows."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Takes the figures that describe the whole run."""

    def close(self, exit_code: int) -> None:
        """Writes what is left; nothing is logged afterwards."""


class Tracker:
    """Hands each step's figures to every sink; a context manager that closes them.

    Leaving the context after an exception closes with the exit code that the command will have: 130 after Ctrl-C,
    else 1.

    Args:
        run_dir: The run folder; made if it is missing.
        config: The run's configuration, which goes to W&B.
        tracking: Which sinks there are.
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
        self._closed = False
        jsonl = self._jsonl = JsonlSink(run_dir, resume_step)
        self._sinks: list[Sink] = [jsonl]
        if tracking.tensorboard:
            self._sinks.append(TensorBoardSink(run_dir / "tensorboard", resume_step))
        if tracking.wandb != "disabled":
            self._sinks.append(WandbSink(run_dir, config, tracking, jsonl.restored_samples, resume_step))
        self._sinks.append(ConsoleSink(config.algorithm.iterations))

    def wants(self, step: int) -> bool:
        """Whether a step is one of those to log, every `tracking.log_every`-th."""
        return step % self._tracking.log_every == 0

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[SampleRow] = ()) -> None:
        """Logs one step.

        Args:
            step: The iteration, counted from 1.
            metrics: Key (see `partner_rl.metric_names`) → figure.
            rows: Before/after rows; those over `tracking.sample_rows` are left out.
        """
        for sink in self._sinks:
            sink.log(step, metrics, rows[: self._tracking.sample_rows])

    def sync(self) -> None:
        """Waits until the lines logged so far are on the disk; a checkpoint must not know more steps than they."""
        self._jsonl.sync()

    def alert(self, title: str, text: str) -> None:
        """Sends a warning to whoever follows the run on W&B; nothing without W&B.

        Args:
            title: What it is about.
            text: One line, without any text of a post.
        """
        for sink in self._sinks:
            if isinstance(sink, WandbSink):
                sink.alert(title, text)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Hands the run's closing figures (nested mappings allowed) to the trackers that keep a summary."""
        for sink in self._sinks:
            sink.summary(values)

    def close(self, exit_code: int) -> None:
        """Closes every sink; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
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


class JsonlSink:
    """`metrics.jsonl` and `samples.jsonl`: one line a step or row, flushed, so that a killed run loses nothing.

    Figures that are no finite numbers are written as null, because JSON has no others.

    Attributes:
        restored_samples: The rows of `samples.jsonl` that a resumed run goes on with.
    """

    def __init__(self, run_dir: Path, resume_step: int | None) -> None:
        metrics_path, samples_path = run_dir / METRICS_FILE, run_dir / SAMPLES_FILE
        self.restored_samples: list[dict[str, Any]] = []
        if resume_step is not None:
            _drop_later_steps(metrics_path, resume_step)
            self.restored_samples = _drop_later_steps(samples_path, resume_step)
        elif metrics_path.exists():
            raise PartnerError(f"{metrics_path} exists already: resume that run, or choose another name for this one")
        self._metrics = metrics_path.open("a", encoding="utf-8")
        self._samples = samples_path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[SampleRow]) -> None:
        """Appends a line to `metrics.jsonl`, and one to `samples.jsonl` for each row."""
        self._metrics.write(_json_line({metric_names.STEP: step, **metrics}))
        self._metrics.flush()
        for row in rows:
            self._samples.write(_json_line(row.as_record(step)))
        self._samples.flush()

    def sync(self) -> None:
        """Waits until both files are on the disk."""
        for file in (self._metrics, self._samples):
            os.fsync(file.fileno())

    def summary(self, values: Mapping[str, Any]) -> None:
        """Nothing to do: whoever computes the summary writes `summary.json`."""

    def close(self, exit_code: int) -> None:
        """Closes both files."""
        self._metrics.close()
        self._samples.close()


def _json_line(record: Mapping[str, Any]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
    return json.dumps(finite, ensure_ascii=False, allow_nan=False, default=float) + "\n"


def _drop_later_steps(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Drops the lines after a step, and a last line that was cut off, in one atomic replacement.

    Returns:
        The records that are left.

    Raises:
        PartnerError: A line that is not the last one is no JSON.
    """
    if not path.exists():
        return []
    # Bytes: a kill may have cut a character in two, and posts may hold what else counts as the end of a line.
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    kept_lines: list[bytes] = []
    kept: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise PartnerError(f"{path}: line {number} is no JSON; repair or remove the line to resume") from error
        if record[metric_names.STEP] <= last_step:
            kept_lines.append(line)
            kept.append(record)
    _write_whole(path, b"".join(line + b"\n" for line in kept_lines))
    return kept


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all, and is on the disk then."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_bytes(content)
    sync(unfinished)
    os.replace(unfinished, path)
    sync(path.parent)


class TensorBoardSink:
    """Event files for TensorBoard; figures only, no texts."""

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        purge_step = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(logdir=str(folder), purge_step=purge_step)

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[SampleRow]) -> None:
        """Writes one point on each curve; a figure that is not finite leaves a gap."""
        for key, value in metrics.items():
            if math.isfinite(value):
                self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def summary(self, values: Mapping[str, Any]) -> None:
        """Nothing to do: TensorBoard keeps no summary."""

    def close(self, exit_code: int) -> None:
        """Closes the event file."""
        self._writer.close()


class WandbSink:
    """A W&B run: curves over `step`, the configuration, and a table of all before/after rows.

    W&B is never a reason for a run to stop: when it fails, that is said once and the run goes on without it.

    Args:
        run_dir: The run folder; W&B's files go into its `wandb` folder, the run's id into `run.json`.
        config: The run's configuration.
        tracking: Mode, project, entity, group and tags.
        restored_samples: Rows of earlier steps, to be shown in an offline run that cannot see its former part.
        resume_step: None for a new run; a resumed one goes on under the id in `run.json`.
    """

    def __init__(
        self,
        run_dir: Path,
        config: RunConfig,
        tracking: TrackingConfig,
        restored_samples: Sequence[Mapping[str, Any]],
        resume_step: int | None,
    ) -> None:
        self._table: Any = None
        self._run: Any = None
        try:
            self._run = _start_wandb(run_dir, config, tracking, resume_step)
        except Exception as error:
            _report_wandb_failure(error)
        # Online, W&B itself finds the rows that the run logged before.
        already_there = self._run is None or self._run.resumed
        self._unlogged = [] if already_there else [dict(record) for record in restored_samples]

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[SampleRow]) -> None:
        """Logs the figures, and the table when there are rows."""
        self._attempt(lambda: self._log(step, metrics, rows))

    def _log(self, step: int, metrics: Mapping[str, float], rows: Sequence[SampleRow]) -> None:
        record: dict[str, Any] = {metric_names.STEP: step, **metrics}
        if rows:
            record[_TABLE_KEY] = self._extended_table([*self._unlogged, *(row.as_record(step) for row in rows)])
            self._unlogged = []
        self._run.log(record)

    def _extended_table(self, records: Sequence[Mapping[str, Any]]) -> Any:
        """The table with further rows; only these are sent, and W&B shows them below the earlier ones."""
        import wandb

        if self._table is None:
            columns: list[str | int] = list(dict.fromkeys(key for record in records for key in record))
            self._table = wandb.Table(columns=columns, log_mode="INCREMENTAL", allow_mixed_types=True)
        for record in records:
            self._table.add_data(*(record.get(column) for column in self._table.columns))
        return self._table

    def alert(self, title: str, text: str) -> None:
        """Sends a warning by mail or chat, as the user has set up on W&B."""
        self._attempt(lambda: self._run.alert(title=title, text=text, level="WARN"))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Writes the closing figures into the run's summary."""
        self._attempt(lambda: self._run.summary.update(dict(values)))

    def close(self, exit_code: int) -> None:
        """Ends the W&B run with the command's exit code."""
        self._attempt(lambda: self._run.finish(exit_code=exit_code))
        self._run = None

    def _attempt(self, action: Callable[[], None]) -> None:
        """Does something with the W&B run, if there is one; the first failure ends W&B's part."""
        if self._run is None:
            return
        try:
            action()
        except Exception as error:
            _report_wandb_failure(error)
            self._run = None


def _report_wandb_failure(error: Exception) -> None:
    reason = " ".join(str(error).split())
    _logger.warning("W&B failed (%s: %s); the run goes on without it", type(error).__name__, reason)


def _start_wandb(run_dir: Path, config: RunConfig, tracking: TrackingConfig, resume_step: int | None) -> Any:
    """Starts a W&B run, or goes on with the one whose id is in `run.json`."""
    import wandb

    # Tables are staged here before they are sent; texts stay inside the run folder.
    os.environ["WANDB_DATA_DIR"] = str(run_dir.absolute() / "wandb")
    run = wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        group=tracking.group,
        tags=tracking.tags,
        name=config.name or run_dir.name,
        id=_new_wandb_id(run_dir) if resume_step is None else _wandb_id(run_dir),
        resume="allow",
        dir=run_dir,
        mode=_wandb_mode(tracking),
        config=config.model_dump(mode="json"),
        # The terminal shows posts, so its text is not sent; nor is the code.
        settings=wandb.Settings(silent=True, console="off", disable_code=True, init_timeout=_WANDB_START_TIMEOUT_S),
    )
    # W&B refuses to log an earlier step again, as a resumed run must: `step` is a metric of our own.
    run.define_metric(metric_names.STEP, hidden=True)
    run.define_metric("*", step_metric=metric_names.STEP)
    return run


def log_evaluation(run_dir: Path, config: RunConfig, records: Sequence[Mapping[str, Any]]) -> None:
    """Adds an evaluation to the W&B run of a run folder, as the table `evaluation`; nothing when W&B is disabled.

    Args:
        run_dir: The run folder, whose W&B run goes on.
        config: The run's configuration.
        records: One record of figures a system, all with the same keys; no texts of posts.
    """
    if config.tracking.wandb == "disabled":
        return
    try:
        import wandb

        run = _start_wandb(run_dir, config, config.tracking, resume_step=0)
        columns: list[str | int] = list(records[0])
        rows = [[record[str(column)] for column in columns] for record in records]
        run.log({_EVALUATION_KEY: wandb.Table(columns=columns, data=rows, allow_mixed_types=True)})
        run.finish()
    except Exception as error:
        _report_wandb_failure(error)


def _wandb_mode(tracking: TrackingConfig) -> Literal["online", "offline", "disabled"]:
    """The mode to start W&B in; `auto` looks for the API key."""
    if tracking.wandb != "auto":
        return tracking.wandb
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


def _wandb_id(run_dir: Path) -> str:
    """The id of the W&B run that a resumed run continues; a new one when there was none."""
    return str(_run_record(run_dir).get(_WANDB_ID_KEY) or _new_wandb_id(run_dir))


def _new_wandb_id(run_dir: Path) -> str:
    """A new W&B run id, noted in `run.json`."""
    identifier = secrets.token_hex(4)
    record = _run_record(run_dir) | {_WANDB_ID_KEY: identifier}
    _write_whole(run_dir / RUN_FILE, (json.dumps(record, indent=2) + "\n").encode())
    return identifier


def _run_record(run_dir: Path) -> dict[str, Any]:
    path = run_dir / RUN_FILE
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record


class ConsoleSink:
    """One line on the terminal for each step."""

    _FIGURES: Final = (
        (metric_names.REWARD_TOTAL, "reward", "+.3f", ""),
        (metric_names.reward_raw("empathy"), "empathy", "+.3f", ""),
        (metric_names.reward_raw("fluency"), "fluency", ".3f", ""),
        (metric_names.POLICY_KL, "kl", ".4f", ""),
        (metric_names.POLICY_POSITION_ENTROPY, "position entropy", ".2f", ""),
        (metric_names.TIME_ITERATION, "took", ".1f", " s"),
    )

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[SampleRow]) -> None:
        """Prints the figures that say how training goes."""
        parts = [f"{name} {metrics[key]:{form}}{unit}" for key, name, form, unit in self._FIGURES if key in metrics]
        err.print(f"[bold]iteration {step}/{self._iterations}[/bold]", *parts, sep=" · ", soft_wrap=True)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Nothing to do: the command prints its own table."""

    def close(self, exit_code: int) -> None:
        """Nothing to close."""
