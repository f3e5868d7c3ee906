"""The report of a sweep: all trials, the Pareto front, the chosen configuration."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from markdown_it import MarkdownIt
from pydantic import JsonValue

from launch.console import typed_command
from launch.sweep.pareto import choose, losses, pareto_front, scaled
from launch.sweep.plots import FRONT, PARALLEL, Line, draw_charts
from launch.sweep.spec import METRICS, SweepSpec
from launch.sweep.trial_records import SweepFolder, TrialRecord, WeightsFrom
from partner_rl.config.load import assignments, config_yaml, load_config
from partner_rl.config.schema import RunConfig
from partner_rl.storage.atomic import file_when_whole, write_json, write_text
from partner_rl.text.markdown import markdown_table, plain_markdown
from partner_rl.text.templates import template_environment

FIGURES_FOLDER: Final = "figures"
NOTHING: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})
_CAPTIONS: Final = {
    PARALLEL: "Swept keys and objectives of each finished trial: red the chosen one, blue the front, grey the others; "
    "of an objective the better end is above.",
    FRONT: "Each two objectives: red star the chosen trial, blue the front, grey the others.",
}


@dataclass(frozen=True, slots=True)
class Session:
    """One start of a sweep.

    Attributes:
        seconds: Wall-clock seconds of the trials, without what was trained before them.
        concurrent: Trials at a time that there was room for.
        shared_actors: Reward actors that all trials shared.
        shared_seconds: Seconds until those had loaded their models.
    """

    seconds: float
    concurrent: int
    shared_actors: int = 0
    shared_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        finished: The trials that made all their iterations: those that are compared.
        front: Those that no other one dominates → how good each is in each objective, 0…1 over the front.
        chosen: The one to take; None when none has finished.
    """

    finished: tuple[TrialRecord, ...]
    front: Mapping[str, tuple[float, ...]]
    chosen: TrialRecord | None


def sweep_result(spec: SweepSpec, records: Sequence[TrialRecord]) -> SweepResult:
    """The Pareto front of the finished trials, and the one to take."""
    finished = tuple(r for r in records if r.status == "finished" and r.last is not None)
    found = losses([r.last.metrics for r in finished if r.last is not None], spec.goals)
    places = pareto_front(found)
    if not places:
        return SweepResult(finished, {}, None)
    rows = zip(places, scaled(found, places).tolist(), strict=True)
    front = {finished[place].name: tuple(row) for place, row in rows}
    return SweepResult(finished, front, finished[choose(found, places, list(spec.goals), spec.preference)])


def chosen_config(base: str, record: TrialRecord) -> RunConfig:
    """The configuration of a trial as a run of its own, from the file that trials change.

    Weights that changed while training become schedules, so that the run repeats what the policy went through.
    """
    values: dict[str, Any] = dict(record.values)
    if record.weights:
        for key in record.weights[0].weights:
            points = schedule(record.weights, key)
            values[key] = points[-1][1]
            if len(points) > 1:
                values[key.removesuffix("weight") + "schedule"] = [list(point) for point in points]
    return load_config(base, assignments(values))


def schedule(weights: Sequence[WeightsFrom], key: str) -> list[tuple[int, float]]:
    """A key's weights as the points of a schedule that is linear in between: each change takes one iteration."""
    points = [(weights[0].iteration, weights[0].weights[key])]
    for before, after in pairwise(weights):
        if after.weights[key] == points[-1][1]:
            continue
        if after.iteration - 1 > points[-1][0]:
            points.append((after.iteration - 1, before.weights[key]))
        points.append((after.iteration, after.weights[key]))
    return points


def write_report(
    sweep: SweepFolder,
    spec: SweepSpec,
    records: Sequence[TrialRecord],
    sessions: Sequence[Session],
    incomparable: Mapping[str, Sequence[str]] = NOTHING,
) -> SweepResult:
    """Writes `report.md`, `report.html`, `report.json`, `trials.parquet`, the charts and `chosen.yaml`."""
    found = sweep_result(spec, records)
    if found.chosen is not None:
        lines = [
            Line(r.values, r.last.metrics, r.name in found.front, r is found.chosen) for r in found.finished if r.last
        ]
        draw_charts(lines, spec.goals, sweep.path / FIGURES_FOLDER)
        write_text(sweep.chosen, config_yaml(chosen_config(str(sweep.base_file), found.chosen)))
    environment, content = _environment(), _content(sweep, spec, records, found, sessions)
    markdown = environment.get_template("report.md.j2").render(content, incomparable=incomparable_lines(incomparable))
    write_text(sweep.path / "report.md", markdown)
    write_text(sweep.path / "report.html", _html(environment, markdown, sweep.path))
    write_json(sweep.path / "report.json", report_json(spec, records, found, sessions), allow_nan=False)
    with file_when_whole(sweep.path / "trials.parquet") as file:
        pq.write_table(trials_table(spec, records, found), file, compression="zstd")
    return found


