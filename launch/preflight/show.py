"""Results of checks, placement and memory on the terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from launch.console import plain_console
from launch.preflight.check_result import CheckResult
from launch.preflight.facts import Facts
from launch.resources.memory import GIB, ProcessMemory
from launch.resources.plan import DRIVER, Plan
from partner_rl.cluster.placement import ActorGroup, Placement

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_FILE_WIDTH: Final = 160
_MEMORY_PARTS: Final = ("weights", "gradients", "optimizer", "reference", "kv_cache", "activations", "overhead")


def print_results(console: Console, results: Sequence[CheckResult]) -> None:
    """One line a result, and one for what to do about it."""
    for result in results:
        style = _STYLES[result.status]
        console.print(
            Text.assemble((f"{result.status:<8}", style), f" {result.check}: {result.message}"), soft_wrap=True
        )
        if result.hint and result.status != "ok":
            console.print(Text(f"{'':<9}→ {result.hint}"), soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """A table in full width where the output is no terminal: a file has no edge to break lines at."""
    wide = console if console.is_terminal else plain_console(file=console.file, width=_FILE_WIDTH)
    wide.print(table)


def print_processes(console: Console, facts: Facts) -> None:
    """The processes with their memory, and the nodes of a cluster; nothing of what there is no plan or no node for."""
    if facts.plan is not None:
        # Without a node there is no answer, rather than the answer no.
        nodes = facts.cluster.nodes
        placement = facts.placement if nodes else Placement((), (), {})
        print_table(console, placement_table(facts.plan, placement, facts.memory))
        if facts.cluster.address is not None and nodes:
            print_table(console, nodes_table(placement))
    if facts.memory:
        print_table(console, memory_table(facts.memory))


def placement_table(plan: Plan, placement: Placement, memory: Sequence[ProcessMemory]) -> Table:
    """Every group of actors with its resources, memory, threads and nodes."""
    needs = {process.group: process for process in memory}
    numbers = _right("count", "CPUs each", "GPUs each", "memory each", "threads each")
    table = Table("actors", *numbers, "nodes", title="Processes", title_justify="left")
    for group in plan.groups:
        table.add_row(
            group.name,
            str(group.count),
            f"{group.cpus:g}",
            f"{group.gpus:g}",
            _needed(needs.get(group.name)),
            str(group.threads),
            Text(_nodes_of(group, placement)),
        )
    return table


def _right(*headers: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(header, justify="right") for header in headers]


def _needed(process: ProcessMemory | None) -> str:
    if process is None:
        return "?"
    return f"{process.total / GIB:.1f} GiB" + (" (GPU)" if process.on_gpu else "")


def _nodes_of(group: ActorGroup, placement: Placement) -> str:
    if group.name == DRIVER:
        return "here"
    counts = Counter(actor.node for actor in placement.placed if actor.group == group.name)
    parts = [f"{placement.nodes[node].name} × {count}" for node, count in sorted(counts.items())]
    missing = placement.missing.get(group.name, 0)
    return ", ".join([*parts, *([f"no room × {missing}"] if missing else [])])


def nodes_table(placement: Placement, max_nodes: int = 32) -> Table:
    """Every node with what it has, what is free, and the actors that find room there."""
    numbers = _right("CPUs free", "GPUs free", "memory")
    table = Table("node", *numbers, "actors", title="Nodes", title_justify="left")
    for index, node in enumerate(placement.nodes[:max_nodes]):
        actors = ", ".join(f"{count} × {name}" for name, count in placement.on_node(index).items())
        gpus = _of(node.free, node.total, "GPU") + (f" {node.accelerator}" if node.accelerator else "")
        memory = f"{node.total['memory'] / GIB:.0f} GiB" if "memory" in node.total else "?"
        table.add_row(Text(node.name), _of(node.free, node.total, "CPU"), gpus, memory, actors)
    if len(placement.nodes) > max_nodes:
        table.add_row(f"and {len(placement.nodes) - max_nodes} more")
    return table


def _of(free: Mapping[str, float], total: Mapping[str, float], name: str) -> str:
    return f"{free.get(name, 0.0):g} of {total.get(name, 0.0):g}"


def memory_table(memory: Sequence[ProcessMemory]) -> Table:
    """What each process needs, in GiB, part by part."""
    shown = [part for part in _MEMORY_PARTS if any(getattr(process, part) for process in memory)]
    numbers = _right(*(part.replace("_", " ") for part in shown), "together")
    table = Table("process", "where", *numbers, title="Memory of one process, estimated (GiB)", title_justify="left")
    for process in memory:
        parts = [f"{getattr(process, part) / GIB:.2f}" for part in shown]
        table.add_row(process.group, "GPU" if process.on_gpu else "CPU", *parts, f"{process.total / GIB:.2f}")
    return table


def results_json(results: Sequence[CheckResult]) -> list[dict[str, str]]:
    """The results as JSON objects."""
    return [asdict(result) for result in results]


def placement_json(placement: Placement) -> list[dict[str, Any]]:
    """The nodes as JSON objects, each with the actors that find room there."""
    return [
        {"node": node.name, "id": node.node_id, "total": node.total, "free": node.free, "actors": placement.on_node(i)}
        for i, node in enumerate(placement.nodes)
    ]


def memory_json(memory: Sequence[ProcessMemory]) -> list[dict[str, Any]]:
    """The estimates as JSON objects, in bytes."""
    return [
        {"group": process.group, "device": "gpu" if process.on_gpu else "cpu", "total": process.total}
        | {part: getattr(process, part) for part in _MEMORY_PARTS}
        for process in memory
    ]
