"""Facts that the checks look at: plain records, gathered by `launch.preflight.gather` or made up by a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launch.resources.memory import ProcessMemory
from launch.resources.model_shape import ModelShape
from launch.resources.placement import Node
from launch.resources.plan import Plan


@dataclass(frozen=True, slots=True)
class Package:
    """A package that a run depends on.

    Attributes:
        installed: The installed version; None when it is missing.
        pinned: The version that the project is tested with; None where `constraints.txt` is not at hand.
        required: The range that the project accepts, such as `>=5.0`; empty for any.
    """

    name: str
    installed: str | None
    pinned: str | None
    required: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine, in bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, where the driver runs.

    Attributes:
        cores: Cores that this process may use.
        memory: Bytes of memory, within the container's limit.
        free_memory: Bytes of it that are free.
        shared_memory: Bytes that are free in `/dev/shm`.
        torch_cuda: CUDA version that torch was built for; None for a build without CUDA.
    """

    python: str
    cores: int
    memory: int
    free_memory: int
    shared_memory: int
    gpus: tuple[Gpu, ...] = ()
    torch_cuda: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFact:
    """A pretrained model or a checkpoint that the configuration names.

    Attributes:
        key: The key that names it.
        state: Whether it is there; `on use` is built without a download.
        problem: Why it can never be used, in one line; empty otherwise.
        shape: Its sizes, where they are known.
        download: Bytes that fetching it would transfer, where they are known.
    """

    key: str
    name: str
    state: Literal["present", "on use", "absent"]
    problem: str = ""
    shape: ModelShape | None = None
    download: int | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """The first rows of the data.

    Attributes:
        pairs: Pairs among the first rows.
        rejects: Rows among them that cannot be used.
        labelled: Pairs among them with levels of empathy.
        needs_labels: Whether training needs some.
        problem: Why nothing can be read; empty otherwise.
    """

    source: str
    pairs: int = 0
    rejects: int = 0
    labelled: int = 0
    needs_labels: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """The folder of the results.

    Attributes:
        free: Bytes that are free there.
    """

    path: str
    free: int
    is_writable: bool


@dataclass(frozen=True, slots=True)
class Wandb:
    """Weights & Biases, as a run would meet it.

    Attributes:
        mode: What `tracking.wandb` comes to: `auto` is online when there is a key.
        has_key: Whether there is an API key, in the environment or in `~/.netrc`.
        is_reachable: Whether the address answers; None where nobody asked.
    """

    mode: Literal["online", "offline", "disabled"]
    has_key: bool
    address: str
    is_reachable: bool | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """The Ray cluster that the run would use.

    Attributes:
        address: `resources.address`; None for a Ray that the run starts.
        nodes: Its nodes; this machine for a Ray that is yet to be started.
        has_token: Whether this process shows a token to Ray, and a Ray that the run starts asks for one.
        problem: Why it cannot be joined; empty otherwise.
        open_token: The file of the token if others than its owner may read it.
    """

    address: str | None
    nodes: tuple[Node, ...] = ()
    has_token: bool = False
    problem: str = ""
    open_token: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks look at.

    Attributes:
        plan: The plan; None when it was refused, see `plan_problem`.
        plan_problem: Why there is no plan; empty otherwise.
        memory: What each process needs.
        environment: What is wrong with the user's folders and variables (`launch.preflight.environment`).
        corpus: The data; None for a command that reads none.
        disk_needed: Bytes that the run will write there, where that is known.
        wandb: Weights & Biases; None for a command that does not track.
    """

    machine: Machine
    packages: tuple[Package, ...]
    cluster: Cluster
    plan: Plan | None
    plan_problem: str
    memory: tuple[ProcessMemory, ...]
    models: tuple[ModelFact, ...]
    corpus: Corpus | None
    disk: Disk
    disk_needed: int | None
    wandb: Wandb | None
    environment: tuple[str, ...] = ()
