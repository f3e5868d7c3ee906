"""The working directory that a job takes along: the code and the configurations, and nothing large or private."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Final

from launch.search_path import PACKAGES
from partner_rl.cluster.ray_internals import visit_packed_files
from partner_rl.types import PartnerError

_OURS: Final = Path("launch", "commands", "job_entry.py")
"""Tells a working directory that brings our packages along."""

LIMIT_BYTES: Final = 500 * 2**20
"""Largest package that a Ray cluster takes."""

EXCLUDED: Final = (
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
    "wandb",
    # Those beside the code, not the packages of these names in it.
    "/runs",
    "/data",
    "/models",
    "/shared",
    "/build",
    "/dist",
    "*.bin",
    "*.ckpt",
    "*.gguf",
    "*.npz",
    "*.parquet",
    "*.pt",
    "*.pth",
    "*.safetensors",
    # Keys have other ways (`launch.jobs.secrets`).
    ".env",
    ".netrc",
    "auth_token",
    "*.pem",
)
"""Patterns, as in a .gitignore, of what stays behind; .gitignore and .rayignore are kept to as well."""


def check_tree(folder: Path, excludes: Sequence[str], limit_bytes: int = LIMIT_BYTES) -> int:
    """Checks that a cluster will take the folder; returns the bytes that will go there, before compression.

    Raises:
        PartnerError: It is no folder, too much is in it (names what is largest), a link in it leads out of it or round
            in a circle, or workers would import something of it instead of our packages.
    """
    if not folder.is_dir():
        raise PartnerError(f"{folder} is no folder: name the project's with --working-dir")
    sizes = Counter[str]()
    files = list(_sent_files(folder, excludes))
    _check_names({path.relative_to(folder) for path in files}, folder)
    for path in files:
        sizes[path.relative_to(folder).parts[0]] += path.lstat().st_size
    total = sizes.total()
    if total > limit_bytes:
        largest = ", ".join(f"{name} {_mib(size)}" for name, size in sizes.most_common(3))
        raise PartnerError(
            f"{folder} is too large to go along with a job: {_mib(total)} of at most {_mib(limit_bytes)} ({largest}); "
            "leave something behind with --exclude PATTERN or a .rayignore file"
        )
    return total


def _check_names(sent: Set[Path], folder: Path) -> None:
    """Refuses what has a name of our packages: a job's processes look into the working directory first."""
    brings_ours = _OURS in sent
    for package in PACKAGES:
        module, init = Path(f"{package}.py"), Path(package, "__init__.py")
        taken = [module] if module in sent else [init] if init in sent and not brings_ours else []
        if taken:
            raise PartnerError(
                f"{folder / taken[0]} would be imported on the cluster instead of our package {package}: rename it, or "
                f"leave it behind with --exclude /{taken[0].parts[0]} or a .rayignore file"
            )


def _sent_files(folder: Path, excludes: Sequence[str]) -> Iterable[Path]:
    """The files that Ray will pack, by its own rules."""
    files: list[Path] = []
    root = folder.resolve()

    def take(path: Path) -> None:
        if path.is_symlink():
            _check_link(path, root)
        files.append(path)

    visit_packed_files(folder, excludes, take)
    return [path for path in files if path.is_file()]


def _check_link(path: Path, root: Path) -> None:
    """Refuses a link that Ray would follow to what nobody means to send: it packs what a link leads to."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        # It leads nowhere, or to itself: nothing is sent.
        return
    if not target.is_relative_to(root):
        raise PartnerError(
            f"the link {path} leads out of the working directory: replace it by what is to go along, or leave it "
            "behind with --exclude or a .rayignore file"
        )
    if path.parent.resolve().is_relative_to(target):
        raise PartnerError(f"the link {path} leads to a folder that it is in: remove it, or leave it behind")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
