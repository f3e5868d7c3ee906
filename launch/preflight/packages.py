"""Versions of Python and of packages, against what the project requires and is tested with."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from launch.preflight.check_result import CheckResult
from launch.preflight.facts import Facts

_PACKAGES: Final = ("torch", "ray", "transformers", "peft", "tokenizers", "safetensors", "pydantic", "pyarrow", "wandb")
_SHOWN: Final = ("torch", "ray", "transformers")
_CONSTRAINTS: Final = Path(__file__).parents[2] / "constraints.txt"


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


def check_packages(facts: Facts) -> Iterator[CheckResult]:
    """The versions that are installed."""
    return package_results(installed_packages())


def installed_packages() -> tuple[Package, ...]:
    """Installed versions beside those that `constraints.txt` pins and the package requires."""
    required, pinned = _required(), _pinned(_CONSTRAINTS)
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


def package_results(packages: Sequence[Package]) -> Iterator[CheckResult]:
    """What is missing or outside of its range, what is not as tested, and the versions that matter most."""
    different = []
    for package in packages:
        wrong = _wrong_version(package)
        if wrong is not None:
            yield wrong
        elif package.pinned is not None and _public(package.installed) != _public(package.pinned):
            different.append(f"{package.name} {package.installed} (tested {package.pinned})")
    if different:
        hint = "if something fails: pip install -c constraints.txt -e ."
        yield CheckResult("versions", "warning", f"other versions than tested: {', '.join(different)}", hint)
    known = [f"{package.name} {package.installed}" for package in packages if package.name in _SHOWN]
    yield CheckResult("versions", "ok", ", ".join([f"Python {platform.python_version()}", *known]))


def _public(version: str | None) -> str:
    """A version without its build, such as the `+cpu` of torch."""
    return "" if version is None else Version(version).public


def _wrong_version(package: Package) -> CheckResult | None:
    hint = f"pip install '{package.name}{package.required}'"
    if package.installed is None:
        return CheckResult("versions", "problem", f"{package.name} is not installed", hint)
    if not SpecifierSet(package.required).contains(Version(package.installed), prereleases=True):
        found = f"{package.name} {package.installed} is outside of what works ({package.required})"
        return CheckResult("versions", "problem", found, hint)
    return None
