"""`partner-rl jobs`: the jobs of a Ray cluster."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from launch.console import err, out

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="List, follow and stop the jobs of a Ray cluster."
)

Address = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard; default $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, http://127.0.0.1:8265.",
        show_default=False,
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The name that `partner-rl submit` printed.")]

_SEPARATOR: Final = " -- "


@app.command("list")
def list_jobs(address: Address = None) -> None:
    """List the jobs, the newest first.

    Example: `partner-rl jobs list`
    """
    from launch.jobs.client import connect, one_line_errors

    cluster = connect(address)
    with one_line_errors(cluster.address):
        jobs = [job for job in cluster.client.list_jobs() if job.submission_id is not None]
    if not jobs:
        err.print("there are no jobs", soft_wrap=True)
        return
    table = Table()
    table.add_column("job", no_wrap=True, min_width=max(len(str(job.submission_id)) for job in jobs))
    for column in ("state", "started", "took", "command"):
        table.add_column(column)
    for job in sorted(jobs, key=lambda job: job.start_time or 0, reverse=True):
        cells = (str(job.submission_id), state_of(job), started(job), took(job), command_of(job))
        table.add_row(*cells)
    out.print(table)


@app.command("status")
def status(job: JobId, address: Address = None) -> None:
    """Show how a job stands; the exit status is 0 while it runs and after success, else that of the job.

    Example: `partner-rl jobs status train-20261123-120000-9f3a`
    """
    from launch.jobs.client import connect
    from launch.jobs.follow import exit_status, first_line

    found = connect(address).job(job)
    rows = {
        "job": job,
        "state": state_of(found),
        "started": started(found),
        "took": took(found),
        "command": command_of(found),
        "variables": (found.metadata or {}).get("variables") or "none",
    }
    if found.status.value == "FAILED":
        rows["reason"] = first_line(found.message)
    width = max(map(len, rows))
    for name, value in rows.items():
        out.print(f"{name:<{width}}  {value}", soft_wrap=True)
    if found.status.is_terminal():
        raise typer.Exit(exit_status(found.status.value, found.driver_exit_code))


@app.command("logs")
def logs(
    job: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends; end as it does.")] = False,
) -> None:
    """Show what a job has written.

    Example: `partner-rl jobs logs train-20261123-120000-9f3a --follow`
    """
    from launch.jobs.client import connect, one_line_errors
    from launch.jobs.follow import follow as follow_job

    cluster = connect(address)
    cluster.job(job)
    if follow:
        raise typer.Exit(follow_job(cluster, job))
    with one_line_errors(cluster.address, job):
        typer.echo(cluster.client.get_job_logs(job), nl=False)


@app.command("stop")
def stop(job: JobId, address: Address = None) -> None:
    """Stop a job: a training finishes its iteration and saves.

    Example: `partner-rl jobs stop train-20261123-120000-9f3a`
    """
    from launch.jobs.client import connect, one_line_errors

    cluster = connect(address)
    cluster.job(job)
    with one_line_errors(cluster.address, job):
        stopping = cluster.client.stop_job(job)
    said = f"job {job} is asked to stop; see how it ends with: partner-rl jobs logs {job} --follow"
    err.print(said if stopping else f"job {job} has ended already", soft_wrap=True)


def state_of(job: JobDetails) -> str:
    """Ray's word for a job's state, in lower case, with the exit status of one that failed."""
    state = job.status.value.lower()
    return f"{state} (status {job.driver_exit_code})" if state == "failed" and job.driver_exit_code else state


def started(job: JobDetails) -> str:
    """When a job started, on this machine's clock."""
    return "" if job.start_time is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.start_time / 1000))


def took(job: JobDetails) -> str:
    """Minutes and seconds since a job started, up to its end."""
    if job.start_time is None:
        return ""
    minutes, seconds = divmod(round((job.end_time or time.time() * 1000) / 1000 - job.start_time / 1000), 60)
    return f"{minutes} min {seconds:02d} s"


def command_of(job: JobDetails) -> str:
    """The command that a job runs, as it would be typed."""
    entry, separator, arguments = job.entrypoint.partition(_SEPARATOR)
    return shlex.join(["partner-rl", *shlex.split(arguments)]) if separator else entry
