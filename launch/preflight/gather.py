"""Gathers the facts that the checks look at; starts nothing, fetches nothing and writes nothing."""

from __future__ import annotations

import netrc
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from packaging.requirements import Requirement

from launch.preflight.check_request import CheckRequest, model_facts
from launch.preflight.environment import environment_problems
from launch.preflight.facts import Cluster, Disk, Facts, Gpu, Machine, ModelFact, Package, Wandb
from launch.preflight.inputs import corpus_facts, input_fact
from launch.resources.memory import (
    ENCODER,
    POLICY,
    REWARD_LM,
    ProcessMemory,
    Shapes,
    checkpoint_bytes,
    export_bytes,
    run_memory,
)
from launch.resources.model_shape import ModelShape
from launch.resources.placement import this_machine
from launch.resources.plan import Plan, machine_cores, resource_plan, share_local_gpu
from launch.tracking.mode import has_key, wandb_mode
from partner_rl.config.inputs import named_inputs
from partner_rl.config.schema import RunConfig, TrackingConfig
from partner_rl.types import PartnerError

_PACKAGES: Final = ("torch", "ray", "transformers", "peft", "tokenizers", "safetensors", "pydantic", "pyarrow", "wandb")
_ROOT: Final = Path(__file__).parents[2]
_ANSWER_S: Final = 3.0
_WANDB_CLOUD: Final = "https://api.wandb.ai"
EstimateMemory = Callable[[RunConfig, Plan, Shapes], Sequence[ProcessMemory]]
_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_MEMORY_USED: Final = Path("/sys/fs/cgroup/memory.current")


def gather(
    config: RunConfig, request: CheckRequest, plan: Plan | None = None, memory: EstimateMemory = run_memory
) -> tuple[RunConfig, Facts]:
    """The facts of a command.

    Returns:
        The configuration with this machine's GPUs shared out, and the facts.
    """
    machine = machine_facts()
    config = share_local_gpu(config, len(machine.gpus))
    plan, problem = (plan, "") if plan is not None else _plan(config, machine, scores_all=request.scores_all)
    cluster = cluster_facts(config, plan)
    models = model_facts(config, request)
    shapes = _policy_shape(sizes(config, models))
    return config, Facts(
        machine=machine,
        packages=package_facts(),
        cluster=cluster,
        plan=plan,
        plan_problem=problem,
        memory=() if plan is None else tuple(memory(config, plan, shapes)),
        models=models,
        environment=tuple(environment_problems(config)),
        corpus=corpus_facts(config, needs_labels=request.needs_labels) if request.reads_data else None,
        disk=disk_facts(request.output or Path(config.runs_dir)),
        disk_needed=run_bytes(config, shapes) if request.is_run else None,
        wandb=_wandb(config.tracking) if request.tracks else None,
    )


def _plan(config: RunConfig, machine: Machine, *, scores_all: bool) -> tuple[Plan | None, str]:
    try:
        return resource_plan(config, machine.cores, len(machine.gpus), scores_all=scores_all), ""
    except PartnerError as error:
        return None, str(error)


def sizes(config: RunConfig, models: Sequence[ModelFact]) -> Shapes:
    """The sizes of a command's models, and of those that the reward models were trained from."""
    found = {fact.key: fact.shape for fact in models}
    others = [one for one in named_inputs(config) if one.key in (REWARD_LM, ENCODER) and one.key not in found]
    return {**found, **{one.key: input_fact(one, config).shape for one in others}}


def _policy_shape(shapes: Shapes) -> Shapes:
    """A warm-started policy has the sizes of the model that it was made from, and takes its place."""
    checkpoint = shapes.get("warmstart.checkpoint")
    return {**shapes, POLICY: checkpoint} if checkpoint is not None else shapes


def package_facts() -> tuple[Package, ...]:
    """Installed versions beside those that `constraints.txt` pins and the package requires."""
    required = _required()
    pinned = _pinned(_ROOT / "constraints.txt")
    return tuple(Package(name, _installed(name), pinned.get(name), required.get(name, "")) for name in _PACKAGES)


def _required() -> dict[str, str]:
    """Name → range that the package requires; empty where it runs from its source tree."""
    try:
        found = [Requirement(text) for text in requires("partner-rl") or ()]
    except PackageNotFoundError:
        return {}
    return {one.name.lower(): str(one.specifier) for one in found if one.marker is None}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _pinned(path: Path) -> dict[str, str]:
    """Name → version of a constraints file; empty where the package is installed without it."""
    if not path.is_file():
        return {}
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("==") for line in lines if "==" in line)
    return {name.lower(): pin for name, _, pin in pairs}


