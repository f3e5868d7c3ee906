"""`partner-rl quickstart`: everything from a corpus to a policy, its metrics and some of its rewrites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.console import err, out
from launch.options import RedactOption, redaction, with_dry_run
from launch.run_folder.folder import RunFolder
from partner_rl.config.schema import RunConfig

if TYPE_CHECKING:
    from launch.training.phases import PhaseClock
    from partner_rl.evaluation.result import Group
    from partner_rl.evaluation.system import System
    from partner_rl.evaluation.system_scores import Sources, SystemScores
    from partner_rl.rewriter import Rewrite
    from rewards.pool import RewardClient

SHOWN_REWRITES = 5


@with_dry_run
def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE, such as algorithm.iterations=5.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A corpus other than the sample: folder or file.", show_default=False)
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")
    ] = "embedded",
    redact: RedactOption = False,
) -> None:
    """Train the reward models, warm-start a policy, train it by RL and compare before and after.

    Example: `partner-rl quickstart --data path/to/epitome`
    """
    from partner_rl.config.load import given, load_config

    config = load_config(preset, [*(overrides or []), *given({"data.source": data}), *redaction(redact)])
    from launch.preflight.command_plan import begin, new_run_plan

    also = {"rewrites.jsonl": "rewrites of held-out pairs", "summary.json": "scores before and after"}
    begin(new_run_plan(config, "quickstart", also, evaluates=True))
    run = RunFolder.create(config, default_name="quickstart")
    quickstart(config, run)
    out.print(f"run folder: {run.path}", soft_wrap=True)


def quickstart(config: RunConfig, run: RunFolder) -> None:
    """Runs all phases and leaves their results in the run folder."""
    from launch.resources.session import place_on_this_machine, ray_session
    from launch.training import phases
    from launch.training.held_out import evaluation_sources, held_out_pairs, rewrite_with, sampling_of
    from launch.training.phases import PhaseClock
    from launch.training.run import prepare
    from partner_rl.evaluation.evaluate_systems import originals
    from partner_rl.evaluation.measure_systems import measure_systems
    from partner_rl.evaluation.report import print_rewrites, printed_table
    from partner_rl.evaluation.result import Group
    from partner_rl.evaluation.system import TRAINED, WARM_START, System
    from partner_rl.evaluation.tables import main_table

    clock = PhaseClock(planned=5)
    placed, plan = place_on_this_machine(config)
    with run.resumable():
        prepared = prepare(placed, run, clock, config, "test")
        with ray_session(placed, plan), phases.reward_pools(placed, run, plan) as pools:
            client = pools.client()
            with clock.phase("evaluation", "evaluation before RL"):
                sources, sampling = evaluation_sources(placed, run, client), sampling_of(placed)
                pairs = held_out_pairs(prepared.splits.test, placed)
                rewrites = rewrite_with(WARM_START, prepared.policy_folder, pairs, placed, sampling)
                warm_start = System(WARM_START, [rewrite.request for rewrite in rewrites])
                scored = [_scored(system, sources, placed) for system in (originals(pairs, placed.env), warm_start)]
            throughput = prepared.reinforce(client, resume=False)
            with clock.phase("evaluation", "evaluation after RL"):
                rewrites = rewrite_with(TRAINED, run.export, pairs, placed, sampling)
                trained = System(TRAINED, [rewrite.request for rewrite in rewrites])
                scored.append(_scored(trained, sources, placed))
                phases.write_jsonl(_records(rewrites, client, placed), run.rewrites)
    group = Group("all", "held-out pairs", len(pairs), measure_systems(scored, intervals=False))
    _write_summary(run, group, clock, throughput.episodes_per_second, config.seed)
    out.print(printed_table(main_table(group)))
    if not config.tracking.redact:
        print_rewrites(rewrites, out, SHOWN_REWRITES)
    err.print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.seconds.items()))


def _scored(system: System, sources: Sources, config: RunConfig) -> SystemScores:
    from launch.console import progress
    from partner_rl.evaluation.system_scores import score_pairs

    with progress(f"Scoring {system.name}") as report:
        return score_pairs(system, sources, config.evaluation.batch_size, report, with_self_bleu=False)


def _records(rewrites: Sequence[Rewrite], client: RewardClient, config: RunConfig) -> list[dict[str, Any]]:
    """The rewrites with edits and scores, as `partner-rl rewrite` writes them."""
    from launch.training.phases import rewrite_record, without_texts

    breakdowns = client.score([rewrite.request for rewrite in rewrites])
    weights = config.rewards.weights()
    scores = [{"total": b.weighed(weights).total, **b.raw} for b in breakdowns]
    records = [rewrite_record(rewrite, found) for rewrite, found in zip(rewrites, scores, strict=True)]
    return [without_texts(record) for record in records] if config.tracking.redact else records


def _write_summary(
    run: RunFolder, group: Group, clock: PhaseClock, episodes_per_second: float | None, seed: int
) -> None:
    """Writes `summary.json`: system → metrics, None where one does not apply; and what they depend on."""
    from partner_rl.evaluation.summary import circumstances
    from partner_rl.storage.atomic import write_json

    keys = [metric.key for metric in group.metrics]
    systems = {
        system.name: {"n": group.pairs, **{key: e.value if (e := system.metrics.get(key)) else None for key in keys}}
        for system in group.systems
    }
    summary = {"systems": systems, "episodes_per_second": episodes_per_second}
    write_json(run.summary, {**summary, **circumstances(clock.seconds, seed)}, allow_nan=False)
