"""The shell of a benchmark's command: one line for an error, and what every report says about where it was made."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import typer
from rich.text import Text

from launch.console import err
from partner_rl.text.markdown import markdown_table
from partner_rl.types import PartnerError

ROOT: Final = Path(__file__).resolve().parents[1]
DEBUG_VARIABLE: Final = "PARTNER_RL_DEBUG"


def run_command(function: Callable[..., None], name: str, arguments: Sequence[str] | None = None) -> None:
    """Runs a function as a command line and ends the process with an honest exit status.

    Args:
        function: Its parameters are the options, its docstring the help.
        name: What the user typed, such as `python -m benchmarks.scaling`.
        arguments: The arguments after the name; None for those of the process.
    """
    sys.exit(_status(function, name, arguments))


def _status(function: Callable[..., None], name: str, arguments: Sequence[str] | None) -> int:
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(function)
    command = typer.main.get_command(app)
    try:
        # The status of an early end such as `--help`, or nothing.
        status = command.main(
            args=None if arguments is None else list(arguments), prog_name=name, standalone_mode=False
        )
    except (typer.Abort, KeyboardInterrupt):
        _print_error("stopped")
        return 130
    except typer.TyperException as error:
        _print_error(f"{error.format_message()} (see `{name} --help`)")
        return error.exit_code
    except PartnerError as error:
        _print_error(str(error))
        return 1
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            traceback.print_exc()
        message = " ".join(str(error).split())
        _print_error(f"unexpected {type(error).__name__}: {message} (set {DEBUG_VARIABLE}=1 for the traceback)")
        return 1
    return int(status or 0)


def _print_error(message: str) -> None:
    """One red line on standard error."""
    err.print(Text.assemble(("error: ", "bold red"), (message, "red")), soft_wrap=True)


def numbers(option: str, text: str, lowest: int) -> tuple[int, ...]:
    """The numbers of an option such as `--samples 1,2,4`; none for an empty text.

    Raises:
        PartnerError: A part is no number, or below the lowest.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) >= lowest for part in parts):
        raise PartnerError(f"{option} {text}: give numbers of at least {lowest}, separated by commas")
    return tuple(dict.fromkeys(int(part) for part in parts))


def aligned_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned for the terminal too."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (columns, *rows)]
    return markdown_table(padded[0], padded[1:]) + "\n"


def where(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Commit, versions and machine of a report, JSON-able.

    Args:
        packages: Packages to name the versions of, beside those that every report names.
    """
    from partner_rl.evaluation.summary import describe_device, package_versions

    return {
        "commit": _commit(),
        "versions": package_versions() | {name: found for name in packages if (found := _version(name))},
        "device": describe_device(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, marked when files differ from it; None outside of a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit} with changes" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    # Looking must not write: other programs may be using the checkout.
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
