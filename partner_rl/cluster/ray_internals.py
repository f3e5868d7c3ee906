"""What Ray core does not offer in public: all of its private names that this project uses, but for signals and sockets.

Each function says which public function is lacking. Those that change how Ray starts are in `local_ray`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_packing = logging.getLogger(f"{__name__}.packing")
# Ray tells at each packing which ignore files it has found, and which path it came to a stop at.
_packing.setLevel(logging.CRITICAL)


def free_resources_per_node() -> Mapping[str, Mapping[str, float]]:
    """Node → resource → how much of it is free; `ray.available_resources` knows the whole cluster's sum only."""
    from ray._private import state

    found: Mapping[str, Mapping[str, float]] = state.available_resources_per_node()
    return found


def actor_record(handle: Any) -> Mapping[str, Any]:
    """State, process and node of an actor; `ray.util.state` needs the dashboard, which a local Ray does not start."""
    from ray._private import state

    found: Mapping[str, Any] = state.actors(handle._actor_id.hex())
    return found


def put_value(key: str, value: str, namespace: str) -> None:
    """Writes into the cluster's key-value store, which has no public interface; named actors would take a process."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, value, namespace=namespace)


def remove_value(key: str, namespace: str) -> None:
    """Removes a key of the store of `put_value`."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key, namespace=namespace)


def read_values(namespace: str) -> list[bytes]:
    """The values of a namespace of the store of `put_value`, but for those that are removed meanwhile."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    found = (_internal_kv_get(key, namespace=namespace) for key in _internal_kv_list("", namespace=namespace))
    return [value for value in found if value is not None]


def upload_package(client: JobSubmissionClient, uri: str, content: bytes) -> int:
    """Stores a package for ten minutes at most; the client uploads working directories only. Returns the HTTP status.

    Args:
        client: Of the cluster.
        uri: `gcs://NAME.zip`.
        content: At most 500 MiB.
    """
    path = f"/api/packages/{uri.replace('://', '/')}"
    # Asking for a package pins it for the next minutes, after which Ray deletes it.
    client._do_request("GET", path)
    return int(client._do_request("PUT", path, data=content).status_code)


def take_package(uri: str, address: str) -> bytes | None:
    """Removes a package from the store of a cluster and returns it; None where it is gone. There is no such function.

    Args:
        uri: As in `upload_package`.
        address: HOST:PORT of the cluster.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    store = GcsClient(address=address)
    content: bytes | None = store.internal_kv_get(uri.encode(), None)
    if content is not None:
        store.internal_kv_del(uri.encode(), False, None)
    return content


def visit_packed_files(folder: Path, excludes: Sequence[str], visit: Callable[[Path], None]) -> None:
    """Visits what Ray would pack of a working directory, before a job is submitted; Ray tells only when it packs.

    Args:
        folder: The working directory.
        excludes: Patterns of what stays behind, besides those of .gitignore and .rayignore.
        visit: Called with each file, folder and link.
    """
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    keeps_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    match = _get_excludes(folder, list(excludes))
    _dir_travel(folder, [match], visit, include_gitignore=keeps_gitignore, logger=_packing)
