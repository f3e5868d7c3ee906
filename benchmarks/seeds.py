"""The quickstart over several seeds: mean and range of every figure, beside what it started from.

    python -m benchmarks.seeds                         # seeds 0, 1 and 2: most of an hour on two cores
    python -m benchmarks.seeds --seeds 0,1 --runs-dir runs algorithm.iterations=4

Each seed trains its own reward models, warm start and policy, as `partner-rl quickstart` does, and evaluates them
together with the template and the best of 16 rewrites of the warm start on the same held-out pairs. A run that is there
already is not done again, so that an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Final

import typer

from benchmarks.command import aligned_table, numbers, run_command, where
from launch.console import out
from launch.run_folder.reader import read_rows
from launch.run_folder.record import METRICS_FILE
from partner_rl import metric_names as names
from partner_rl.types import PartnerError

BEST_OF: Final = 16
SYSTEMS: Final = ("original", "template", "warm_start", "best_of_n", "rl")
TITLES: Final = ("original", "template", "warm start", f"best of {BEST_OF}", "**RL**")
CURVE: Final = (names.POLICY_KL_SENTENCE, names.POLICY_KL, names.POLICY_POSITION_ENTROPY)
"""Of the last iteration of training."""


def main(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE for the quickstart.", show_default=False)
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, by commas.")] = "0,1,2",
    preset: Annotated[str, typer.Option(help="A preset's name or a YAML file.")] = "embedded",
    runs_dir: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
    output: Annotated[Path | None, typer.Option(help="Also write the table and its parts here, as JSON.")] = None,
) -> None:
    """Run the quickstart with each seed, evaluate it, and show means with their ranges."""
    chosen = numbers("--seeds", seeds, 0)
    if not chosen:
        raise PartnerError("--seeds is empty: give seeds such as 0,1,2")
    runs = [_run_of(seed, preset, runs_dir, overrides or []) for seed in chosen]
    reports = [json.loads((run / "evaluation" / "report.json").read_text(encoding="utf-8")) for run in runs]
    curves = [_last_metrics(run) for run in runs]
    columns, rows = table(reports)
    out.print(aligned_table(columns, rows), soft_wrap=True)
    for name in CURVE:
        out.print(f"{name} at the end: {mean_and_range([curve[name] for curve in curves], '.3f')}", soft_wrap=True)
    seconds = [_seconds(run) for run in runs]
    out.print(f"seconds a seed, quickstart without evaluation below: {', '.join(f'{s:.0f}' for s in seconds)}")
    if output is not None:
        content = {"seeds": chosen, "systems": [r["systems"] for r in reports], "last": curves, "seconds": seconds}
        output.write_text(json.dumps({**content, "where": where()}, indent=2) + "\n", encoding="utf-8")


def _run_of(seed: int, preset: str, runs_dir: Path, overrides: Sequence[str]) -> Path:
    """The run folder of a seed, trained and evaluated."""
    run = runs_dir / f"quickstart-seed-{seed}"
    if not (run / "summary.json").exists():
        if run.exists():
            raise PartnerError(f"{run} holds a quickstart that did not end: remove it, or choose another --runs-dir")
        keys = [f"name={run.name}", f"runs_dir={runs_dir}", f"seed={seed}"]
        _partner_rl("quickstart", "--preset", preset, *overrides, *keys)
    if not (run / "evaluation" / "report.json").exists():
        options = ["--baselines", "template,best_of_n", "--set", f"baselines.best_of={BEST_OF}"]
        _partner_rl("evaluate", str(run), *options)
    return run


def _partner_rl(*arguments: str) -> None:
    command = [sys.executable, "-m", "launch.cli", *arguments]
    out.print(f"partner-rl {' '.join(arguments)}", soft_wrap=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        raise PartnerError(f"`partner-rl {' '.join(arguments)}` ended with status {status}: see its message above")


def _last_metrics(run: Path) -> dict[str, float]:
    last = read_rows(run / METRICS_FILE)[-1]
    return {name: last[name] for name in CURVE}


def _seconds(run: Path) -> float:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return sum(summary["seconds"].values())


def table(reports: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Metrics by systems; each cell is the mean over the reports, and their range where they differ.

    Args:
        reports: `report.json` of the evaluation of each seed.
    """
    rows = []
    for key, metric in reports[0]["metrics"].items():
        cells = []
        for system in SYSTEMS:
            found = [report["systems"][system]["metrics"].get(key) for report in reports]
            values = [figure["value"] for figure in found if figure is not None]
            cells.append(mean_and_range(values, _format(key)) if len(values) == len(reports) else "–")
        if any(cell != "–" for cell in cells):
            arrow = "↑" if metric["better"] == "higher" else "↓" if metric["better"] == "lower" else ""
            rows.append([f"{metric['label']} {arrow}".strip(), *cells])
    return ["", *TITLES], rows


def _format(key: str) -> str:
    from partner_rl.evaluation.metric_definitions import METRICS

    return next(metric.form for metric in METRICS if metric.key == key)


def mean_and_range(values: Sequence[float], form: str) -> str:
    """The mean, and in brackets the lowest and the highest where they differ."""
    low, high = format(min(values), form), format(max(values), form)
    mean = format(fmean(values), form)
    return mean if low == high else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    run_command(main, "python -m benchmarks.seeds")