def machine_facts() -> Machine:
    """This machine."""
    import psutil
    import torch

    memory = psutil.virtual_memory()
    limit, used = _cgroup_memory()
    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(Gpu(torch.cuda.get_device_name(index), total, free))
    shared = Path("/dev/shm")
    return Machine(
        python=platform.python_version(),
        cores=machine_cores(),
        memory=min(memory.total, limit or memory.total),
        free_memory=min(memory.available, limit - used if limit else memory.available),
        shared_memory=shutil.disk_usage(shared).free if shared.is_dir() else 0,
        gpus=tuple(gpus),
        torch_cuda=torch.version.cuda,
    )


def _cgroup_memory() -> tuple[int | None, int]:
    """Limit and use of the container's memory; None where there is no limit."""
    try:
        return int(_MEMORY_LIMIT.read_text(encoding="ascii")), int(_MEMORY_USED.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no control group, or the word "max"
        return None, 0


def cluster_facts(config: RunConfig, plan: Plan | None) -> Cluster:
    """The cluster, joined for a moment; without an address the Ray that a run would start."""
    address = config.resources.address
    if address is None:
        # Ray turns it on for one that it starts, unless it is told otherwise.
        asks = _auth_mode() in ("", "token")
        return Cluster(None, () if plan is None else (this_machine(plan),), asks, open_token=_open_token())
    from launch.resources.wait_for_nodes import cluster_nodes

    try:
        with _joined(address):
            # Joining may have turned it on.
            return Cluster(address, cluster_nodes(), _auth_mode() == "token", open_token=_open_token())
    except PartnerError as error:
        return Cluster(address, (), _auth_mode() == "token", str(error), _open_token())


def _auth_mode() -> str:
    """How Ray authenticates in this process; empty where it decides by itself."""
    return os.environ.get("RAY_AUTH_MODE", "").lower()


def _open_token() -> str | None:
    """The file of Ray's token, if others than its owner may read it."""
    if _auth_mode() == "disabled" or os.environ.get("RAY_AUTH_TOKEN"):
        return None
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        readable = path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
        # Nobody else enters a folder that is its owner's alone.
        enters = path.parent.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    except OSError:
        return None
    return str(path) if readable and enters else None


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """This process in the cluster, for the time of a block; a process that is in one already stays there."""
    import ray

    from launch.resources.session import join

    if ray.is_initialized():
        yield
        return
    join(address)
    try:
        yield
    finally:
        ray.shutdown()


def disk_facts(folder: Path) -> Disk:
    """The disk on which a folder is or would be made."""
    there = folder.expanduser().absolute()
    while not there.exists():
        there = there.parent
    writable = os.access(there, os.W_OK | os.X_OK) and there.is_dir()
    return Disk(str(folder), shutil.disk_usage(there).free, writable)


def run_bytes(config: RunConfig, shapes: Shapes) -> int | None:
    """What a training run leaves in its folder, in bytes; None where the policy's sizes are not known."""
    policy, encoder = shapes.get(POLICY), shapes.get(ENCODER)
    if policy is None:
        return None
    every = config.checkpoint.keep_every
    # One more is being written before an old one goes.
    kept = config.checkpoint.keep + 1 + (0 if every is None else config.algorithm.iterations // every)
    exports = 1 if config.warmstart.checkpoint is not None else 2
    total = kept * checkpoint_bytes(policy, config.policy, config.env.window)
    total += exports * export_bytes(policy, config.env.window)
    return total + (0 if encoder is None else _classifier_bytes(config, encoder))


def _classifier_bytes(config: RunConfig, encoder: ModelShape) -> int:
    """The classifiers that the run trains: each member of the empathy ensemble has two encoders."""
    members = config.reward_training.empathy_members if config.rewards.empathy.checkpoint is None else 0
    encoders = 2 * members + (config.rewards.coherence.checkpoint is None)
    return 4 * encoders * encoder.parameters


def _wandb(tracking: TrackingConfig) -> Wandb | None:
    try:
        return wandb_facts(tracking)
    except PartnerError:
        # `environment_problems` tells.
        return None


def wandb_facts(tracking: TrackingConfig) -> Wandb:
    """W&B as the run would meet it; asks its address only when the run would."""
    address = os.environ.get("WANDB_BASE_URL") or _WANDB_CLOUD
    mode = wandb_mode(tracking)
    asks = has_key() or _has_login(address)
    return Wandb(mode, asks, _without_password(address), _answers(address) if mode == "online" and asks else None)


def _has_login(address: str) -> bool:
    """Whether `wandb login` has left a key in `~/.netrc`."""
    try:
        return netrc.netrc().authenticators(urlsplit(address).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _answers(address: str) -> bool:
    """Whether a web address answers, through the proxy if there is one."""
    try:
        with urlopen(address, timeout=_ANSWER_S):
            return True
    except HTTPError:
        # A refusal is an answer.
        return True
    except (OSError, ValueError):
        return False


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)
