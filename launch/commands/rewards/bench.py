"""`partner-rl rewards bench`: how fast each scorer is through its actor pool, and where the time goes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from launch.commands.rewards import choice
from launch.console import out, progress
from launch.options import with_dry_run
from partner_rl.config.schema import RunConfig
from partner_rl.config.section import MAX_PROCESSES
from partner_rl.progress import Progress, no_progress
from partner_rl.types import Example, PartnerError, ScoreRequest

if TYPE_CHECKING:
    from launch.resources.plan import Plan
    from rewards.scorer import RewardComponent

WARM_UP_PAIRS: Final = 32
"""Pairs that are scored before the clock starts: first calls allocate memory and choose kernels."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One scorer with one number of replicas.

    The shares are of the replicas' time, from the first micro-batch sent to the last answer, and sum to 1.

    Attributes:
        items: What the scorer was asked for them, each distinct item once.
        model: Share in forward passes of the models.
        tokenizer: Share in tokenizers.
        scorer_rest: Share in the rest of the scorer: padding, sorting, soft-max.
        ray_and_waiting: Share outside of the scorer: messages, the client, actors that wait for work.
    """

    component: str
    replicas: int
    threads: int
    pairs: int
    items: int
    seconds: float
    pairs_per_second: float
    model: float
    tokenizer: float
    scorer_rest: float
    ray_and_waiting: float


@with_dry_run
def command(
    overrides: choice.OverridesArgument = None,
    only: Annotated[
        str | None, typer.Option(help="Rewards to measure, such as empathy,fluency; default: all.", show_default=False)
    ] = None,
    replicas: Annotated[str, typer.Option(help="Numbers of actors to measure each scorer with.")] = "1,2",
    pairs: Annotated[int, typer.Option(min=1, help="Score at most this many pairs.")] = 256,
    data: Annotated[str, typer.Option(help="The pairs: a source as in data.source.")] = "sample",
    run: choice.RunOption = None,
    empathy: choice.EmpathyOption = None,
    coherence: choice.CoherenceOption = None,
    preset: choice.PresetOption = "embedded",
    json: Annotated[Path | None, typer.Option(help="Write the metrics here too.", show_default=False)] = None,
) -> None:
    """Measure the throughput of the reward scorers in actors, without their cache.

    Example: `partner-rl rewards bench --run runs/first --replicas 1,2,4`
    """
    import torch

    from launch.preflight.check_request import scoring_request
    from launch.preflight.command_plan import begin, scoring_plan
    from launch.resources.plan import machine_cores
    from partner_rl.config.inputs import input_paths
    from partner_rl.storage.outputs import OutputFile, check_outputs

    names, counts = choice.chosen_names(only), replica_counts(replicas)
    config = choice.chosen_config(run, preset, overrides, empathy, coherence)
    if json is not None:
        check_outputs([OutputFile(json, "--json")], [data, run, *input_paths(config)])
    writes = {} if json is None else {json: "metrics"}
    begin(
        scoring_plan(
            config,
            scoring_request(config, names, run),
            writes,
            data,
            lambda: pool_plan(config, max(counts), machine_cores(), torch.cuda.device_count()),
        )
    )
    requests = bench_requests(data, pairs, config.data.max_post_characters)
    results = _measure_all(config, run, names, counts, requests)
    report = bench_report(config, data, len(requests), results)
    out.print(bench_table(results))
    out.print(_description(report), soft_wrap=True)
    if json is not None:
        from partner_rl.storage.atomic import write_json

        write_json(json, report, allow_nan=False)
        out.print(f"metrics: {json}", soft_wrap=True)


def replica_counts(given: str) -> tuple[int, ...]:
    """The numbers of `--replicas`.

    Raises:
        PartnerError: One is no whole number above 0, or too large.
    """
    parts = [part.strip() for part in given.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and 0 < int(part) <= MAX_PROCESSES for part in parts):
        raise PartnerError(
            f"--replicas {given}: give whole numbers from 1 to {MAX_PROCESSES:,}, separated by commas, such as 1,2"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def bench_requests(source: str, pairs: int, max_characters: int) -> list[ScoreRequest]:
    """What to score: distinct responses as if their last sentence had just been written.

    A post of more than `max_characters` is left out.

    Raises:
        PartnerError: The source cannot be read or holds no pair.
    """
    from partner_rl.data.readers import read_examples

    with progress("Reading the pairs") as report:
        examples = read_examples(source, max_characters, report).examples
    distinct = list({(e.seeker_post, e.response_post): e for e in examples}.values())
    return [_request(example) for example in distinct[:pairs]]


def _request(example: Example) -> ScoreRequest:
    from envs import text

    sentences = text.split(example.response_post).sentences
    response = example.response_post
    return ScoreRequest(example.seeker_post, response, response, sentences[-1:], sentences[:-1])


def _measure_all(
    config: RunConfig,
    run: Path | None,
    names: tuple[str, ...],
    counts: tuple[int, ...],
    requests: Sequence[ScoreRequest],
) -> list[Measurement]:
    """One pool after the other, so that they do not take each other's cores."""
    import torch

    from launch.resources.plan import machine_cores
    from launch.resources.session import ray_session

    cores, gpus = machine_cores(), torch.cuda.device_count()
    plans = {count: pool_plan(config, count, cores, gpus) for count in counts}
    # Before Ray starts: what is missing is told at once.
    placed = {count: choice.chosen_components(placed_on_gpus(config, count, gpus), run, names) for count in counts}
    results: list[Measurement] = []
    with ray_session(config, plans[max(counts)]), progress("Measuring") as report:
        report(0, len(names) * len(counts))
        for name in names:
            for count in counts:
                threads = plans[count].groups[-1].threads
                results.append(measure_pool(name, placed[count][name], config, count, threads, requests))
                report(len(results), len(names) * len(counts))
    return results


