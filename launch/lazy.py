"""Groups of commands whose modules are imported when they are invoked, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from partner_rl.config.paths import expand_home
from partner_rl.types import PartnerError


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command whose module is imported when it is invoked.

    Attributes:
        module: The module, which exports `command` (a function with Typer's annotations) or `app` (a `typer.Typer`).
        summary: The line that the group's `--help` shows.
    """

    module: str
    attribute: str
    summary: str


class LazyGroup(TyperGroup):
    """A group that also has lazy commands, listed first. Subclasses say which (see `lazy_group`)."""

    lazy: Mapping[str, LazyCommand] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: _listed(name, lazy) for name, lazy in self.lazy.items()} | dict(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name, imported if it is a lazy one."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in self.lazy:
            command = _imported(name, self.lazy[name])
        return name, command, rest


class _OneCommand(TyperCommand):
    """A command that takes finite numbers only, and expands `~` in paths.

    NaN is neither below a minimum nor above a maximum. A shell leaves the `~` of `--output=~/runs` alone.
    """

    def invoke(self, ctx: Any) -> Any:
        """Runs the command.

        Raises:
            PartnerError: A number is NaN or infinite, or there is no such home folder.
        """
        ctx.params = {name: _expanded(value) for name, value in ctx.params.items()}
        for name, value in ctx.params.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise PartnerError(f"--{name.replace('_', '-')} is {value}: give a finite number")
        return super().invoke(ctx)


def _expanded(value: Any) -> Any:
    """The value of a parameter, `~` expanded if it is a path or several."""
    if isinstance(value, Path):
        return expand_home(value)
    return type(value)(map(_expanded, value)) if isinstance(value, list | tuple) else value


def lazy_group(commands: Mapping[str, LazyCommand], base: type[LazyGroup] = LazyGroup) -> type[LazyGroup]:
    """A class for `typer.Typer(cls=…)` whose groups have these commands."""
    return type("Lazy", (base,), {"lazy": commands})


def _listed(name: str, lazy: LazyCommand) -> TyperCommand:
    """A lazy command as the help lists it: its name and summary only."""
    return TyperCommand(name=name, help=lazy.summary, callback=lambda: None)


def _imported(name: str, lazy: LazyCommand) -> Any:
    """The real command behind a lazy one."""
    target = getattr(importlib.import_module(lazy.module), lazy.attribute)
    if isinstance(target, typer.Typer):
        for info in target.registered_commands:
            info.cls = _OneCommand
        return typer.main.get_group(target)
    single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    single.command(name, cls=_OneCommand)(target)
    return typer.main.get_command(single)
