"""`partner-rl quickstart`: everything from a corpus to a policy, its figures and some of its rewrites."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from launch.console import err, out
from launch.options import DryRunOption, RedactOption, redaction
from launch.run_folder.folder import RunFolder
from partner_rl.config.schema import RunConfig

logger = logging.getLogger(__name__)

SHOWN_REWRITES = 5


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
    dry_run: DryRunOption = False,
) -> None:
    """Train the reward models, warm-start a policy, train it by RL and compare before and after.

    Example: `partner-rl quickstart --data path/to/epitome`
    """
    from partner_rl.config.load import given, load_config

    config = load_config(preset, [*(overrides or []), *given({"data.source": data}), *redaction(redact)])
    if dry_run:
        from launch.preflight.dry_run import show_new_run

        also = [("rewrites.jsonl", "rewrites of held-out pairs"), ("summary.json", "scores before and after")]
        return show_new_run(config, "quickstart", also, evaluates=True)
    from launch.preflight.environment import check_capacity
    from launch.preflight.inputs import require_inputs, run_request

    check_capacity(config)
    require_inputs(config, run_request(config, evaluates=True))
    run = RunFolder.create(config, default_name="quickstart")
    quickstart(config, run)
    out.print(f"run folder: {run.path}", soft_wrap=True)


def quickstart(config: RunConfig, run: RunFolder) -> None:
    """Runs all phases and leaves their results in the run folder."""
    from launch.resources.session import place_on_this_machine, ray_session
    from launch.training import phases
    from launch.training.phases import PhaseClock
    from launch.training.train import prepare
    from partner_rl.evaluation.report import print_rewrites, systems_table
    from partner_rl.evaluation.summary import build_summary, write_summary

    clock = PhaseClock(planned=5)
    placed, plan = place_on_this_machine(config)
    with run.resumable():
        prepared = prepare(placed, run, clock, config, "test")
        with ray_session(placed, plan), phases.reward_pools(placed, run, plan) as pools:
            client = pools.client()
            with clock.phase("evaluation", "evaluation before RL"):
                evaluation = phases.Evaluation(placed, run, prepared.splits.test, client)
                systems = [evaluation.originals(), evaluation.policy("warm_start", prepared.policy_folder)[0]]
            throughput = prepared.reinforce(client, resume=False)
            with clock.phase("evaluation", "evaluation after RL"):
                scores, rewrites = evaluation.policy("rl", run.export)
                systems.append(scores)
                records = evaluation.records(rewrites)
                if config.tracking.redact:
                    records = [phases.without_texts(record) for record in records]
                phases.write_jsonl(records, run.rewrites)
    write_summary(run.summary, build_summary(systems, clock.seconds, throughput.episodes_per_second, config.seed))
    out.print(systems_table(systems))
    if not config.tracking.redact:
        print_rewrites(rewrites, out, SHOWN_REWRITES)
    err.print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.seconds.items()))