def pool_plan(config: RunConfig, replicas: int, cores: int, gpus: int) -> Plan:
    """The resources of one pool that has the machine for itself."""
    from launch.resources.plan import DRIVER, Plan, threads_each
    from partner_rl.cluster.placement import ActorGroup

    threads = threads_each(config, cores, replicas)
    pool = ActorGroup("reward pool", replicas, config.rewards.num_cpus, 0.0, threads)
    return Plan((ActorGroup(DRIVER, 1, 0.0, 0.0, 1), pool), cores, gpus)


def placed_on_gpus(config: RunConfig, replicas: int, gpus: int) -> RunConfig:
    """The configuration with each reward actor on a share of a GPU, if there is one and none is named.

    `replicas` are actors that compute at the same time.
    """
    if gpus == 0 or config.device == "cpu":
        return config
    from launch.resources.plan import gpu_share
    from rewards.registry import COMPONENTS

    share = gpu_share(replicas, gpus)
    sections = {
        name: getattr(config.rewards, name).model_copy(update={"num_gpus": share})
        for name in COMPONENTS
        if not getattr(config.rewards, name).num_gpus
    }
    return config.model_copy(update={"rewards": config.rewards.model_copy(update=sections)})


def measure_pool(
    name: str,
    component: RewardComponent,
    config: RunConfig,
    replicas: int,
    threads: int,
    requests: Sequence[ScoreRequest],
    progress: Progress = no_progress,
) -> Measurement:
    """Start a component's pool on the running Ray, warm it up, score the requests once, and end it.

    Raises:
        PartnerError: An actor does not start or a scorer fails.
    """
    from rewards.pool import create_pools
    from rewards.timing import TimedBuilder

    settings = config.rewards.model_copy(update={"cache_size": 0})
    section = component.settings.model_copy(update={"replicas": replicas})
    timed = replace(component, builder=TimedBuilder(component.builder), settings=section)
    groups = [component.definition.items(request) for request in requests]
    items = list(dict.fromkeys(item for group in groups for item in group))
    if not items:
        raise PartnerError(f"the pairs ask nothing of {name!r}: give more of them, or responses of several sentences")
    # Once per actor: which actor takes which micro-batch is not known.
    warm_up = list(dict.fromkeys(item for group in groups[:WARM_UP_PAIRS] for item in group)) or items
    with create_pools({name: timed}, settings, f"bench-{os.getpid()}-{replicas}", threads, progress) as pools:
        client = pools.client()
        for _ in range(replicas):
            client.score_items(name, warm_up)
        before = client.stats()[name]
        start = time.perf_counter()
        client.score_items(name, items)
        seconds = time.perf_counter() - start
        after = client.stats()[name]
    capacity = seconds * replicas
    in_scorer = (after.seconds - before.seconds) / capacity
    model = (after.model_seconds - before.model_seconds) / capacity
    tokenizer = (after.tokenizer_seconds - before.tokenizer_seconds) / capacity
    return Measurement(
        component=name,
        replicas=replicas,
        threads=threads,
        pairs=len(requests),
        items=len(items),
        seconds=seconds,
        pairs_per_second=len(requests) / seconds,
        model=model,
        tokenizer=tokenizer,
        scorer_rest=in_scorer - model - tokenizer,
        ray_and_waiting=1.0 - in_scorer,
    )


def bench_report(config: RunConfig, data: str, pairs: int, results: Sequence[Measurement]) -> dict[str, Any]:
    """The metrics with all that they depend on, JSON-able."""
    from partner_rl.evaluation.summary import describe_device, package_versions

    rewards, lm = config.rewards, config.models.reward_lm
    models = {
        "empathy": rewards.empathy.checkpoint or config.models.encoder,
        "fluency": lm,
        "coherence": rewards.coherence.checkpoint or config.models.encoder,
        "forward": rewards.mutual_information.forward_checkpoint or lm,
        "backward": rewards.mutual_information.backward_checkpoint or lm,
    }
    return {
        "device": describe_device(),
        "versions": package_versions(),
        # Names without the folders that they lie in, which mean nothing elsewhere.
        "models": {use: name if ":" in name else Path(name).name for use, name in models.items()},
        "max_tokens": config.rewards.max_tokens,
        "data": data,
        "pairs": pairs,
        "results": [asdict(result) for result in results],
    }


def bench_table(results: Sequence[Measurement]) -> Table:
    """The metrics as a table to print."""
    table = Table(box=SIMPLE_HEAD, title="Throughput of the reward scorers", title_justify="left")
    table.add_column("scorer")
    columns = ("replicas", "threads each", "pairs/s", "items", "model", "tokenizer", "rest of scorer", "Ray, waiting")
    for column in columns:
        table.add_column(column, justify="right")
    for r in results:
        shares = (f"{share:.1%}" for share in (r.model, r.tokenizer, r.scorer_rest, r.ray_and_waiting))
        table.add_row(r.component, str(r.replicas), str(r.threads), f"{r.pairs_per_second:,.1f}", str(r.items), *shares)
    return table


def _description(report: Mapping[str, Any]) -> str:
    """On what the metrics were taken, in one line."""
    device = report["device"]
    gpus = ", ".join(device["gpus"]) or "no GPU"
    models = ", ".join(f"{use} {name}" for use, name in report["models"].items())
    return (
        f"{report['pairs']} pairs of {report['data']}, at most {report['max_tokens']} tokens a post; "
        f"{device['cpu']}, {device['cores']} cores, {gpus}; {models}"
    )
