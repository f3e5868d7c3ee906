"""`partner-rl doctor`: would this configuration run here?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from launch.console import err, out
from launch.preflight.check_result import CheckResult, has_problem
from launch.preflight.facts import Facts
from partner_rl.types import PartnerError


def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE, such as resources.address=auto.", show_default=False)
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")
    ] = "embedded",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Check versions, cluster, memory, disk, models, data, tracking and authentication before a run; changes nothing.

    Status 1 when something would make the run fail.

    Example: `partner-rl doctor --preset cluster models.policy=hf:microsoft/DialoGPT-small`
    """
    from launch.preflight.check_request import doctor_request
    from launch.preflight.checks import check_all
    from launch.preflight.facts import gather
    from partner_rl.config.load import load_config

    config = load_config(preset, overrides or [])
    with err.status("Looking around"):
        facts = gather(config, doctor_request(config))
    results = check_all(facts)
    if as_json:
        out.print_json(json.dumps(_as_json(facts, results)))
    else:
        _print(facts, results)
    if has_problem(results):
        count = sum(result.status == "problem" for result in results)
        if as_json:
            raise typer.Exit(1)
        raise PartnerError(f"{count} problem{'s' if count > 1 else ''}: a run with this configuration would fail")


def _as_json(facts: Facts, results: Sequence[CheckResult]) -> dict[str, Any]:
    from launch.preflight.show import memory_json, placement_json, results_json

    return {
        "ok": not has_problem(results),
        "checks": results_json(results),
        "nodes": placement_json(facts.placement),
        "memory": memory_json(facts.memory),
    }


def _print(facts: Facts, results: Sequence[CheckResult]) -> None:
    from launch.preflight.show import print_processes, print_results

    print_processes(out, facts)
    print_results(out, results)
