"""A Ray on this machine that nobody else can use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ray._private import ray_constants

_OWNER_ENTERS: Final = 0o700
_OWNER_READS: Final = 0o600


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started in the block listens on 127.0.0.1 and nowhere else.

    On Linux `ray.init` gives a node the machine's address on its network, so that other nodes could join, and listens
    on every interface; asked for 127.0.0.1, it takes that address all the same. Its own switch for systems on which
    no node can join does what is wanted here. Ray reads it when it is imported, so it is set for the processes that
    Ray starts and in the module that this process has imported.

    Other users of the machine need the token, which Ray makes when there is none yet: only its owner may read it.
    """
    name, token = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, Path.home() / ".ray" / "auth_token"
    before, enabled, had_token = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER, token.exists()
    # Ray itself would let everybody read the token that it writes there.
    token.parent.mkdir(mode=_OWNER_ENTERS, exist_ok=True)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
        if not had_token and token.exists():
            token.chmod(_OWNER_READS)
