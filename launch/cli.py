"""`partner-rl`: the command line.

A command's module is imported when the command is invoked, so that `partner-rl --help` answers at once. An error that
is meant for the user (`PartnerError`) is one line and status 1; what `launch.interrupt` heeds is status 130; anything
else is one line too, with a traceback under `--debug`.
"""

from __future__ import annotations

import logging
import os
import sys
from difflib import unified_diff
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from launch.console import err, set_up_logging
from launch.interrupt import INTERRUPTED, heed_signals
from launch.lazy import LazyCommand, LazyGroup, lazy_group
from launch.streams import settle_streams
from partner_rl.storage.full_disk import is_full_disk
from partner_rl.types import PartnerError

DEBUG_VARIABLE: Final = "PARTNER_RL_DEBUG"
"""Environment variable that `--debug` sets, so that Ray's workers see it too."""


COMMANDS: Final = {
    "quickstart": LazyCommand(
        "launch.commands.quickstart", "command", "Train a small policy from scratch and show what it learned."
    ),
    "train": LazyCommand(
        "launch.commands.train", "command", "Train a policy by reinforcement learning, or resume a run."
    ),
    "warmstart": LazyCommand(
        "launch.commands.warmstart", "command", "Train a policy on real empathic sentences, as the start of RL."
    ),
    "evaluate": LazyCommand("launch.commands.evaluate", "command", "Measure a trained policy on held-out pairs."),
    "doctor": LazyCommand("launch.commands.doctor", "command", "Check whether a configuration would run here."),
    "rewrite": LazyCommand("launch.commands.rewrite", "command", "Rewrite one response, or a file of them."),
    "ablate": LazyCommand("launch.commands.ablate", "command", "Train without each part of the method and compare."),
    "sweep": LazyCommand("launch.commands.sweep", "command", "Train many runs over any keys: which one to take?"),
    "baselines": LazyCommand("launch.commands.baselines", "app", "Train the baselines that need training."),
    "models": LazyCommand("launch.commands.models", "app", "List the pretrained models and pull them."),
    "rewards": LazyCommand("launch.commands.rewards.app", "app", "Train, apply and measure the reward models."),
    "judge": LazyCommand("launch.commands.judge.app", "app", "Train and apply the held-out judge of empathy."),
    "submit": LazyCommand("launch.commands.submit", "command", "Run a command as a job of a Ray cluster."),
    "jobs": LazyCommand("launch.commands.jobs", "app", "List, follow and stop the jobs of a Ray cluster."),
    "watch": LazyCommand("launch.commands.watch", "command", "Watch a run in the terminal."),
    "runs": LazyCommand("launch.commands.runs", "app", "List runs, compare two of them, or send them to W&B."),
    "data": LazyCommand("launch.commands.data.app", "app", "Pull, check and convert corpora."),
}


class RootGroup(LazyGroup):
    """The whole command line."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; an interrupt becomes one line (its own message, if it has one) and status 130."""
        try:
            found = super().invoke(ctx)
            # Here, where an error is still one of the command.
            sys.stdout.flush()
            return found
        except KeyboardInterrupt as interrupt:
            _print_error(str(interrupt) or "interrupted")
            raise typer.Exit(INTERRUPTED) from interrupt


app = typer.Typer(
    name="partner-rl",
    cls=lazy_group(COMMANDS, RootGroup),
    help="Learn to rewrite peer-support responses with more empathy, by reinforcement learning on Ray RLlib.\n\n"
    "Example: `partner-rl quickstart`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Show and document configurations.")
app.add_typer(config_app, name="config")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"partner-rl {version('partner-rl')}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help=f"Show tracebacks (as {DEBUG_VARIABLE}=1 does).")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Sets up logging before any command."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    set_up_logging(logging.DEBUG if verbose else logging.INFO)


@config_app.command("show")
def config_show(
    preset: Annotated[str, typer.Argument(help="A preset's name or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE, such as algorithm.iterations=5.")] = None,
) -> None:
    """Print a configuration with every key, defaults and overrides resolved.

    Example: `partner-rl config show smoke policy.lora.rank=8`
    """
    from partner_rl.config.load import config_yaml, load_config

    typer.echo(config_yaml(load_config(preset, overrides or [])), nl=False)


@config_app.command("docs")
def config_docs(
    check: Annotated[
        Path | None, typer.Option(help="Compare with this file instead of printing; status 1 if it differs.")
    ] = None,
) -> None:
    """Print the reference of all configuration keys, which is docs/configuration.md.

    Example: `partner-rl config docs > docs/configuration.md`
    """
    from partner_rl.config.describe import configuration_markdown

    text = configuration_markdown()
    if check is None:
        typer.echo(text, nl=False)
        return
    try:
        found = check.read_text(encoding="utf-8") if check.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise PartnerError(f"--check {check}: cannot be read as text ({error}); name the reference's file") from error
    changed = sum(line[:1] in "+-" for line in list(unified_diff(found.splitlines(), text.splitlines(), n=0))[2:])
    if found != text:
        raise PartnerError(
            f"{check}: {changed} lines differ from the schema; write it anew with `partner-rl config docs > {check}`"
        )


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and ends the process with an honest exit status."""
    settle_streams()
    _settle_variables()
    with heed_signals():
        status = _run(arguments)
    sys.exit(status)


def _run(arguments: list[str] | None) -> int:
    try:
        typer.main.get_command(app).main(args=arguments, prog_name="partner-rl")
    except SystemExit as request:
        return request.code if isinstance(request.code, int) else int(request.code is not None)
    except PartnerError as error:
        _print_error(str(error))
        return 1
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        if isinstance(error, OSError) and is_full_disk(error):
            where = f" of {error.filename}" if error.filename else ""
            _print_error(f"the disk{where} is full ({error.strerror}): make room, and start or resume the command")
            return 1
        message = " ".join(str(error).split())
        _print_error(f"unexpected {type(error).__name__}: {message} (run `partner-rl --debug …` for the traceback)")
        return 1
    return 0


def _settle_variables() -> None:
    """Sets HOME where there is none, for Ray and others read nothing else, and drops what Typer could not read."""
    if not os.environ.get("TERMINAL_WIDTH", "80").isdecimal():
        del os.environ["TERMINAL_WIDTH"]
    if os.environ.get("HOME"):
        return
    os.environ.pop("HOME", None)
    known = os.path.expanduser("~")
    # A folder that is not there cannot be written.
    os.environ["HOME"] = "/nonexistent" if known == "~" else known


def _print_error(message: str) -> None:
    """One red line on standard error."""
    # Names may hold line breaks and what moves a terminal's cursor.
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
    err.print(Text.assemble(("error: ", "bold red"), (line, "red")), soft_wrap=True)


if __name__ == "__main__":
    main()
