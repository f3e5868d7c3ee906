"""Ports for servers that tests start."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

PORTS = range(20_000, 32_768)
"""Below those that the system gives to whoever asks for any one, such as Ray: nobody else gets a port of these."""


def free_port() -> int:
    """A port that is free, and stays so until it is used; processes of tests look in different places."""
    for port in PORTS[os.getpid() % (len(PORTS) // 2) :]:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
