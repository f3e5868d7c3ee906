"""What numbers depend on besides the code: how long it took, on which machine and with which packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

VERSIONED_PACKAGES: Final = (
    "partner-rl",
    "ray",
    "torch",
    "transformers",
    "gymnasium",
    "peft",
    "accelerate",
    "numpy",
)
"""Packages whose versions can change the numbers."""

_CPU_INFO: Final = Path("/proc/cpuinfo")


def circumstances(seconds: Mapping[str, float], seed: int) -> dict[str, object]:
    """What a summary or report says besides its metrics: seconds of each phase, seed, versions and machine."""
    return {
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
        "seed": seed,
        "versions": package_versions(),
        "device": describe_device(),
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that decide the numbers; absent ones are left out."""
    versions = {"python": platform.python_version()}
    installed = {(dist.name or "").lower(): dist.version for dist in importlib.metadata.distributions()}
    versions.update({name: installed[name] for name in VERSIONED_PACKAGES if name in installed})
    return versions


def describe_device() -> dict[str, object]:
    """What the run computed on: CPU model, cores of this process, GPU models, operating system."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cpu": _cpu_model(), "cores": _cores(), "gpus": gpus, "system": platform.system()}


def _cores() -> int:
    # Containers and job schedulers give a process fewer cores than the machine has; only Linux tells.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
