"""Where the time of an iteration goes as its parts grow: reward replicas, env runners, samples, prompts.

How to run:
    python -m benchmarks.scaling --json scaling.json
    python -m benchmarks.scaling --env-runners '' --replicas '' --reward free      samples and prompts alone

Every row is the algorithm that `partner-rl train` runs, built anew, on sentences of a fixed length; one iteration warms
up and is not counted. A GPU is used where there is one, and named.

Results to expect: episodes a second grow with `K`, because the prompt is computed once for all samples, and fall with
the prompt's length; replicas and env runners help where there are cores (or GPUs) for them.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from benchmarks.command import aligned_table, numbers, run_command, where
from benchmarks.work import Workload
from launch.console import out, progress, set_up_logging
from partner_rl.progress import Progress
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from partner_rl.algorithm.rllib_config import Score
    from partner_rl.config.schema import RunConfig

NAME: Final = "python -m benchmarks.scaling"
TITLES: Final = {
    "replicas": "reward replicas",
    "env_runners": "env runners",
    "samples": "samples, K",
    "prompt_tokens": "prompt tokens",
}
"""Table → the heading of what it varies."""
PHASES: Final = ("generate", "score", "update", "sync")


@dataclass(frozen=True, slots=True)
class Case:
    """One row to measure.

    Attributes:
        table: Which table it belongs to.
        value: The row's value of what the table varies.
        work: The workload.
        env_runners: Remote env runners; 0 samples in the driver.
        replicas: Actors of each reward.
    """

    table: str
    value: int
    work: Workload
    env_runners: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Row:
    """What was found: medians over the counted iterations.

    Attributes:
        table: Which table it belongs to.
        value: The row's value.
        episodes_per_second: Of whole iterations.
        least: Of the slowest iteration.
        greatest: Of the fastest one.
        seconds: Seconds in `generate`, `score`, `update`, `sync`, `other` and `iteration`.
    """

    table: str
    value: int
    episodes_per_second: float
    least: float
    greatest: float
    seconds: dict[str, float]


def command(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration keys.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here too.", show_default=False)] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Counted iterations of each row.")] = 3,
    reward: Annotated[Literal["free", "scorers"], typer.Option(help="The rewards.")] = "scorers",
    replicas: Annotated[str, typer.Option(help="Actors of each reward; '' for no such table.")] = "1,2",
    env_runners: Annotated[str, typer.Option(help="Numbers of env runners; '' for no such table.")] = "0,1,2",
    samples: Annotated[str, typer.Option(help="Values of K; '' for no such table.")] = "1,2,4,8,16,32",
    prompt_tokens: Annotated[str, typer.Option(help="Lengths; '' for no such table.")] = "32,64,128,256,512",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts in an iteration.")] = 4,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a sample.")] = 24,
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads of the driver; default: all.")] = None,
    model: Annotated[str, typer.Option(help="The policy, as in models.policy.")] = "pypi:smollm2-135m-instruct",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Compute type.")] = "float32",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="`auto` takes a GPU if any.")] = "auto",
    run: Annotated[Path | None, typer.Option(help="Use the reward models of this run.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Measure the seconds of each phase as the parts of an iteration grow.

    Rows that a table does not vary have 100 prompt tokens, K 8, no remote env runner and one actor a reward.

    Example: `python -m benchmarks.scaling --samples 1,8,32 --iterations 5`
    """
    set_up_logging(logging.WARNING)
    wanted = {
        "replicas": numbers("--replicas", replicas, 1) if reward == "scorers" else (),
        "env_runners": numbers("--env-runners", env_runners, 0),
        "samples": numbers("--samples", samples, 1),
        "prompt_tokens": numbers("--prompt-tokens", prompt_tokens, 1),
    }
    uneven = [n for n in wanted["env_runners"] if n and prompts % n]
    if uneven:
        raise PartnerError(f"--prompts {prompts} must be a multiple of every number in --env-runners, and {uneven[0]}")
    from benchmarks.vs_trl import chosen_device
    from launch.resources.plan import machine_cores

    work = Workload(
        model=model,
        groups=prompts,
        new_tokens=new_tokens,
        dtype=dtype,
        device=chosen_device(device),
        threads=threads or machine_cores(),
        seed=seed,
        overrides=tuple(overrides or ()),
    )
    all_cases = cases(work, wanted)
    if not all_cases:
        raise PartnerError("nothing to measure: give values for at least one table")
    rows = measure_all(all_cases, iterations, reward == "scorers", run)
    content = report(work, iterations, reward, rows)
    show(rows, content)
    if json is not None:
        from partner_rl.storage.atomic import write_json

        write_json(json, content, allow_nan=False)


def cases(work: Workload, wanted: Mapping[str, Sequence[int]]) -> list[Case]:
    """The rows of all tables.

    Args:
        work: The workload of the rows that do not vary it.
        wanted: Table → its values.
    """
    base = Case("", 0, work, env_runners=0, replicas=1)
    vary: dict[str, Callable[[int], Case]] = {
        "replicas": lambda value: replace(base, replicas=value),
        "env_runners": lambda value: replace(base, env_runners=value),
        "samples": lambda value: replace(base, work=replace(work, samples=value)),
        "prompt_tokens": lambda value: replace(base, work=replace(work, prompt_tokens=value)),
    }
    return [replace(vary[table](value), table=table, value=value) for table in TITLES for value in wanted[table]]


