"""`partner-rl watch`: a run's metrics in the terminal, as they come; reads the run folder and nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from launch.console import out
from launch.run_folder.reader import (
    JsonlTail,
    Row,
    RunInfo,
    last_rows,
    read_run,
    read_stall,
    recent_mean,
    series,
)
from launch.run_folder.record import CONFIG_FILE, METRICS_FILE, SAMPLES_FILE, TEXT_COLUMNS, read_record, run_state
from partner_rl import metric_names as names
from partner_rl.algorithm.guard_limits import LIMITS
from partner_rl.types import PartnerError

_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH: Final = 32
_BAR_WIDTH: Final = 24
_TEXT_LIMIT: Final = 400
_STATE_STYLES: Final = {"running": "green", "finished": "green", "failed": "red", "killed": "red"}
_PHASES: Final = (
    ("generate", names.TIME_GENERATE),
    ("score", names.TIME_SCORE),
    ("update", names.TIME_UPDATE),
    ("sync", names.TIME_SYNC),
    ("other", names.TIME_OTHER),
)
_SPEED: Final = (("episodes/s", names.EPISODES_PER_SECOND), ("tokens/s", names.TOKENS_PER_SECOND))
_POLICY: Final = (
    ("kl a token", names.POLICY_KL),
    ("kl a sentence", names.POLICY_KL_SENTENCE),
    ("position entropy", names.POLICY_POSITION_ENTROPY),
    ("sentence entropy", names.POLICY_SENTENCE_ENTROPY),
    ("distinct sentences", names.POLICY_DISTINCT_SENTENCES),
    ("commonest sentence", names.POLICY_COMMONEST_SENTENCE),
    ("commonest opening", names.POLICY_COMMONEST_OPENING),
    ("openings", names.POLICY_EFFECTIVE_OPENINGS),
)
_MANY_WITHOUT_SPREAD: Final = 0.3
"""Share of groups without spread from which on it is said."""


def command(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two frames.")] = 2.0,
    posts: Annotated[bool, typer.Option("--posts/--no-posts", help="Show the last rewrite.")] = True,
) -> None:
    """Watch a run in the terminal until it ends; Ctrl-C stops watching, not the run.

    Example: `partner-rl watch runs/first`
    """
    watched = WatchedRun(run)
    if once:
        out.print(frame(watched.look(), posts=posts))
        return
    try:
        with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
            while True:
                view = watched.look()
                live.update(frame(view, posts=posts), refresh=True)
                if view.run.state not in ("new", "running"):
                    break
                time.sleep(interval)
    except KeyboardInterrupt:
        return
    if out.is_terminal:
        # The last frame has gone with the screen that it was on.
        out.print(frame(watched.look(), posts=posts))


@dataclass(frozen=True, slots=True)
class View:
    """What one frame shows at `now`, in seconds since the epoch; `stall` is what `read_stall` found."""

    run: RunInfo
    sample: Row | None
    now: float
    stall: tuple[float, str] | None = None


class WatchedRun:
    """Reads a run folder again and again; of the metrics only what is new.

    Raises:
        PartnerError: It is no run folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._config = read_run(path).config
        self._metrics = JsonlTail(path / METRICS_FILE)

    def look(self) -> View:
        """How the run stands."""
        if not (self._path / CONFIG_FILE).is_file():
            raise PartnerError(f"{self._path} has been removed")
        record = read_record(self._path)
        info = RunInfo(self._path, run_state(record), record, self._config, self._metrics.rows())
        samples = last_rows(self._path / SAMPLES_FILE)
        return View(info, samples[-1] if samples else None, time.time(), read_stall(self._path))


def frame(view: View, *, posts: bool = True) -> RenderableType:
    """One frame; with `posts`, it shows the texts of the last rewrite."""
    run = view.run
    parts: list[RenderableType] = [_header(view)]
    if run.metrics:
        parts += [_rewards(run), _columns(run), _guards(run)]
        note = idle_groups(run)
        if note is not None:
            parts.append(Text(note, style="yellow"))
    else:
        parts.append(Text("no iteration has been logged yet", style="dim"))
    if view.sample is not None and posts:
        parts.append(_rewrite(view.sample))
    return Group(*parts)


