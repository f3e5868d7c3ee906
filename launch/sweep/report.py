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

FIGURES_FOLDER: Final = "figures"
NOTHING: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})
_CAPTIONS: Final = {
    PARALLEL: "Swept keys and objectives of each finished trial: red the chosen one, blue the front, grey the others; "
    "of an objective the better end is above.",
    FRONT: "Each two objectives: red star the chosen trial, blue the front, grey the others.",
}
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto; padding: 0 1em; }}
h2 {{ margin-top: 2em; border-bottom: 1px solid #ddd; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; font-size: 13px; }}
th, td {{ border-bottom: 1px solid #e5e5e5; padding: .3em .7em; text-align: left; white-space: nowrap; }}
th {{ background: #f6f6f6; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
{body}</body>
</html>
"""


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
        front: Places in `finished` of those that no other one dominates.
        goodness: Trial → how good it is in each objective, 0…1 over the front; of those on the front.
        chosen: The one to take; None when none has finished.
    """

    finished: tuple[TrialRecord, ...]
    front: tuple[int, ...]
    goodness: Mapping[str, tuple[float, ...]]
    chosen: TrialRecord | None


def sweep_result(spec: SweepSpec, records: Sequence[TrialRecord]) -> SweepResult:
    """The Pareto front of the finished trials, and the one to take."""
    finished = tuple(r for r in records if r.status == "finished" and r.last is not None)
    found = losses([r.last.metrics for r in finished if r.last is not None], spec.goals)
    front = pareto_front(found)
    if not front:
        return SweepResult(finished, (), {}, None)
    goodness = {
        finished[i].name: tuple(float(x) for x in row) for i, row in zip(front, scaled(found, front), strict=True)
    }
    taken = choose(found, front, list(spec.goals), spec.preference)
    return SweepResult(finished, tuple(front), goodness, finished[taken])


def chosen_config(base: str, record: TrialRecord) -> RunConfig:
    """The configuration of a trial as a run of its own.

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
    front = {found.finished[i].name for i in found.front}
    if found.chosen is not None:
        lines = [_line(r, spec, r.name in front, r is found.chosen) for r in found.finished]
        draw_charts(lines, spec.goals, sweep.path / FIGURES_FOLDER)
        write_text(sweep.chosen, config_yaml(chosen_config(str(sweep.base_file), found.chosen)))
    markdown = report_markdown(sweep, spec, records, found, sessions, incomparable)
    write_text(sweep.path / "report.md", markdown)
    write_text(sweep.path / "report.html", _html(markdown, sweep.path))
    write_json(sweep.path / "report.json", report_json(spec, records, found, sessions), allow_nan=False)
    _write_table(trials_table(spec, records, found), sweep.path / "trials.parquet")
    return found


def _line(record: TrialRecord, spec: SweepSpec, on_front: bool, chosen: bool) -> Line:
    assert record.last is not None
    metrics = {metric: record.last.metrics[metric] for metric in spec.goals}
    return Line(record.name, record.values, metrics, on_front, chosen)


# --- Markdown and HTML ------------------------------------------------------------------------------------------------


def report_markdown(
    sweep: SweepFolder,
    spec: SweepSpec,
    records: Sequence[TrialRecord],
    found: SweepResult,
    sessions: Sequence[Session],
    incomparable: Mapping[str, Sequence[str]],
) -> str:
    """The report as Markdown."""
    title = f"# Sweep {sweep.path.name}"
    parts = [title, _facts(spec, records, sessions), *incomparable_lines(incomparable)]
    if found.chosen is None:
        parts.append("No trial has finished, so that there is nothing to choose from.")
    else:
        parts += [_choice(spec, found, sweep), _front_section(spec, found), _all_trials(spec, records, found)]
        parts += [f"![{caption}]({FIGURES_FOLDER}/{name})\n\n{caption}" for name, caption in _CAPTIONS.items()]
    failed = [record for record in records if record.status == "failed"]
    if failed:
        rows = [(record.name, _values(record), record.reason or "") for record in failed]
        parts += ["## Failed trials", _table(("trial", "values", "reason"), rows)]
    parts += ["## Seconds and reward actors", _costs(records, sessions)]
    return "\n\n".join(parts) + "\n"


def _facts(spec: SweepSpec, records: Sequence[TrialRecord], sessions: Sequence[Session]) -> str:
    counts = {
        status: sum(r.status == status for r in records) for status in ("finished", "stopped", "failed", "running")
    }
    counts["interrupted"] = counts.pop("running")
    facts = {
        "trials": ", ".join(f"{count} {status}" for status, count in counts.items() if count),
        "search": f"{spec.search}, scheduler {spec.scheduler}, seed {spec.seed}",
        "base": f"`{Path(spec.base).name}`",
        "objectives": ", ".join(f"{metric} ({better})" for metric, better in spec.objectives.items()),
        "measured on": f"the {spec.split} split, with the reward models that the policies were trained against",
        "starts of the sweep": str(len(sessions)),
    }
    return "\n".join(f"- **{label}**: {text}" for label, text in facts.items())


def incomparable_lines(incomparable: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each swept key that changes what objectives are measured with."""
    return [
        f"Trials that differ in {key} do not compare in {', '.join(metrics)}: it changes what measures that."
        for key, metrics in incomparable.items()
    ]


def _choice(spec: SweepSpec, found: SweepResult, sweep: SweepFolder) -> str:
    assert found.chosen is not None
    if spec.choose == "knee":
        how = (
            "It is the knee of the front. With every objective scaled to 0 (the front's worst) … 1 (the front's best), "
            "it lies farthest, towards the ideal of 1 in everything, from the plane through the points that are best "
            "in one objective and worst in the others: that is where the sum is greatest."
        )
    else:
        weights = ", ".join(f"{weight:g} × {metric}" for metric, weight in spec.choose.items())
        how = f"It has the greatest sum of {weights}, every objective scaled to 0…1 over the front."
    note = ""
    if any(len(schedule(found.chosen.weights, key)) > 1 for key in _weight_keys(found.chosen)):
        note = " Its weights changed while training: `chosen.yaml` has them as schedules."
    rows = [(key, _cell(value)) for key, value in found.chosen.values.items()]
    return (
        f"## Chosen: {found.chosen.name}\n\n{how}{note}\n\n{_table(('key', 'value'), rows)}\n\n"
        f"Train it with `{typed_command('train', '--config', sweep.chosen)}`; its policy of the sweep is in "
        f"`trials/{found.chosen.name}/export`."
    )


def _weight_keys(record: TrialRecord) -> Iterable[str]:
    return record.weights[0].weights if record.weights else ()


def _front_section(spec: SweepSpec, found: SweepResult) -> str:
    columns = ("trial", *spec.objectives, "sum of scaled")
    rows = []
    for place in found.front:
        record = found.finished[place]
        assert record.last is not None
        metrics = [f"{record.last.metrics[metric]:.4g}" for metric in spec.objectives]
        mark = " (chosen)" if record is found.chosen else ""
        rows.append((record.name + mark, *metrics, f"{sum(found.goodness[record.name]):.3f}"))
    share = f"{len(found.front)} of {len(found.finished)} finished trials: no other one is better in everything."
    return f"## Pareto front\n\n{share}\n\n{_table(columns, rows)}"


def _all_trials(spec: SweepSpec, records: Sequence[TrialRecord], found: SweepResult) -> str:
    front = {found.finished[i].name for i in found.front}
    rows = []
    for record in records:
        last = record.last
        metrics = ["–" if last is None else f"{last.metrics[metric]:.4g}" for metric in spec.objectives]
        rows.append(
            (
                record.name,
                record.status if record.status != "running" else "interrupted",
                "yes" if record.name in front else "no",
                str(last.iterations if last is not None else 0),
                *(_cell(record.values.get(key)) for key in spec.space),
                *metrics,
            )
        )
    columns = ("trial", "status", "front", "iterations", *spec.space, *spec.objectives)
    return f"## All trials\n\n{_table(columns, rows)}"


def _costs(records: Sequence[TrialRecord], sessions: Sequence[Session]) -> str:
    phases = sorted({phase for record in records for phase in record.seconds} - {"together"})
    rows = [(phase, f"{_sum(records, phase):.1f}") for phase in phases]
    rows.append(("trials together", f"{_sum(records, 'together'):.1f}"))
    rows.append(("wall clock of the sweep", f"{sum(session.seconds for session in sessions):.1f}"))
    starts = sum(record.starts for record in records)
    own = sum(record.reward_actors * record.starts for record in records)
    shared = sum(session.shared_actors for session in sessions)
    instead = starts * max((session.shared_actors for session in sessions), default=0)
    loading = _sum(records, "reward actors") + sum(session.shared_seconds for session in sessions)
    kind = f"{shared} shared by all trials, instead of {instead}" if shared else f"{own} in {starts} starts of trials"
    note = (
        f"Reward actors started: {kind}. Seconds until reward actors had loaded their models, over all starts: "
        f"{loading:.1f}. `training` holds the evaluations in between; seconds of a process that was killed are missing."
    )
    return f"{_table(('phase', 'seconds'), rows)}\n\n{note}"


def _sum(records: Iterable[TrialRecord], phase: str) -> float:
    return sum(record.seconds.get(phase, 0.0) for record in records)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, such as values of keys and reasons of failures."""
    return markdown_table(columns, ([plain_markdown(cell) for cell in row] for row in rows))


def _cell(value: JsonValue) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _values(record: TrialRecord) -> str:
    return ", ".join(f"{key}={_cell(value)}" for key, value in record.values.items())


def _html(markdown: str, folder: Path) -> str:
    """The report as one file, with its charts inside."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    for name in _CAPTIONS:
        picture = folder / FIGURES_FOLDER / name
        if picture.is_file():
            inside = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"
            body = body.replace(f'src="{FIGURES_FOLDER}/{name}"', f'src="{inside}"')
    return _PAGE.format(title=markdown.splitlines()[0].removeprefix("# "), body=body)


# --- JSON and the table -----------------------------------------------------------------------------------------------


def report_json(
    spec: SweepSpec, records: Sequence[TrialRecord], found: SweepResult, sessions: Sequence[Session]
) -> dict[str, Any]:
    """The content of `report.json`."""
    return {
        "objectives": dict(spec.objectives),
        "choose": spec.choose,
        "chosen": None if found.chosen is None else found.chosen.name,
        "front": [found.finished[i].name for i in found.front],
        "scaled_over_front": {
            name: dict(zip(spec.objectives, row, strict=True)) for name, row in found.goodness.items()
        },
        "trials": [record.model_dump(mode="json") for record in records],
        "sessions": [asdict(session) for session in sessions],
    }


def trials_table(spec: SweepSpec, records: Sequence[TrialRecord], found: SweepResult) -> pa.Table:
    """One row a trial: status, swept values, metrics, seconds. Values that are no numbers are JSON texts."""
    front = {found.finished[i].name for i in found.front}
    last = [record.last for record in records]
    phases = sorted({phase for record in records for phase in record.seconds})
    columns: dict[str, Any] = {
        "trial": pa.array([r.name for r in records], pa.string()),
        "number": pa.array([r.number for r in records], pa.int64()),
        "status": pa.array([r.status for r in records], pa.string()),
        "on_front": pa.array([r.name in front for r in records], pa.bool_()),
        "chosen": pa.array([r is found.chosen for r in records], pa.bool_()),
        "starts": pa.array([r.starts for r in records], pa.int64()),
        "iterations": pa.array([None if one is None else one.iterations for one in last], pa.int64()),
        "reason": pa.array([r.reason for r in records], pa.string()),
    }
    for key in spec.space:
        columns[key] = _column([r.values.get(key) for r in records])
    for metric in METRICS:
        columns[metric] = pa.array([None if one is None else one.metrics[metric] for one in last], pa.float64())
    for phase in phases:
        name = f"seconds_{phase.replace(' ', '_')}"
        columns[name] = pa.array([r.seconds.get(phase) for r in records], pa.float64())
    return pa.table(columns)


def _column(values: Sequence[JsonValue]) -> pa.Array:
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        return pa.array([float(number) for number in numbers], pa.float64())
    return pa.array([json.dumps(value) for value in values], pa.string())


def _write_table(table: pa.Table, path: Path) -> None:
    with file_when_whole(path) as file:
        pq.write_table(table, file, compression="zstd")
