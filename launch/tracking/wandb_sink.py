"""W&B: curves, configuration, before/after table, models and alerts.

W&B is never asked while training: everything is written to a log in the run folder (W&B's offline mode), which takes
milliseconds. Online, a process of its own (`launch.tracking.uploading`) sends the log as it grows. So a server that is
slow or gone neither slows nor stops training, and what was not sent still lies there: `partner-rl runs sync RUN`.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from launch.run_folder.provenance import provenance
from launch.run_folder.record import read_record, update_record
from launch.tracking.mode import wandb_mode
from launch.tracking.uploading import Uploader, segments, send_all
from partner_rl import metric_names
from partner_rl.config.schema import RunConfig, TrackingConfig
from partner_rl.storage.full_disk import can_be_written

_logger = logging.getLogger(__name__)

LATEST: Final = "latest"
BEST: Final = "best"
"""Aliases of checkpoints on W&B."""
_WANDB_ID_KEY: Final = "wandb_run_id"
_TABLE_KEY: Final = "samples"
_EVALUATION_KEY: Final = "evaluation"
_FLUSH_S: Final = 1.0
_STAGED: Final = "models"


class WandbSink:
    """A W&B run: curves over `step`, the configuration, a table of all before/after rows, and models.

    W&B is never a reason for a run to stop: when it fails, that is said once and the run goes on without it.

    Args:
        run_dir: The run folder; W&B's files go into its `wandb` folder, the run's id into `run.json`.
        restored_samples: Rows of earlier steps, so that the table of a resumed run is whole.
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
        self._run_dir = run_dir
        self._name = config.name or run_dir.name
        self._upload_wait_s = tracking.upload_wait_s
        self._table: Any = None
        self._system: Mapping[str, float] = {}
        self._unlogged = [dict(record) for record in restored_samples]
        self._run: Any = None
        self._uploader: Uploader | None = None
        try:
            self._run = _start_wandb(run_dir, config, tracking, resume_step)
            if wandb_mode(tracking) == "online":
                self._uploader = Uploader(run_dir, Path(self._run.settings.sync_dir))
        except Exception as error:
            _report_wandb_failure(error)

    def note_system(self, metrics: Mapping[str, float]) -> None:
        """Takes metrics of the nodes, to be logged with the next step."""
        self._system = dict(metrics)

    def log(self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the metrics, and the table when there are rows."""
        self._attempt(lambda: self._log(step, metrics, rows))
        if self._uploader is not None:
            self._uploader.check()

    def _log(self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
        record: dict[str, Any] = {metric_names.STEP: step, **metrics, **self._system}
        if rows:
            record[_TABLE_KEY] = self._extended_table([*self._unlogged, *rows])
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

    def checkpoint(self, step: int, folder: Path, aliases: Sequence[str]) -> None:
        """Logs a checkpoint as the next version of the run's checkpoints; `folder` may be removed afterwards."""

        def stage_and_log() -> None:
            staged = self._run_dir / "wandb" / _STAGED / folder.name
            # Links cost no room, and W&B finds the files when the run itself keeps them no longer.
            shutil.rmtree(staged, ignore_errors=True)
            shutil.copytree(folder, staged, copy_function=_link_or_copy)
            self._log_folder(f"{self._name}-checkpoint", staged, {"iterations": step}, aliases)

        self._attempt(stage_and_log)

    def policy(self, folder: Path) -> None:
        """Logs the exported policy, which stays where it is."""
        self._attempt(lambda: self._log_folder(f"{self._name}-policy", folder, {}, [LATEST]))

    def _log_folder(self, name: str, folder: Path, metadata: Mapping[str, Any], aliases: Sequence[str]) -> None:
        import wandb

        artifact = wandb.Artifact(name, type="model", metadata=dict(metadata))
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            inside = path.relative_to(folder).as_posix()
            artifact.add_file(str(path), name=inside, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=list(aliases))

    def close(self, exit_code: int) -> None:
        """Ends the W&B run with the command's exit code, and waits for the upload as long as the settings allow."""
        self._attempt(lambda: self._run.finish(exit_code=exit_code))
        self._run = None
        if self._uploader is not None:
            self._uploader.close(self._upload_wait_s)
            self._uploader = None
        if all(segment.is_sent for segment in segments(self._run_dir)):
            shutil.rmtree(self._run_dir / "wandb" / _STAGED, ignore_errors=True)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Does something with the W&B run, if there is one; the first failure ends W&B's part."""
        if self._run is None:
            return
        try:
            action()
        except Exception as error:
            _report_wandb_failure(error)
            self._run = None


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Some file systems know no links.
        shutil.copy2(source, target)


def _report_wandb_failure(error: Exception) -> None:
    reason = " ".join(str(error).split())
    _logger.warning("W&B failed (%s: %s); the run goes on without it", type(error).__name__, reason)


def _start_wandb(run_dir: Path, config: RunConfig, tracking: TrackingConfig, resume_step: int | None) -> Any:
    """Starts a W&B run that is written to the run folder, or goes on with the one whose id is in `run.json`."""
    import wandb

    # Tables are staged here before they are sent; texts stay inside the run folder.
    own = str(run_dir.absolute() / "wandb")
    os.environ["WANDB_DATA_DIR"] = own
    if not can_be_written(Path("~/.cache").expanduser()):
        # W&B's process would log onto the terminal instead.
        os.environ["XDG_CACHE_HOME"] = own
    run = wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        group=tracking.group,
        tags=tracking.tags,
        notes=tracking.notes,
        name=config.name or run_dir.name,
        id=_new_wandb_id(run_dir) if resume_step is None else _wandb_id(run_dir),
        resume="allow",
        # Absolute: the process that writes there may be an agent's and stand in another folder.
        dir=run_dir.absolute(),
        mode="offline",
        config={**config.model_dump(mode="json"), "provenance": provenance().as_json()},
        settings=wandb.Settings(
            silent=True,
            # The terminal shows posts, so its text is not sent; nor is the code.
            console="off",
            disable_code=True,
            # What is not written yet is lost with the machine, and the upload sees only what is written.
            x_transaction_log_flush_interval=_FLUSH_S,
        ),
    )
    # W&B refuses to log an earlier step again, as a resumed run must: `step` is a metric of our own.
    run.define_metric(metric_names.STEP, hidden=True)
    run.define_metric("*", step_metric=metric_names.STEP)
    return run


