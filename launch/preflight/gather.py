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
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from packaging.requirements import Requirement

from launch.plan import Plan, machine_cores, resource_plan, share_local_gpu
from launch.preflight.facts import Cluster, Corpus, Disk, Facts, Gpu, Machine, ModelFact, Package, Wandb
from launch.preflight.memory import (
    ENCODER,
    POLICY,
    REWARD_LM,
    ProcessMemory,
    Shapes,
    checkpoint_bytes,
    export_bytes,
    run_memory,
)
from launch.preflight.model_shape import ModelShape, find_model, is_built_on_use, shape_of
from launch.preflight.placement import this_machine
from launch.surroundings import surrounding_problems
from launch.tracking.mode import has_key, wandb_mode
from partner_rl.config.schema import RunConfig, TrackingConfig
from partner_rl.data.readers import iter_rows
from partner_rl.data.records import Reject
from partner_rl.models.embedded import EMBEDDED
from partner_rl.types import Example, PartnerError

FIRST_ROWS: Final = 200
"""Rows of the data that are read."""

_PACKAGES: Final = ("torch", "ray", "transformers", "peft", "tokenizers", "safetensors", "pydantic", "pyarrow", "wandb")
_ROOT: Final = Path(__file__).parents[2]
_ANSWER_S: Final = 3.0
_WANDB_CLOUD: Final = "https://api.wandb.ai"
EstimateMemory = Callable[[RunConfig, Plan, Shapes], Sequence[ProcessMemory]]
_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_MEMORY_USED: Final = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, slots=True)
class Wish:
    """Which facts a command is about.

    Attributes:
        models: Keys of the models that it loads, of `models.policy`, `models.reward_lm` and `models.encoder`.
        files: Models and checkpoints that its options name.
        reads_data: Whether it reads `data.source`.
        needs_labels: Whether it learns from labels, unless the configuration names what was learned.
        tracks: Whether it writes to W&B.
        is_run: Whether it is a whole training run, which fills a run folder.
        scores_all: Whether it scores reward components that weigh nothing, too.
        output: The folder that receives its results; None for `runs_dir`.
    """

    models: tuple[str, ...] = (POLICY, REWARD_LM, ENCODER)
    files: tuple[ModelFact, ...] = ()
    reads_data: bool = True
    needs_labels: bool = True
    tracks: bool = True
    is_run: bool = True
    scores_all: bool = False
    output: Path | None = None


def gather(
    config: RunConfig, wish: Wish, plan: Plan | None = None, memory: EstimateMemory = run_memory
) -> tuple[RunConfig, Facts]:
    """The facts of a command.

    Args:
        config: The run as it was asked for.
        wish: What the command is about.
        plan: Its processes; None for those of the run.
        memory: Estimates what they need.

    Returns:
        The configuration with this machine's GPUs shared out, and the facts.
    """
    machine = machine_facts()
    config = share_local_gpu(config, len(machine.gpus))
    plan, problem = (plan, "") if plan is not None else _plan(config, machine, scores_all=wish.scores_all)
    cluster = cluster_facts(config, plan)
    models = model_facts(config, wish)
    shapes = {fact.key: fact.shape for fact in models}
    return config, Facts(
        machine=machine,
        packages=package_facts(),
        cluster=cluster,
        plan=plan,
        plan_problem=problem,
        memory=() if plan is None else tuple(memory(config, plan, _policy_shape(shapes))),
        models=models,
        surroundings=tuple(surrounding_problems(config)),
        corpus=corpus_facts(config, needs_labels=wish.needs_labels) if wish.reads_data else None,
        disk=disk_facts(wish.output or Path(config.runs_dir)),
        disk_needed=run_bytes(config, _policy_shape(shapes)) if wish.is_run else None,
        wandb=_wandb(config.tracking) if wish.tracks else None,
    )


def _plan(config: RunConfig, machine: Machine, *, scores_all: bool) -> tuple[Plan | None, str]:
    try:
        return resource_plan(config, machine.cores, len(machine.gpus), scores_all=scores_all), ""
    except PartnerError as error:
        return None, str(error)


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
    from launch.preflight.room import cluster_nodes

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

    from launch.ray_session import join

    if ray.is_initialized():
        yield
        return
    join(address)
    try:
        yield
    finally:
        ray.shutdown()


