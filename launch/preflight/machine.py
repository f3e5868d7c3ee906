"""This machine: its cores, memory and GPUs, and whether torch can use them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from launch.preflight.check_result import CheckResult
from launch.resources.memory import GIB
from launch.resources.plan import machine_cores

if TYPE_CHECKING:
    from launch.preflight.facts import Facts

_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_MEMORY_USED: Final = Path("/sys/fs/cgroup/memory.current")
_SHARED_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine, in bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, where the driver runs. Memory is in bytes, within the container's limit.

    Attributes:
        cores: Cores that this process may use.
        shared_memory: Bytes that are free in `/dev/shm`.
        torch_cuda: CUDA version that torch was built for; None for a build without CUDA.
    """

    cores: int
    memory: int
    free_memory: int
    shared_memory: int
    gpus: tuple[Gpu, ...] = ()
    torch_cuda: str | None = None


def local_machine() -> Machine:
    """What this machine has."""
    import psutil
    import torch

    memory = psutil.virtual_memory()
    limit, used = _cgroup_memory()
    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(Gpu(torch.cuda.get_device_name(index), total, free))
    return Machine(
        cores=machine_cores(),
        memory=min(memory.total, limit or memory.total),
        free_memory=min(memory.available, limit - used if limit else memory.available),
        shared_memory=shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else 0,
        gpus=tuple(gpus),
        torch_cuda=torch.version.cuda,
    )


def _cgroup_memory() -> tuple[int | None, int]:
    """Limit and use of the container's memory; None where there is no limit."""
    try:
        return int(_MEMORY_LIMIT.read_text(encoding="ascii")), int(_MEMORY_USED.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no control group, or the word "max"
        return None, 0


def check_device(facts: Facts) -> Iterator[CheckResult]:
    """GPUs of this machine and whether torch can use them."""
    gpus = facts.machine.gpus
    if facts.config.device == "cuda" and not gpus:
        yield CheckResult("device", "problem", "device=cuda, but torch sees no GPU", "set device=auto")
    elif gpus:
        names = ", ".join(f"{gpu.name} ({gpu.free / GIB:.0f} of {gpu.total / GIB:.0f} GiB free)" for gpu in gpus)
        yield CheckResult("device", "ok", f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}: {names}")
    else:
        built = "torch has no CUDA" if facts.machine.torch_cuda is None else "torch sees none"
        yield CheckResult("device", "ok", f"no GPU on this machine ({built}), {facts.machine.cores} cores")


def check_shared_memory(facts: Facts) -> Iterator[CheckResult]:
    """Room in `/dev/shm` for the object store of a Ray that the run starts."""
    starts_ray = facts.plan is not None and any(group.bundle for group in facts.plan.groups)
    if facts.cluster.address is not None or not starts_ray:
        return
    wanted, there = facts.config.resources.object_store_mb * 2**20, facts.machine.shared_memory
    message = f"{there / 2**20:.0f} MiB free, {wanted / 2**20:.0f} wanted for Ray's objects (resources.object_store_mb)"
    if there < wanted:
        hint = "Ray falls back to the disk, which is slow: give the container --shm-size, or lower that number"
        yield CheckResult("shared memory", "warning", message, hint)
    else:
        yield CheckResult("shared memory", "ok", message)
