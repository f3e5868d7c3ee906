"""Handing variables to a job's driver without anybody else seeing them.

The submitter puts them into the cluster's key-value store, as one package under a random name, through the interface
that also takes the working directory. The driver takes them out before it does anything else. The job itself, and so
its metadata, runtime environment and logs, knows the package's name alone, which is worth nothing afterwards. Ray
deletes a package that is not taken out after ten minutes. All of this stands behind the cluster's token.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from partner_rl.cluster.ray_internals import take_package, upload_package
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_PROTOCOL: Final = "gcs://"
_OK: Final = 200


def store_variables(client: JobSubmissionClient, variables: Mapping[str, str]) -> str:
    """Puts variables into the cluster's store; returns the package's name.

    Raises:
        PartnerError: The cluster does not take them.
    """
    name = f"partner_rl_{secrets.token_hex(16)}.zip"
    # Ray's message about a package that cannot be stored quotes its first 15 bytes: here they are no value.
    content = json.dumps({"format": "variables of a job", "variables": dict(variables)})
    status = upload_package(client, _PROTOCOL + name, content.encode())
    if status != _OK:
        raise PartnerError(f"the cluster did not take the job's variables (HTTP {status}): see its logs")
    return name


def take_variables(name: str) -> dict[str, str]:
    """Takes what `store_variables` has put into the store of this job's cluster; a second time it is gone.

    Raises:
        PartnerError: It is not there.
    """
    content = take_package(_PROTOCOL + name, os.environ["RAY_ADDRESS"])
    if content is None:
        raise PartnerError("the job's variables were taken out before or have expired: submit the job again")
    loaded: Any = json.loads(content)
    return {str(variable): str(value) for variable, value in loaded["variables"].items()}
