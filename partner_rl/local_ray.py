"""A Ray on this machine that nobody else can use."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ray._private import ray_constants

_OWNER_ENTERS: Final = 0o700
_OWN_TOKEN: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_BYTES: Final = 32


def make_token() -> None:
    """Makes the token of this user's Rays where there is none: a file that only its owner may read.

    Ray itself would make one that everybody may read, and two Rays that are started at once would make two, of which
    some of their processes hold the one and some the other.
    """
    path = Path.home() / ".ray" / "auth_token"
    if path.exists() or any(map(os.environ.get, _OWN_TOKEN)) or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    path.parent.mkdir(mode=_OWNER_ENTERS, parents=True, exist_ok=True)
    # Only its owner may read what mkstemp makes.
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_BYTES))
    # The first one stays.
    with suppress(FileExistsError):
        os.link(name, path)
    os.unlink(name)


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started in the block listens on 127.0.0.1 and nowhere else.

    On Linux `ray.init` gives a node the machine's address on its network, so that other nodes could join, and listens
    on every interface; asked for 127.0.0.1, it takes that address all the same. Its own switch for systems on which
    no node can join does what is wanted here. Ray reads it when it is imported, so it is set for the processes that
    Ray starts and in the module that this process has imported.

    Other users of the machine need the token (`make_token`).
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, enabled = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    make_token()
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