def _header(view: View) -> Text:
    run = view.run
    text = Text.assemble(
        (run.path.name, "bold"), "  ", (run.state, _STATE_STYLES.get(run.state, "yellow")), "  ",
        f"iteration {run.iterations}/{run.planned or '?'}",
    )  # fmt: skip
    if run.record.get("host"):
        text.append(f" · on {run.record['host']}")
    started = run.record.get("started")
    if started:
        ended = run.record.get("ended")
        end = datetime.fromisoformat(ended).timestamp() if ended else view.now
        text.append(f" · {_duration(end - datetime.fromisoformat(started).timestamp())}")
    left = time_left(run)
    if run.state == "running" and left is not None:
        text.append(f" · about {_duration(left)} left")
    if run.record.get("reason"):
        text.append(f"\n{run.record['reason']}", style="red")
    if view.stall is not None and run.state == "running":
        noticed, message = view.stall
        text.append(f"\n{_duration(view.now - noticed)} ago: {message}", style="bold yellow")
    return text


def time_left(run: RunInfo) -> float | None:
    """Seconds that the iterations still to come will take, at the speed of the last ones; None if unknown."""
    seconds = recent_mean(series(run.metrics, names.TIME_ITERATION))
    if seconds is None or run.planned is None:
        return None
    return seconds * max(0, run.planned - run.iterations)


def _rewards(run: RunInfo) -> Table:
    table = _table("reward", "last", "mean of 10", "since the start")
    components = sorted(key for key in _keys(run) if key.startswith(names.reward_raw("")))
    for key in [names.REWARD_TOTAL, *components]:
        values = series(run.metrics, key)
        if any(map(math.isfinite, values)):
            label = "total" if key == names.REWARD_TOTAL else key.removeprefix(names.reward_raw(""))
            table.add_row(label, *_last_and_mean(values), sparkline(values, _SPARK_WIDTH))
    return table


def _columns(run: RunInfo) -> Table:
    """Where the time goes, beside speed and policy."""
    both = Table.grid(padding=(0, 4))
    both.add_row(_phases(run), _metrics(run))
    return both


def _phases(run: RunInfo) -> Table:
    table = _table("phase", "seconds", "")
    whole = recent_mean(series(run.metrics, names.TIME_ITERATION)) or 0.0
    for label, key in _PHASES:
        seconds = recent_mean(series(run.metrics, key))
        if seconds is not None:
            share = max(0.0, seconds / whole) if whole else 0.0
            table.add_row(label, f"{seconds:.2f}", Text("█" * round(share * _BAR_WIDTH), style="cyan"))
    table.add_row("iteration", f"{whole:.2f}", "")
    return table


