"""`partner-rl doctor`: would this configuration run here?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from launch.console import err, out
from launch.preflight.checks import Row, check_all, has_problem
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
    from launch.preflight.gather import gather
    from partner_rl.config.load import load_config

    config = load_config(preset, overrides or [])
    with err.status("Looking around"):
        config, facts = gather(config, doctor_request(config))
    rows = check_all(config, facts)
    if as_json:
        out.print_json(json.dumps(_as_json(facts, rows)))
    else:
        _print(facts, rows)
    if has_problem(rows):
        count = sum(row.status == "problem" for row in rows)
        if as_json:
            raise typer.Exit(1)
        raise PartnerError(f"{count} problem{'s' if count > 1 else ''}: a run with this configuration would fail")


def _as_json(facts: Facts, rows: Sequence[Row]) -> dict[str, Any]:
    from launch.preflight.show import memory_json, placement_json, rows_json
    from launch.resources.placement import place

    nodes = [] if facts.plan is None else placement_json(place(facts.plan, facts.cluster.nodes))
    return {
        "ok": not has_problem(list(rows)),
        "checks": rows_json(rows),
        "nodes": nodes,
        "memory": memory_json(facts.memory),
    }


def _print(facts: Facts, rows: Sequence[Row]) -> None:
    from launch.preflight.show import print_processes, print_rows

    print_processes(out, facts)
    print_rows(out, rows)
