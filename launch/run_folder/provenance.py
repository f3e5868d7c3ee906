"""What a run was made with: the code's commit and the versions of the packages."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Final

COMMIT_VARIABLE: Final = "PARTNER_RL_COMMIT"
"""Environment variable that names the commit (`SHA` or `SHA-dirty`) where the code has been copied without its history,
such as on a cluster."""

_DISTRIBUTION: Final = "partner-rl"
_DIRTY: Final = "-dirty"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_GIT_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a run was made with.

    The commit is None where it is not known; `dirty` tells whether tracked files differ from it. `packages` has the
    versions of this one and all that it requires.
    """

    commit: str | None
    dirty: bool | None
    python: str
    packages: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """For `run.json` and W&B."""
        return asdict(self)


@cache
def provenance() -> Provenance:
    """What this process runs: commit and versions, found out once."""
    commit, dirty = code_version(Path(__file__).with_name("__init__.py"))
    return Provenance(commit, dirty, platform.python_version(), package_versions())


def code_version(file: Path) -> tuple[str | None, bool | None]:
    """The git commit of a source file, and whether tracked files of its repository have been changed.

    A file that its repository does not track, such as an installed package below somebody else's repository, has no
    commit.

    Returns:
        Commit and dirty flag; `PARTNER_RL_COMMIT` where there is no repository, else None and None.
    """
    folder = file.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", file.name) is not None:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return commit, None if changes is None else bool(changes)
    named = os.environ.get(COMMIT_VARIABLE)
    return (named.removesuffix(_DIRTY), named.endswith(_DIRTY)) if named else (None, None)


def named_commit(file: Path) -> str | None:
    """A source file's commit as `PARTNER_RL_COMMIT` takes it; None where it is not known."""
    commit, dirty = code_version(file)
    return None if commit is None else commit + (_DIRTY if dirty else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints; None when it fails or there is no git."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Versions of this package and of what it requires, as installed."""
    names = [_DISTRIBUTION]
    try:
        required = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        required = []
    for requirement in required:
        match = _NAME.match(requirement)
        if match is not None and "extra ==" not in requirement:
            names.append(match[0])
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
