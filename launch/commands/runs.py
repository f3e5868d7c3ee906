"""`partner-rl runs`: list runs, compare two of them, and send to W&B what it has not got yet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from launch.console import err, out
from launch.run_folder.reader import RunInfo, dotted, find_runs, read_run, recent_mean, series
from partner_rl import metric_names as names
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from launch.tracking.uploading import Segment

_LIST: Final = "list"
_NOT_SETTINGS: Final = ("name", "runs_dir")
"""Keys that say where a run lies, not what it does."""
_SHOWN_KEYS: Final = 4
_STYLES: Final = {"running": "green", "failed": "red", "killed": "red", "interrupted": "yellow"}
_EVALUATION: Final = "evaluation/"
_COMPARED: Final = (names.REWARD, names.POLICY, names.guard(""), names.THROUGHPUT, names.TIME_ITERATION, _EVALUATION)
_DETAILS: Final = (names.POSITIONS, names.reward_detail(""))


class _ListByDefault(TyperGroup):
    """`runs DIR` is `runs list DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command's name in front where it is missing."""
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h")):
            args = [_LIST, *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=_ListByDefault,
    help="List runs, compare two of them, or send them to W&B.\n\nExample: `partner-rl runs`",
    rich_markup_mode="markdown",
)


@app.command(_LIST)
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder of run folders; those inside of sweeps count too.")] = Path(
        "runs"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a run instead of a table.")] = False,
) -> None:
    """List runs: state, iterations, reward, and the keys in which they differ (the default command).

    Example: `partner-rl runs`
    """
    if not folder.is_dir():
        raise PartnerError(f"there is no folder {folder}: name the folder of your runs")
    runs = _readable(find_runs(folder))
    changed = changed_keys([run.config for run in runs])
    if as_json:
        for run, keys in zip(runs, changed, strict=True):
            typer.echo(json.dumps(_as_json(run, keys)))
        return
    if not runs:
        out.print(f"no runs in {folder}", soft_wrap=True)
        return
    out.print(_list_table(runs, changed, folder))


def _readable(paths: Sequence[Path]) -> list[RunInfo]:
    """The runs that can be read; says which cannot, and why: one damaged file must not hide the others."""
    runs = []
    for path in paths:
        try:
            runs.append(read_run(path))
        except PartnerError as error:
            err.print(f"left out: {error}", style="yellow", soft_wrap=True)
    return runs


def changed_keys(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each run the keys in which it differs from most of the others, with its own values.

    Values are by dotted key; a run without any is not known.
    """
    keys = dict.fromkeys(key for config in configs for key in config if key not in _NOT_SETTINGS)
    usual = {}
    for key in keys:
        counts = Counter(_text(config[key]) for config in configs if key in config)
        usual[key] = counts.most_common(1)[0][0]
    return [
        {key: config[key] for key in keys if key in config and _text(config[key]) != usual[key]} for config in configs
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _as_json(run: RunInfo, changed: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "state": run.state,
        "reason": run.record.get("reason"),
        "started": run.record.get("started"),
        "iterations": run.iterations,
        "planned": run.planned,
        "reward": recent_mean(series(run.metrics, names.REWARD_TOTAL)),
        "changed": dict(changed),
    }


def _list_table(runs: Sequence[RunInfo], changed: Sequence[Mapping[str, Any]], folder: Path) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("iterations", justify="right", no_wrap=True)
    table.add_column("reward", justify="right", no_wrap=True)
    table.add_column("started", no_wrap=True)
    table.add_column("differs in", overflow="fold")
    for run, keys in zip(runs, changed, strict=True):
        name = str(run.path.relative_to(folder)) if run.path != folder else run.path.name
        style = _STYLES.get(run.state, "")
        reward = recent_mean(series(run.metrics, names.REWARD_TOTAL))
        # Names and values may hold what Rich would take for markup.
        table.add_row(
            Text(name),
            Text(run.state, style=style),
            f"{run.iterations}/{run.planned or '?'}",
            "" if reward is None else f"{reward:+.3f}",
            str(run.record.get("started") or "")[:16].replace("T", " "),
            Text(_shown(keys) if run.config else "its configuration is of another version"),
        )
    return table


def _shown(keys: Mapping[str, Any]) -> str:
    parts = [f"{key}={_text(value)}" for key, value in list(keys.items())[:_SHOWN_KEYS]]
    return ", ".join(parts) + (f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else "")


@app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="A run folder.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    every: Annotated[bool, typer.Option("--all", help="Show every metric.")] = False,
) -> None:
    """Show in which keys two runs differ, and their metrics side by side.

    Metrics are means of the last ten logged steps, and those of the evaluation where a run has one.

    Example: `partner-rl runs compare runs/first runs/second`
    """
    runs = (read_run(first), read_run(second))
    out.print(_pair_table("Configuration", runs, _config_rows(runs)))
    out.print(_pair_table("Metrics", runs, _metric_rows(runs, every)))


def _pair_table(title: str, runs: tuple[RunInfo, RunInfo], rows: Sequence[tuple[str, ...]]) -> Table:
    has_difference = any(len(row) == 4 for row in rows)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for run in runs:
        table.add_column(Text(run.path.name), justify="right", overflow="fold")
    if has_difference:
        table.add_column("difference", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    if not rows:
        table.add_row("no difference" if title == "Configuration" else "no metrics")
    return table


def _config_rows(runs: tuple[RunInfo, RunInfo]) -> list[tuple[str, ...]]:
    about = [{"state": run.state, "commit": _commit(run)} | dict(run.config) for run in runs]
    keys = dict.fromkeys([*about[0], *about[1]])
    shown = [key for key in keys if key not in _NOT_SETTINGS]
    pairs = [(key, *(_text(values[key]) if key in values else "–" for values in about)) for key in shown]
    return [row for row in pairs if row[1] != row[2]]


def _commit(run: RunInfo) -> str:
    provenance = run.record.get("provenance") or {}
    commit = provenance.get("commit")
    return "unknown" if commit is None else commit[:10] + (" with changes" if provenance.get("dirty") else "")


def _metric_rows(runs: tuple[RunInfo, RunInfo], every: bool) -> list[tuple[str, ...]]:
    metrics = [_metrics(run) for run in runs]
    keys = dict.fromkeys([*metrics[0], *metrics[1]])
    shown = [key for key in keys if every or (not key.startswith(_DETAILS) and key.startswith(_COMPARED))]
    rows: list[tuple[str, ...]] = [("iterations", *(str(run.iterations) for run in runs), "")]
    for key in shown:
        values = [found.get(key) for found in metrics]
        cells = ["–" if value is None else f"{value:.4g}" for value in values]
        both = values[0] is not None and values[1] is not None
        rows.append((key, *cells, f"{values[1] - values[0]:+.4g}" if both else ""))  # type: ignore[operator]
    return rows


def _metrics(run: RunInfo) -> dict[str, float]:
    """Recent means of the metrics, and the evaluation's metrics."""
    keys = dict.fromkeys(key for row in run.metrics for key in row if key != names.STEP)
    means = {key: recent_mean(series(run.metrics, key)) for key in sorted(keys)}
    evaluated = {
        f"{_EVALUATION}{key.replace('.', '/')}": float(value)
        for key, value in dotted(_summary(run.path).get("systems", {})).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {key: mean for key, mean in means.items() if mean is not None} | evaluated


def _summary(path: Path) -> dict[str, Any]:
    file = path / "summary.json"
    if not file.exists():
        return {}
    try:
        summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PartnerError(f"{file} is no JSON: remove it, or evaluate the run again") from error
    return summary


@app.command("sync")
def sync(
    run: Annotated[Path, typer.Argument(help="A run folder that nobody trains in.")],
) -> None:
    """Send to W&B what it has not got yet: offline runs, and online ones whose server was away.

    WANDB_API_KEY and WANDB_BASE_URL say where to.

    Example: `partner-rl runs sync runs/first`
    """
    import wandb

    from launch.run_folder.lock import alone
    from launch.tracking.uploading import check_server, send_all, unsent

    read_run(run)
    # The lock knows of trainings on other machines, too, whose record cannot tell whether they are still there.
    with alone(run, "training"):
        waiting = unsent(run)
        if not waiting:
            out.print(f"nothing to send: W&B has all of {run}", soft_wrap=True)
            return
        check_server(wandb.setup().settings.base_url)
        err.print(f"sending {_parts(waiting)} of {run} to W&B", soft_wrap=True)
        sent = send_all(run, None)
    out.print(f"sent {_parts(sent)} of {run}", soft_wrap=True)


def _parts(of: Sequence[Segment]) -> str:
    return "1 part" if len(of) == 1 else f"{len(of)} parts"