def config_of(case: Case, base: str = "embedded") -> RunConfig:
    """The configuration of a row; every reward has the row's number of actors."""
    from benchmarks.workload import run_config

    own = [f"rewards.replicas={case.replicas}", f"algorithm.num_env_runners={case.env_runners}"]
    own += [f"rewards.{name}.replicas=null" for name in ("empathy", "fluency", "coherence", "mutual_information")]
    if case.work.device == "cuda" and case.env_runners:
        own.append(f"algorithm.num_gpus_per_env_runner={0.5 / case.env_runners:.3f}")
    return run_config(replace(case.work, overrides=(*own, *case.work.overrides)), base)


def measure_all(wanted: Sequence[Case], iterations: int, scorers: bool, run: Path | None) -> list[Row]:
    """Measures every row, each with actors and an algorithm of its own.

    Args:
        wanted: The rows.
        iterations: Counted iterations of each.
        scorers: Score with the actors instead of the free reward.
        run: The run whose reward models to use.

    Raises:
        PartnerError: An actor does not start, a scorer fails, or a prompt length is too short for the model.
    """
    from benchmarks.scorers import scorer_folder

    rows = []
    total = len(wanted) * (iterations + 1)
    base = _base(run)
    with (
        progress("Iterations") as report_iterations,
        scorer_folder(run, config_of(wanted[0], base)) if scorers else nullcontext(Path()) as folder,
    ):
        report_iterations(0, total)
        for number, case in enumerate(wanted):
            report_row = _shifted(report_iterations, number * (iterations + 1), total)
            with _session(case, base, folder if scorers else None) as (config, score):
                row = _measure(case, config, score, iterations, report_row)
            rows.append(row)
            # What the algorithm held is in reference cycles.
            gc.collect()
    return rows


def _shifted(report_all: Progress, before: int, total: int) -> Callable[[int], None]:
    """A row's progress as a part of the progress of all rows."""
    return lambda done: report_all(before + done, total)


@contextmanager
def _session(case: Case, base: str, folder: Path | None) -> Iterator[tuple[RunConfig, Score]]:
    """A Ray for one row, with its reward actors if there is a folder of classifiers."""
    from benchmarks.scorers import scorer_pools
    from benchmarks.workload import free_reward
    from launch.resources.session import place_on_this_machine, ray_session

    config, plan = place_on_this_machine(config_of(case, base))
    with ray_session(config, plan):
        if folder is None:
            yield config, free_reward
        else:
            with scorer_pools(config, folder, plan) as pools:
                yield config, pools.client().score


def _measure(case: Case, config: RunConfig, score: Score, iterations: int, report_done: Callable[[int], None]) -> Row:
    from benchmarks.ours import build_algorithm, on_gpu, run_iteration
    from benchmarks.workload import make_examples
    from partner_rl.models.loading import load_tokenizer
    from partner_rl.models.sources import resolve

    cache = config.models.cache_dir
    folder = resolve(config.models.policy, None if cache is None else Path(cache).expanduser()).absolute()
    examples = make_examples(load_tokenizer(folder), config, case.work.prompt_tokens, case.work.groups)
    algorithm = build_algorithm(on_gpu(config), str(folder), examples, score)
    try:
        taken = []
        for number in range(iterations + 1):
            taken.append(run_iteration(algorithm, case.work).seconds)
            report_done(number + 1)
    finally:
        algorithm.stop()  # type: ignore[no-untyped-call]
    return summarise(case, taken[1:])


def summarise(case: Case, taken: Sequence[Mapping[str, float]]) -> Row:
    """The medians of a row's iterations.

    Args:
        case: The row.
        taken: Seconds of each counted iteration, by phase.
    """
    seconds = {phase: median(t[phase] for t in taken) for phase in (*PHASES, "iteration")}
    seconds["other"] = median(t["iteration"] - sum(t[phase] for phase in PHASES) for t in taken)
    rates = [case.work.episodes / t["iteration"] for t in taken]
    return Row(case.table, case.value, median(rates), min(rates), max(rates), seconds)


def _base(run: Path | None) -> str:
    from launch.run_folder.folder import RunFolder

    return "embedded" if run is None else str(RunFolder.open(run)[0].config_file)


def report(work: Workload, iterations: int, reward: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The figures with all that they depend on, JSON-able."""
    settings = asdict(work) | {"model": work.model if ":" in work.model else Path(work.model).name}
    return {
        **where(),
        "workload": settings,
        "reward": reward,
        "iterations": iterations,
        "rows": [asdict(row) for row in rows],
    }


def tables(rows: Sequence[Row]) -> list[str]:
    """One table for each thing that was varied, in Markdown."""
    result = []
    for name in dict.fromkeys(row.table for row in rows):
        columns = (TITLES[name], "episodes/s (min to max)", *PHASES, "other", "iteration")
        cells = []
        for row in rows:
            if row.table == name:
                rates = f"{row.episodes_per_second:.2f} ({row.least:.2f} to {row.greatest:.2f})"
                figures = (f"{row.seconds[phase]:.3f}" for phase in (*PHASES, "other", "iteration"))
                cells.append((str(row.value), rates, *figures))
        result.append(aligned_table(columns, cells))
    return result


def show(rows: Sequence[Row], content: Mapping[str, Any]) -> None:
    """Prints the tables and on what they were taken."""
    work, device = content["workload"], content["device"]
    on = ", ".join(device["gpus"]) if work["device"] == "cuda" else f"{device['cpu']}, {device['cores']} cores"
    out.print(
        f"{work['model']}, {work['dtype']}, {work['groups']} prompts × {work['new_tokens']} new tokens, all weights "
        f"trained; reward: {content['reward']}; {on}; {work['threads']} threads; seconds, medians of "
        f"{content['iterations']} iterations\n",
        soft_wrap=True,
    )
    for table in tables(rows):
        out.print(table, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(command, NAME)
