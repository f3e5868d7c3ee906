"""What a run on this machine opens to the network: nothing beyond the loopback interface."""

from __future__ import annotations

import ipaddress
import os
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from partner_rl.cluster.local_ray import make_token

ROOT = Path(__file__).parents[2]
SESSION = """
import json, os, sys
import psutil, ray
from launch.resources.session import place_on_this_machine, ray_session
from partner_rl.config.load import load_config

@ray.remote
class Worker:
    def pid(self):
        return os.getpid()

config, plan = place_on_this_machine(load_config("smoke", ["resources.object_store_mb=80"]))
with ray_session(config, plan):
    workers = [Worker.remote() for _ in range(2)]
    print("pids", *ray.get([worker.pid.remote() for worker in workers]), flush=True)
    print("node", ray.nodes()[0]["NodeManagerAddress"], flush=True)
    sys.stdin.readline()
"""
STAGE = """
import sys
import ray
from partner_rl.pipelines.ray_data import local_ray
from partner_rl.pipelines.resources import Resources

with local_ray(Resources(workers=1)):
    print("pids", flush=True)
    print("node", ray.nodes()[0]["NodeManagerAddress"], flush=True)
    sys.stdin.readline()
"""
SETTLE_S = 5.0
"""Ray's agents open their ports a moment after the session has begun."""
FEWEST_SOCKETS = 4
"""Those of the head's store, of the node's manager and of its agents."""
START_S = 120.0
END_S = 240.0
"""Limits for a busy machine."""


def listening(process: psutil.Process) -> dict[tuple[str, int], str]:
    """(Address, port) → program, of everything that a process and its descendants listen at."""
    found = {}
    for one in [process, *process.children(recursive=True)]:
        try:
            name = " ".join(one.cmdline()[:3])
            connections = one.net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                found[connection.laddr.ip, connection.laddr.port] = name
    return found


def session_sockets(program: str, home: Path, **variables: str) -> tuple[dict[tuple[str, int], str], list[str]]:
    """What a session listens at after a while, and the lines that it printed."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    environment = {**kept, "PYTHONPATH": str(ROOT), "HOME": str(home), "OMP_NUM_THREADS": "1", **variables}
    session = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert session.stdout is not None
        lines = [session.stdout.readline().strip() for _ in range(2)]
        assert lines[0].startswith("pids"), lines
        deadline = time.monotonic() + START_S
        while len(listening(psutil.Process(session.pid))) < FEWEST_SOCKETS and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        return listening(psutil.Process(session.pid)), lines
    finally:
        try:
            session.communicate("\n", timeout=END_S)
        finally:
            session.kill()


def outside(sockets: Mapping[tuple[str, int], str]) -> dict[tuple[str, int], str]:
    return {place: name for place, name in sockets.items() if not is_loopback(place[0])}


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    # gRPC binds IPv4 addresses by their IPv6 form, `::ffff:127.0.0.1`.
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def test_what_counts_as_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.0.0.2"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "::ffff:0.0.0.0", "192.0.2.2", "::ffff:192.0.2.2"]))


@pytest.mark.slow
@pytest.mark.parametrize("program", [SESSION, STAGE], ids=["run", "data"])
def test_a_local_ray_listens_on_this_machine_only_and_asks_for_a_token(program, tmp_path):
    # An address in the environment is that of somebody's cluster, which a local run has nothing to do with.
    sockets, lines = session_sockets(program, tmp_path, RAY_ADDRESS="192.0.2.77:6379")
    assert len(sockets) >= FEWEST_SOCKETS, sockets
    assert outside(sockets) == {}
    assert lines[1] == "node 127.0.0.1"
    token = tmp_path / ".ray" / "auth_token"
    assert token.read_text(encoding="utf-8").strip()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_there_is_one_token_however_many_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / ".ray" / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-user")
    make_token()
    assert not token.exists()
    monkeypatch.delenv("RAY_AUTH_TOKEN")

    def made(_: int) -> str:
        make_token()
        return token.read_text(encoding="ascii")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(made, range(64)))) == 1
    assert len(token.read_text(encoding="ascii")) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
