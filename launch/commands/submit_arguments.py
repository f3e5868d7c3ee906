"""A command as it must be typed on the cluster: checked here, before anything is sent.

A job runs in a directory of Ray's own, which is gone when the job is. So what a command writes goes to the storage, and
what is to be found there must not be named as it is seen from here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperGroup

from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from partner_rl.config.schema import RunConfig

NOT_AS_JOBS: Final = frozenset({"submit", "jobs", "watch", "config"})
"""Commands that speak with the user or the cluster from outside."""
_HELP: Final = frozenset({"-h", "--help"})
_GONE: Final = "what is written there would be gone with the job"
_ON_STORAGE: Final = {
    **dict.fromkeys(("output", "rejects", "human_sheet", "json"), _GONE),
    "resume": "a job's directory holds no runs",
}
"""Parameters whose files and folders must be on the storage, and why."""
_TAKEN_ALONG: Final = ("preset", "spec")
"""Parameters that may name a file of the working directory."""


def complete(arguments: Sequence[str], storage: str, working_dir: Path) -> tuple[str, ...]:
    """A command as it must be typed on the cluster.

    A run, a sweep or an ablation is checked here. It joins the job's own cluster, and its folder goes to the storage.

    Raises:
        PartnerError: There is no such command, its configuration is wrong or stays behind, or what it writes would be
            gone with the job.
    """
    name = _known(arguments[0])
    given = _parameters(arguments)
    _check_places(given, storage)
    _check_files(given, working_dir)
    if isinstance(given.get("resume"), Path):
        # What goes on keeps its configuration and its folder.
        return tuple(arguments)
    if name in ("train", "quickstart"):
        return (*arguments, *_for_a_run(given, storage, working_dir))
    if name == "sweep":
        return (*arguments, *_for_a_sweep(given, storage))
    if name == "ablate":
        return (*arguments, *_for_an_ablation(given, storage))
    return tuple(arguments)


def _known(name: str) -> str:
    from launch.cli import COMMANDS

    known = sorted(set(COMMANDS) - NOT_AS_JOBS)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise PartnerError(f"{name!r} cannot be submitted: {hint}")
    return name


def _parameters(arguments: Sequence[str]) -> Mapping[str, Any]:
    """The parameters of the command that the arguments name, which is not run; shows its help if that is asked for."""
    from launch.cli import app

    command: Any = typer.main.get_command(app)
    if _HELP & set(arguments):
        command.main(args=list(arguments), prog_name="partner-rl")
    context = command.make_context("partner-rl", list(arguments))
    while isinstance(command, TyperGroup):
        # Where Click keeps the words after a group's own options.
        words = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, words)
        context = command.make_context(name, rest, parent=context)
    params: Mapping[str, Any] = context.params
    return params


def _check_places(given: Mapping[str, Any], storage: str) -> None:
    """Refuses folders that the job would make in, or look for in, a directory that is gone with it."""
    for name, reason in _ON_STORAGE.items():
        path = given.get(name)
        if isinstance(path, Path) and not path.is_absolute():
            shown = name.replace("_", "-")
            raise PartnerError(f"{shown} {path}: {reason}; name a place on the cluster's storage: {storage}/{path}")


def _check_files(given: Mapping[str, Any], working_dir: Path) -> None:
    """Refuses files of configuration that stay behind."""
    for name in _TAKEN_ALONG:
        path = Path(given.get(name) or "")
        if path.is_file() and (path.is_absolute() or not (working_dir / path).is_file()):
            raise PartnerError(f"{path} would stay behind: put it into {working_dir}, and name it as seen from there")


def _for_a_run(given: Mapping[str, Any], storage: str, working_dir: Path) -> list[str]:
    from partner_rl.config.load import load_config

    config = load_config(given["preset"], given["overrides"] or [])
    runs = Path(config.runs_dir)
    # What was relative has become absolute here, and would be gone with the job.
    inside = [runs.relative_to(here) for here in (working_dir.absolute(), Path.cwd()) if runs.is_relative_to(here)]
    return [*(f"runs_dir={storage}/{path}" for path in inside[:1]), *_joining(config)]


def _for_a_sweep(given: Mapping[str, Any], storage: str) -> list[str]:
    from launch.sweep.opening import new_sweep

    if given["spec"] is None:
        raise PartnerError("give a spec to start a sweep, or --resume FOLDER to go on with one")
    default = Path("runs") / f"sweep-{Path(given['spec']).stem}"
    folder = given["output"] or Path(storage) / default
    sweep = new_sweep(given["spec"], tuple(given["overrides"] or ()), folder, given["num_samples"])
    return [*_output(default, given, storage), *_joining(sweep.config)]


def _for_an_ablation(given: Mapping[str, Any], storage: str) -> list[str]:
    from partner_rl.config.load import load_config

    config = load_config(given["preset"], given["overrides"] or [])
    return [*_output(Path("runs") / f"ablation-{Path(given['preset']).stem}", given, storage), *_joining(config)]


def _output(default: Path, given: Mapping[str, Any], storage: str) -> list[str]:
    return [] if given["output"] is not None else ["--output", f"{storage}/{default}"]


def _joining(config: RunConfig) -> list[str]:
    """What makes a run join the cluster that its driver runs on."""
    return ["resources.address=auto"] if config.resources.address is None else []