def model_facts(config: RunConfig, wish: Wish) -> tuple[ModelFact, ...]:
    """The models that a command loads, and the checkpoints that take the place of some."""
    cache = None if config.models.cache_dir is None else Path(config.models.cache_dir).expanduser()
    facts = []
    checkpoint = config.warmstart.checkpoint
    for key in wish.models:
        if key == POLICY and checkpoint is not None and wish.is_run:
            facts.append(model_fact("warmstart.checkpoint", checkpoint, cache))
        else:
            facts.append(model_fact(key, getattr(config.models, key.rpartition(".")[2]), cache))
    return (*facts, *_checkpoints(config, wish, cache), *wish.files)


def model_fact(key: str, name: str, cache: Path | None) -> ModelFact:
    """A pretrained model or an exported policy, looked for without fetching it.

    Args:
        key: The key or the option that names it.
        name: Its name.
        cache: Cache of converted models; None for the default.
    """
    try:
        folder = find_model(name, cache)
        shape = shape_of(name, folder)
    except PartnerError as error:
        return ModelFact(key, name, "absent", str(error))
    if folder is None and not is_built_on_use(name):
        embedded = EMBEDDED.get(name.partition(":")[2])
        return ModelFact(key, name, "absent", download=None if embedded is None else embedded.wheel_bytes)
    return ModelFact(key, name, "on use" if folder is None else "present", shape=shape)


def _checkpoints(config: RunConfig, wish: Wish, cache: Path | None) -> Iterator[ModelFact]:
    """What else the configuration names a folder of."""
    rewards = config.rewards
    if ENCODER in wish.models:
        for name in ("empathy", "coherence"):
            folder = getattr(rewards, name).checkpoint
            if folder is not None:
                files = classifier_files(
                    name, is_ensemble=name == "empathy" and rewards.empathy.score == "conservative"
                )
                yield folder_fact(f"rewards.{name}.checkpoint", folder, files, f"{name} classifier")
    if REWARD_LM in wish.models:
        section = rewards.mutual_information
        for side in ("forward", "backward"):
            model = getattr(section, f"{side}_checkpoint")
            if model is not None:
                yield model_fact(f"rewards.mutual_information.{side}_checkpoint", model, cache)
    for key, path in (("evaluation.judge", config.evaluation.judge), ("warmstart.data", config.warmstart.data)):
        if path is not None:
            yield folder_fact(key, path, (), "file or folder")


def classifier_files(kind: str, *, is_ensemble: bool = False) -> tuple[str, ...]:
    """What the folder of a trained classifier must hold.

    Args:
        kind: `empathy`, which is in Hugging Face's layout, or `coherence`.
        is_ensemble: Whether there must be a second member.
    """
    from partner_rl.storage.artefact import MARK
    from rewards.checkpoint import MEMBERS, WEIGHTS

    description = "config.json" if kind == "empathy" else MARK
    return (description, WEIGHTS, *([f"{MEMBERS}/2/{WEIGHTS}"] if is_ensemble else []))


def folder_fact(key: str, name: str, files: Sequence[str], what: str) -> ModelFact:
    """A folder that the configuration or an option names.

    Args:
        key: The key or the option.
        name: The folder.
        files: What it must hold.
        what: What it is to be.
    """
    path = Path(name).expanduser()
    missing = [file for file in files if not (path / file).is_file()]
    if not path.exists() or missing:
        return ModelFact(key, name, "absent", f"there is no {what} ({', '.join(missing) or 'nothing there'})")
    return ModelFact(key, name, "present")


def corpus_facts(config: RunConfig, *, needs_labels: bool) -> Corpus:
    """The first rows of the data; no text of them is kept.

    Args:
        config: The run.
        needs_labels: Whether training learns from labels, unless the configuration names what was learned.
    """
    source = config.data.source
    try:
        rows = list(islice(iter_rows(source, config.data.max_post_characters), FIRST_ROWS))
    except PartnerError as error:
        return Corpus(source, problem=str(error))
    pairs = [row for row in rows if isinstance(row, Example)]
    rejects = sum(isinstance(row, Reject) for row in rows)
    warmstart = config.warmstart
    learns = config.rewards.empathy.checkpoint is None or (
        warmstart.checkpoint is None and warmstart.data is None and warmstart.epochs > 0
    )
    labelled = sum(pair.empathy is not None for pair in pairs)
    return Corpus(source, len(pairs), rejects, labelled, needs_labels=needs_labels and learns)


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
        # `surrounding_problems` tells.
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
