"""What a job of `partner-rl submit` runs.

`python -m launch.commands.job_entry --storage DIR [--secrets NAME] -- COMMAND…`

It checks the storage, takes the submitter's variables out of the cluster's store, and becomes `partner-rl COMMAND…`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from launch import cli
from launch.console import err
from launch.jobs.secrets import take_variables
from partner_rl.types import PartnerError

app = typer.Typer(add_completion=False)


@app.command(context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
def run(
    context: typer.Context,
    storage: Annotated[Path, typer.Option(help="Where run folders go.")],
    secrets: Annotated[str, typer.Option(help="Package of the submitter's variables.")] = "",
) -> None:
    """Prepares the process and runs the command."""
    check_storage(storage)
    if secrets:
        os.environ.update(take_variables(secrets))
    cli.main(context.args)


def check_storage(folder: Path) -> None:
    """Checks that run folders can be written.

    Raises:
        PartnerError: The folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PartnerError(
            f"the job's node cannot write to {folder} ({error.strerror}): name a folder that all nodes mount with "
            "`partner-rl submit --storage DIR`"
        ) from error


def main() -> None:
    """Runs the job; an error that is meant for the user is one line."""
    try:
        app()
    except PartnerError as error:
        err.print(f"error: {error}", style="red", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
