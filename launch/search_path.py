"""Where imports come from, here and in all processes that are started: our packages before others of their names.

`envs`, `launch`, `partner_rl` and `rewards` are names that other people's files have, too. Python looks for a module in
the working directory first when it is started with `-m` or `-c`, or with an empty entry in `PYTHONPATH`; so does Ray in
its workers (`partner_rl.cluster.local_ray`). Here that folder is taken out, and `-P` is set for the processes to come.
Nothing but what the interpreter has loaded anyway is imported, because an import may be the stranger's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Final

PACKAGES: Final = ("envs", "launch", "partner_rl", "rewards")
ROOT: Final = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
"""The folder of our packages: a checkout, or where they are installed."""

_INSTALLED: Final = ("site-packages", "dist-packages")


def put_our_packages_first() -> None:
    """Orders `sys.path`, and what child processes get of it."""
    sys.path[:] = ordered(sys.path)
    os.environ["PYTHONPATH"] = os.pathsep.join(ordered(os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    os.environ["PYTHONSAFEPATH"] = "1"


def ordered(entries: Iterable[str]) -> list[str]:
    """A search path without the working directory, unless our packages are there, and with them first where need be.

    Where they are installed, they are found without an entry. They need one in a checkout, and where an earlier entry
    holds something of their names.
    """
    kept = [entry for entry in entries if not _is_working_directory(entry)]
    others = [entry for entry in kept if os.path.realpath(entry) != ROOT]
    if os.path.basename(ROOT) in _INSTALLED and not any(map(_has_our_names, others)):
        return kept
    return [ROOT, *others]


def _is_working_directory(entry: str) -> bool:
    try:
        here = os.getcwd()
    except FileNotFoundError:
        # It was removed: nothing can be found there.
        return not entry
    return os.path.realpath(entry or here) == os.path.realpath(here) != ROOT


def _has_our_names(folder: str) -> bool:
    return any(
        os.path.exists(os.path.join(folder, name))
        for package in PACKAGES
        for name in (f"{package}.py", os.path.join(package, "__init__.py"))
    )
