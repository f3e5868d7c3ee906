"""`partner-rl submit`: a command as a job of a Ray cluster."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from launch.commands.submit_arguments import complete
from launch.console import err, out
from launch.jobs.variables import check_arguments, variables_to_send
from launch.jobs.working_dir import EXCLUDED, check_tree
from launch.run_folder.provenance import COMMIT_VARIABLE, named_commit
from partner_rl.types import PartnerError

STOP_WAIT_S: Final = 900
"""Seconds that a stopped job may take to finish its iteration and save."""
SETUP_TIMEOUT_S: Final = 600
"""Seconds that a node may take to unpack the working directory."""
_JOB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Job:
    """What is submitted.

    Attributes:
        arguments: The command after `partner-rl`.
        storage: Folder on the cluster for run folders and models.
        variables: Variables that are handed to the driver.
        node: Custom resource of the node that the driver runs on; None for the head.
        commit: The code's commit, as `PARTNER_RL_COMMIT` takes it; None where it is not known.
    """

    job_id: str
    arguments: tuple[str, ...]
    storage: str
    variables: dict[str, str]
    working_dir: Path
    excludes: tuple[str, ...]
    node: str | None
    gpus: float
    commit: str | None

    def entrypoint(self, package: str | None) -> str:
        """The job's command line."""
        given = [] if package is None else ["--secrets", package]
        return shlex.join(
            ["python", "-m", "launch.commands.job_entry", "--storage", self.storage, *given, "--", *self.arguments]
        )

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's runtime environment. Everybody who may list jobs can read it."""
        return {
            "working_dir": str(self.working_dir),
            "excludes": list(self.excludes),
            "env_vars": {
                # RLlib's advice about deprecated keys is not for our users.
                "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
                # Each node fetches and converts a model that is not there yet.
                "PARTNER_RL_CACHE": f"{self.storage}/models",
                "HF_HOME": f"{self.storage}/huggingface",
                # A job that is stopped finishes its iteration and saves.
                "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
                # The code goes along without its history.
                **({} if self.commit is None else {COMMIT_VARIABLE: self.commit}),
            },
            "config": {"setup_timeout_seconds": SETUP_TIMEOUT_S},
        }

    @property
    def metadata(self) -> dict[str, str]:
        """What Ray shows with the job."""
        return {"partner_rl": version("partner-rl"), "variables": ",".join(sorted(self.variables))}


def command(
    arguments: Annotated[list[str], typer.Argument(help="After `--`: a command as it would be typed on the cluster.")],
    address: Annotated[
        str | None,
        typer.Option(
            help="The cluster's dashboard; default $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, http://127.0.0.1:8265.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Show the job's output and end as it ends, or return at once.")] = True,
    env: Annotated[
        list[str] | None, typer.Option(help="Hand this environment variable over, too.", show_default=False)
    ] = None,
    storage: Annotated[
        str, typer.Option(help="Folder on storage that all nodes mount, for run folders and models.")
    ] = "/mnt/partner-rl",
    name: Annotated[str | None, typer.Option(help="The job's name; default one made up.", show_default=False)] = None,
    working_dir: Annotated[Path, typer.Option(help="Folder of code and configurations that goes along.")] = Path(),
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave files of this pattern behind, too.", show_default=False)
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(help="Run the driver on a node with this custom resource, not the head.", show_default=False),
    ] = None,
    gpus: Annotated[float, typer.Option(min=0.0, help="GPUs that the driver reserves.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent; send nothing.")] = False,
) -> None:
    """Run a command as a job of a Ray cluster.

    Example: `partner-rl submit -- train --preset cluster algorithm.iterations=100`
    """
    variables = variables_to_send(os.environ, env or [])
    check_arguments(arguments, variables)
    if name is not None and not _JOB_NAME.fullmatch(name):
        # It becomes a part of addresses and of file names.
        raise PartnerError(f"--name {name!r}: use letters, digits, '-', '_' and '.', 100 at most")
    job = Job(
        job_id=name or f"{arguments[0]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
        arguments=complete(arguments, storage, working_dir),
        storage=storage,
        variables=variables,
        working_dir=working_dir.absolute(),
        excludes=(*EXCLUDED, *(exclude or [])),
        node=node,
        gpus=gpus,
        commit=named_commit(working_dir / "launch" / "__init__.py"),
    )
    if dry_run:
        return show(job)
    submit(job, address, wait=wait)


def show(job: Job) -> None:
    """Shows what `submit` would send, and asks no cluster.

    Raises:
        PartnerError: The working directory is too large.
    """
    size = check_tree(job.working_dir, job.excludes)
    rows = {
        "job": job.job_id,
        "command": shlex.join(["partner-rl", *job.arguments]),
        "directory": f"{job.working_dir}, {size / 2**20:.1f} MiB before compression",
        "storage": job.storage,
        "variables": ", ".join(job.variables) or "none",
        "driver": f"on a node with {job.node!r}" if job.node else "on the head",
    }
    for name, value in rows.items():
        out.print(f"{name:<9}  {value}", soft_wrap=True)
    out.print("Dry run: nothing was sent.")


def submit(job: Job, address: str | None, *, wait: bool) -> None:
    """Submits a job and, if asked to, follows it to its end.

    Raises:
        PartnerError: The working directory is too large, no cluster answers, it wants another token, or it has no
            token while keys are to be handed over.
        typer.Exit: With the job's exit status, when it was waited for.
    """
    from launch.jobs.client import connect, one_line_errors
    from launch.jobs.follow import follow
    from launch.jobs.secrets import store_variables

    # Ray would warn of each folder that it leaves behind by itself; those are among ours.
    os.environ["RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"] = ""
    size = check_tree(job.working_dir, job.excludes)
    cluster = connect(address)
    if job.variables and not cluster.asks_for_a_token():
        raise PartnerError(
            f"the cluster at {cluster.address} is open to everybody who reaches it, and {', '.join(job.variables)} "
            "would be handed over: start it with RAY_AUTH_MODE=token, or unset them here"
        )
    with one_line_errors(cluster.address):
        package = store_variables(cluster.client, job.variables) if job.variables else None
        cluster.client.submit_job(
            entrypoint=job.entrypoint(package),
            submission_id=job.job_id,
            runtime_env=job.runtime_env,
            metadata=job.metadata,
            entrypoint_num_gpus=job.gpus or None,
            entrypoint_resources=None if job.node is None else {job.node: 0.001},
        )
    given = f", with {', '.join(job.variables)}" if job.variables else ""
    sent = f"submitted {size / 2**20:.1f} MiB{given}: partner-rl {shlex.join(job.arguments)}"
    err.print(sent, soft_wrap=True)
    if not wait:
        out.print(job.job_id)
        err.print(
            f"follow it with: partner-rl jobs logs {job.job_id} --follow; stop it with: partner-rl jobs stop "
            f"{job.job_id}",
            soft_wrap=True,
        )
        return
    err.print(f"job {job.job_id}; Ctrl-C detaches and leaves it running", soft_wrap=True)
    status = follow(cluster, job.job_id)
    err.print(f"job {job.job_id} ended with status {status}", soft_wrap=True)
    raise typer.Exit(status)