def incomparable_lines(incomparable: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each swept key that changes what objectives are measured with."""
    return [
        f"Trials that differ in {key} do not compare in {', '.join(metrics)}: it changes what measures that."
        for key, metrics in incomparable.items()
    ]


def _content(
    sweep: SweepFolder, spec: SweepSpec, records: Sequence[TrialRecord], found: SweepResult, sessions: Sequence[Session]
) -> dict[str, Any]:
    """What `report.md.j2` shows."""

    def metrics(record: TrialRecord) -> list[str]:
        return ["–" if record.last is None else f"{record.last.metrics[metric]:.4g}" for metric in spec.objectives]

    states = ["interrupted" if record.status == "running" else record.status for record in records]
    counts = {state: states.count(state) for state in ("finished", "stopped", "failed", "interrupted")}
    chosen = found.chosen
    return {
        "name": sweep.path.name,
        "spec": spec,
        "base": Path(spec.base).name,
        "counts": ", ".join(f"{count} {state}" for state, count in counts.items() if count),
        "starts": len(sessions),
        "chosen": chosen,
        "has_schedules": chosen is not None
        and any(len(schedule(chosen.weights, key)) > 1 for one in chosen.weights[:1] for key in one.weights),
        "train_command": typed_command("train", "--config", sweep.chosen),
        "keys": list(spec.space),
        "objectives": list(spec.objectives),
        "finished": len(found.finished),
        "front": [
            [r.name + (" (chosen)" if r is chosen else ""), *metrics(r), f"{sum(found.front[r.name]):.3f}"]
            for r in found.finished
            if r.name in found.front
        ],
        "trials": [
            [r.name, state, "yes" if r.name in found.front else "no", r.last.iterations if r.last else 0]
            + [r.values.get(key) for key in spec.space]
            + metrics(r)
            for r, state in zip(records, states, strict=True)
        ],
        "charts": {f"{FIGURES_FOLDER}/{name}": caption for name, caption in _CAPTIONS.items()},
        "failed": [
            (r.name, ", ".join(f"{key}={_plain(value)}" for key, value in r.values.items()), r.reason or "")
            for r in records
            if r.status == "failed"
        ],
        **_costs(records, sessions),
    }


def _costs(records: Sequence[TrialRecord], sessions: Sequence[Session]) -> dict[str, Any]:
    """Seconds of each phase and of all together; reward actors, and seconds until they had loaded their models."""

    def total(phase: str) -> float:
        return sum(record.seconds.get(phase, 0.0) for record in records)

    phases = sorted({phase for record in records for phase in record.seconds} - {"together"})
    seconds = {phase: total(phase) for phase in phases}
    seconds |= {"trials together": total("together"), "wall clock of the sweep": sum(s.seconds for s in sessions)}
    starts, shared = sum(record.starts for record in records), [session.shared_actors for session in sessions]
    own = sum(record.reward_actors * record.starts for record in records)
    actors = f"{own} in {starts} starts of trials"
    if any(shared):
        actors = f"{sum(shared)} shared by all trials, instead of {starts * max(shared)}"
    return {
        "seconds": [(phase, f"{value:.1f}") for phase, value in seconds.items()],
        "actors": actors,
        "loading": total("reward actors") + sum(session.shared_seconds for session in sessions),
    }


def _environment() -> jinja2.Environment:
    # The text is Markdown; the page's body is made of it, with everything escaped.
    environment = template_environment(Path(__file__).parent / "templates", autoescape=False)
    environment.globals["table"] = _table
    return environment


def _table(columns: Sequence[str], rows: Iterable[Sequence[JsonValue]]) -> str:
    """A table of plain values, such as reasons of failures, in which nothing is markup."""
    return markdown_table(columns, ([plain_markdown(_plain(cell)) for cell in row] for row in rows))


def _plain(value: JsonValue) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _html(environment: jinja2.Environment, markdown: str, folder: Path) -> str:
    """The report as one file, with its charts inside."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    for name in _CAPTIONS:
        picture = folder / FIGURES_FOLDER / name
        if picture.is_file():
            inside = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"
            body = body.replace(f'src="{FIGURES_FOLDER}/{name}"', f'src="{inside}"')
    title = markdown.splitlines()[0].removeprefix("# ")
    return environment.get_template("report.html.j2").render(title=title, body=body)


# --- JSON and the table -----------------------------------------------------------------------------------------------


def report_json(
    spec: SweepSpec, records: Sequence[TrialRecord], found: SweepResult, sessions: Sequence[Session]
) -> dict[str, Any]:
    """The content of `report.json`."""
    return {
        "objectives": dict(spec.objectives),
        "choose": spec.choose,
        "chosen": None if found.chosen is None else found.chosen.name,
        "front": list(found.front),
        "scaled_over_front": {name: dict(zip(spec.objectives, row, strict=True)) for name, row in found.front.items()},
        "trials": [record.model_dump(mode="json") for record in records],
        "sessions": [asdict(session) for session in sessions],
    }


def trials_table(spec: SweepSpec, records: Sequence[TrialRecord], found: SweepResult) -> pa.Table:
    """One row a trial: status, swept values, metrics, seconds. Values that are no numbers are JSON texts."""
    last = [record.last for record in records]
    columns: dict[str, Any] = {
        "trial": [r.name for r in records],
        "number": [r.number for r in records],
        "status": [r.status for r in records],
        "on_front": [r.name in found.front for r in records],
        "chosen": [r is found.chosen for r in records],
        "starts": [r.starts for r in records],
        "iterations": pa.array([None if one is None else one.iterations for one in last], pa.int64()),
        "reason": pa.array([r.reason for r in records], pa.string()),
    }
    for key in spec.space:
        columns[key] = _column([r.values.get(key) for r in records])
    for metric in METRICS:
        columns[metric] = pa.array([None if one is None else one.metrics[metric] for one in last], pa.float64())
    for phase in sorted({phase for record in records for phase in record.seconds}):
        seconds = [r.seconds.get(phase) for r in records]
        columns[f"seconds_{phase.replace(' ', '_')}"] = pa.array(seconds, pa.float64())
    return pa.table(columns)


def _column(values: Sequence[JsonValue]) -> pa.Array:
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return pa.array(values, pa.float64())
    return pa.array([json.dumps(value) for value in values], pa.string())
