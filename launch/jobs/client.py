"""The job interface of a Ray cluster, with errors that say in one line what to do."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import requests

from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

ADDRESS_VARIABLE: Final = "RAY_API_SERVER_ADDRESS"
"""Ray's variable for the address; an address on the command line replaces it, for Ray would prefer the variable."""
DEFAULT_ADDRESS: Final = "http://127.0.0.1:8265"
"""The dashboard's address on the head itself, and through `ray dashboard cluster.yaml` or a port that is forwarded."""

_UNAUTHORISED: Final = 401
_ANSWER_S: Final = 10.0
_SHOWN: Final = 300
_HOW_TO_AUTHENTICATE: Final = "export RAY_AUTH_MODE=token, with the token in ~/.ray/auth_token or $RAY_AUTH_TOKEN_PATH"


@dataclass(frozen=True)
class JobCluster:
    """A cluster that answers."""

    address: str
    client: JobSubmissionClient

    def asks_for_a_token(self) -> bool:
        """Whether it turns away those who have no token."""
        with one_line_errors(self.address):
            answer = requests.get(f"{self.client.get_address()}/api/jobs/", timeout=_ANSWER_S)
        return answer.status_code == _UNAUTHORISED

    def job(self, job_id: str) -> JobDetails:
        """A job's state.

        Raises:
            PartnerError: There is no such job, or the cluster does not answer.
        """
        with one_line_errors(self.address, job_id):
            return self.client.get_job_info(job_id)


def connect(address: str | None) -> JobCluster:
    """The cluster at an address.

    Args:
        address: `http://HOST:PORT` of the dashboard, or HOST:PORT of the cluster, or `auto`; None for
            `$RAY_API_SERVER_ADDRESS`, `$RAY_ADDRESS`, or the dashboard's port on this machine.

    Raises:
        PartnerError: No cluster answers there, or it wants another token.
    """
    from ray.job_submission import JobSubmissionClient

    where = address or os.environ.get(ADDRESS_VARIABLE) or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    with one_line_errors(where):
        os.environ[ADDRESS_VARIABLE] = where = _answering(where)
    for name in ("ray", JobSubmissionClient.__module__, "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with one_line_errors(where):
        return JobCluster(where, JobSubmissionClient(where))


def _answering(address: str) -> str:
    """The address, with `http://` before it where that was left out; asks there first, since Ray would try for minutes.

    Raises:
        PartnerError: It is no address.
        OSError: Nobody answers there; `requests` raises one, too.
    """
    if address == "auto" or address.startswith("ray://"):
        return address
    if "://" in address:
        requests.get(f"{address.rstrip('/')}/api/version", timeout=_ANSWER_S)
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise PartnerError(f"{address!r} is no address: give http://HOST:PORT of the cluster's dashboard")
    socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    try:
        requests.get(f"http://{address}/api/version", timeout=_ANSWER_S)
    except requests.exceptions.RequestException:
        # It is not the dashboard's port, but that of the cluster, which knows where the dashboard is.
        return address
    return f"http://{address}"


def _reason(error: RuntimeError) -> str:
    """What the cluster said: of a traceback, the last line."""
    # Ray's client puts a full stop behind what it was told, on a line of its own.
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")] or [""]
    return (lines[-1] if "Traceback" in lines[0] else lines[0])[:_SHOWN]


@contextmanager
def one_line_errors(address: str, job_id: str | None = None) -> Iterator[None]:
    """Turns what Ray's client raises in the block into errors for the user.

    Raises:
        PartnerError: Says what is wrong and what to do.
    """
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        reason = "wants another token" if "invalid" in str(error).lower() else "wants a token"
        raise PartnerError(f"the cluster at {address} {reason}: {_HOW_TO_AUTHENTICATE}") from error
    except OSError as error:
        # Those of `requests` are among them.
        raise PartnerError(
            f"no Ray cluster answers at {address}: start it, forward its dashboard with `ray dashboard cluster.yaml`, "
            "or name its dashboard with --address http://HOST:PORT"
        ) from error
    except RuntimeError as error:
        reason = _reason(error)
        if job_id is not None and ("404" in reason or "does not exist" in reason):
            raise PartnerError(
                f"there is no job {job_id} on the cluster at {address}: `partner-rl jobs list` shows its jobs"
            ) from error
        raise PartnerError(f"the cluster at {address} refused: {reason}") from error