def log_evaluation(run_dir: Path, config: RunConfig, records: Sequence[Mapping[str, Any]]) -> None:
    """Adds an evaluation to the W&B run of a run folder, as the table `evaluation`; nothing when W&B is disabled.

    The records hold one system's metrics each, all with the same keys, and no texts of posts.
    """
    if wandb_mode(config.tracking) == "disabled":
        return
    try:
        import wandb

        run = _start_wandb(run_dir, config, config.tracking, resume_step=0)
        columns: list[str | int] = list(records[0])
        rows = [[record[str(column)] for column in columns] for record in records]
        run.log({_EVALUATION_KEY: wandb.Table(columns=columns, data=rows, allow_mixed_types=True)})
        run.finish()
        if wandb_mode(config.tracking) == "online":
            send_all(run_dir, config.tracking.upload_wait_s)
    except Exception as error:
        _report_wandb_failure(error)


def _wandb_id(run_dir: Path) -> str:
    """The id of the W&B run that a resumed run continues; a new one when there was none."""
    return str(read_record(run_dir).get(_WANDB_ID_KEY) or _new_wandb_id(run_dir))


def _new_wandb_id(run_dir: Path) -> str:
    """The id of a new W&B run, noted in `run.json`: the one that a W&B sweep's agent gave, or our own."""
    identifier = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    update_record(run_dir, {_WANDB_ID_KEY: identifier})
    return identifier