def _metrics(run: RunInfo) -> Table:
    table = _table("metric", "last", "mean of 10", "since the start")
    for label, key in (*_SPEED, *_POLICY):
        values = series(run.metrics, key)
        if any(map(math.isfinite, values)):
            table.add_row(label, *_last_and_mean(values), sparkline(values, _SPARK_WIDTH // 2))
    return table


def _guards(run: RunInfo) -> Text:
    last = run.metrics[-1]
    alarms = last.get(names.guard("alarms"))
    if alarms is None:
        return Text("guards: no metrics", style="dim")
    text = _watched("guards", run, names.guard)
    if last.get(names.machine("alarms")) is not None:
        text.append("\n").append_text(_watched("machine", run, names.machine))
    if alarms or last.get(names.machine("alarms")):
        text.append("".join(f"\n{line}" for line in _advice(run)), style="red")
    return text


def _advice(run: RunInfo) -> list[str]:
    """What the guards whose limit is passed advise."""
    lines = []
    for guard in LIMITS:
        value = run.metrics[-1].get((names.machine if guard.of_machine else names.guard)(guard.name))
        limit = run.config.get(f"guards.{guard.key}")
        if value is not None and limit is not None and guard.is_passed(value, limit):
            lines.append(f"{guard.name}: {guard.advice}")
    return lines


def _watched(title: str, run: RunInfo, name_of: Callable[[str], str]) -> Text:
    """The alarms and the metrics of the guards of one kind."""
    last, prefix = run.metrics[-1], name_of("")
    alarms = last[name_of("alarms")]
    values = [f"{k.removeprefix(prefix)} {v:.3g}" for k, v in last.items() if k.startswith(prefix) and v is not None]
    shown = [value for value in values if not value.startswith("alarms ")]
    raised = sum(bool(row.get(name_of("alarms"))) for row in run.metrics)
    said = f"{int(alarms)} alarms now" if alarms else "quiet"
    past = f", {raised} iterations with alarms so far" if raised else ""
    return Text(f"{title}: {said}{past}  ({', '.join(shown) or 'no reading yet'})", style="bold red" if alarms else "")


def idle_groups(run: RunInfo) -> str | None:
    """Says that many groups teach nothing, and which components tell their samples apart least; None where few do."""
    idle = recent_mean(series(run.metrics, names.TRAIN_GROUPS_WITHOUT_SPREAD))
    if idle is None or idle <= _MANY_WITHOUT_SPREAD:
        return None
    prefix = names.reward_without_spread("")
    shares = {
        key.removeprefix(prefix): recent_mean(series(run.metrics, key)) for key in _keys(run) if key.startswith(prefix)
    }
    flat = sorted(((s, name) for name, s in shares.items() if s is not None and s > _MANY_WITHOUT_SPREAD), reverse=True)
    return (
        f"{idle:.0%} of the groups teach nothing: all their samples earn the same. Raise policy.temperature, "
        "algorithm.samples_per_group or algorithm.kl_coeff, or give weight to a reward that differs"
        + (f" (without spread: {', '.join(f'{name} {share:.0%}' for share, name in flat)})" if flat else "")
    )


def _rewrite(sample: Row) -> Panel:
    title = f"last rewrite, iteration {sample.get(names.STEP)}"
    if any(column not in sample for column in TEXT_COLUMNS):
        return Panel(Text("texts are redacted (tracking.redact)", style="dim"), title=title)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for column in TEXT_COLUMNS:
        table.add_row(column.replace("_", " "), Text(_shortened(str(sample[column]))))
    metrics = {k: v for k, v in sample.items() if k not in (names.STEP, *TEXT_COLUMNS)}
    table.add_row("rewards", ", ".join(f"{name} {value:+.3f}" for name, value in metrics.items() if _is_number(value)))
    return Panel(table, title=title)


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in one line of at most `width` characters, oldest value first; a space where a value is not finite.

    More values are averaged to as many.
    """
    if not values:
        return ""
    bounds = [round(i * len(values) / min(width, len(values))) for i in range(min(width, len(values)) + 1)]
    means = [_finite_mean(values[a:b]) for a, b in pairwise(bounds)]
    known = [mean for mean in means if mean is not None]
    if not known:
        return " " * len(means)
    low, span = min(known), max(known) - min(known)
    return "".join(" " if mean is None else _spark((mean - low) / span if span else 0.5) for mean in means)


def _spark(share: float) -> str:
    return _SPARKS[min(len(_SPARKS) - 1, int(share * len(_SPARKS)))]


def _finite_mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else None


def _last_and_mean(values: Sequence[float]) -> tuple[str, str]:
    last, mean = values[-1], recent_mean(values)
    return (f"{last:.3f}" if math.isfinite(last) else "–"), ("–" if mean is None else f"{mean:.3f}")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        is_number = column in ("last", "mean of 10", "seconds")
        table.add_column(
            column, justify="right" if is_number else "left", no_wrap=True, style="bold" if not number else ""
        )
    return table


def _keys(run: RunInfo) -> Mapping[str, Any]:
    return dict.fromkeys(key for row in run.metrics for key in row)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_LIMIT else f"{line[:_TEXT_LIMIT]}…"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
