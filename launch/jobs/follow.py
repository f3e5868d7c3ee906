"""Following a job: its output as it comes, and how it ended."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Final

import aiohttp

from launch.console import err, waiting_for
from launch.interrupt import INTERRUPTED
from launch.jobs.client import JobCluster
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

PATIENCE_S: Final = 120.0
"""Seconds for which a cluster may not answer before following it is given up; the job goes on."""
_PAUSE_S: Final = 1.0
_PENDING: Final = "PENDING"


def follow(cluster: JobCluster, job_id: str) -> int:
    """Writes a job's output to standard output until the job has ended; returns its exit status.

    Says once a minute what a job waits for that has not started yet. Ctrl-C leaves the job alone.

    Raises:
        PartnerError: There is no such job, or the cluster has not answered for a while.
        KeyboardInterrupt: After Ctrl-C, with what to do next.
    """
    shown = 0
    silent_since: float | None = None
    has_started = False
    try:
        while True:
            try:
                if not has_started:
                    _await_start(cluster, job_id)
                    has_started = True
                shown = asyncio.run(_tail(cluster, job_id, shown))
                job = cluster.job(job_id)
            except (aiohttp.ClientError, RuntimeError, PartnerError) as error:
                # A connection through a tunnel breaks now and then.
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE_S or _is_final(error):
                    raise _as_partner_error(error, cluster, job_id) from error
            else:
                silent_since = None
                if job.status.is_terminal():
                    return _report_end(job)
            time.sleep(_PAUSE_S)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"detached; the job goes on. Follow it with: partner-rl jobs logs {job_id} --follow; "
            f"stop it with: partner-rl jobs stop {job_id}"
        ) from interrupt


def exit_status(status: str, driver_exit_code: int | None) -> int:
    """The exit status that stands for a job's end."""
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return INTERRUPTED
    return driver_exit_code or 1


def _await_start(cluster: JobCluster, job_id: str) -> None:
    """Waits until a job is no longer pending: until then Ray would keep silent about it."""
    job = cluster.job(job_id)
    with waiting_for(f"job {job_id} to start", lambda: first_line(job.message)):
        while job.status.value == _PENDING:
            time.sleep(_PAUSE_S)
            job = cluster.job(job_id)


async def _tail(cluster: JobCluster, job_id: str, shown: int) -> int:
    """Writes a job's output from a character on, until it ends or the connection breaks; returns characters written."""
    seen = 0
    async for chunk in cluster.client.tail_job_logs(job_id):
        # Ray sends the output from its beginning.
        new = chunk[max(0, shown - seen) :]
        seen += len(chunk)
        if new:
            sys.stdout.write(new)
            sys.stdout.flush()
    return max(seen, shown)


def _is_final(error: Exception) -> bool:
    return isinstance(error, PartnerError) and "there is no job" in str(error)


def _as_partner_error(error: Exception, cluster: JobCluster, job_id: str) -> PartnerError:
    if isinstance(error, PartnerError):
        return error
    return PartnerError(
        f"lost the connection to the cluster at {cluster.address}; the job may go on: "
        f"`partner-rl jobs status {job_id}` tells"
    )


def _report_end(job: JobDetails) -> int:
    status = exit_status(job.status.value, job.driver_exit_code)
    if job.driver_exit_code is None and job.status.value == "FAILED":
        err.print(f"the job did not start: {first_line(job.message)}", soft_wrap=True)
    return status


def first_line(message: str | None) -> str:
    """The first line of Ray's message about a job, which may go on with a traceback."""
    return ((message or "").strip().splitlines() or ["Ray gives no reason"])[0][:500]
