"""Real Ray clusters of several nodes on this machine: one raylet a node, token authentication, a dashboard for jobs."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.command_line import COMMAND, ROOT

BIN = Path(sys.executable).parent
START_S = 400
START_ATTEMPTS = 3
# A node that dies is noticed within seconds; of processes that start together the last one may take long.
FAST_HEALTH = {
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "300",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "350",
    "RAY_agent_register_timeout_ms": "300000",
}
WITH_PORTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
OBJECT_STORE = 80 * 2**20


# Below the ports that Ray's workers take for themselves.
CLUSTER_PORTS = range(6500, 9900, 100)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def cluster_ports() -> Iterator[range]:
    """A hundred ports for one cluster, which other processes of these tests do not take as long as the block lasts."""
    for first in CLUSTER_PORTS:
        ports = range(first, first + CLUSTER_PORTS.step)
        with Path(tempfile.gettempdir(), f"partner-rl-tests-{os.getuid()}-{first}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if not any(map(_listens, ports)):
                yield ports
                return
    raise AssertionError("no ports are free")


@dataclass
class LocalCluster:
    """Several raylets on loopback."""

    folder: Path
    port: int
    dashboard_port: int
    token_file: Path
    raylets: dict[str, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def address(self) -> str:
        """The dashboard."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """That of a client with the token, and of the nodes."""
        mine = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "WANDB_", "HF_"))}
        return {
            **mine,
            **FAST_HEALTH,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }

    def start_head(self) -> None:
        """The node of drivers: no CPUs for actors."""
        self._start(
            "head",
            *("--head", f"--port={self.port}", "--num-cpus=0", "--no-monitor"),
            *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}"),
            *(f"--ray-client-server-port={self.port + 2}", "--disable-usage-stats"),
        )

    def start_nodes(self, kinds: Sequence[str], cpus: float = 2.0) -> None:
        """One node of each kind, which offers CPUs and a custom resource of that name."""
        options = [f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus:g}"]
        for kind in kinds:
            self._start(kind, *options, "--resources", json.dumps({kind: 1}))

    def _start(self, name: str, *options: str) -> None:
        for attempt in range(1, START_ATTEMPTS + 1):
            problem = self._try_to_start(name, *options)
            if problem is None:
                return
            # Ray gives a node half a minute, which is little on a machine that has other work.
            assert attempt < START_ATTEMPTS, problem
            print(problem)

    def _try_to_start(self, name: str, *options: str) -> str | None:
        """Starts a node; what Ray says if it does not come up."""
        number = next(self._numbers)
        # Nodes share no folder, as on several machines.
        folder = self.folder / str(number)
        started = subprocess.run(
            [
                *(BIN / "ray", "start", *options, "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"),
                *(f"--object-store-memory={OBJECT_STORE}", "--min-worker-port=0", "--max-worker-port=0"),
                "--include-log-monitor=false",
                # Of ports that they choose themselves, these processes must tell Ray within half a minute.
                *(f"--{process}-port={self.port + 10 + 4 * number + i}" for i, process in enumerate(WITH_PORTS)),
            ],
            env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=START_S,
        )  # fmt: skip
        mine = self._processes(folder)
        if started.returncode != 0:
            for process in mine:
                _kill(process)
            return started.stdout[-3000:] + started.stderr[-3000:]
        raylets = {process.pid: process.info["ppid"] for process in mine if process.info["name"] == "raylet"}
        # A process that a raylet is just starting looks like the raylet until it has its own program.
        (self.raylets[name],) = [pid for pid, parent in raylets.items() if parent not in raylets]
        return None

    def kill_node(self, name: str) -> None:
        """The node goes away as when its machine loses power."""
        raylet = psutil.Process(self.raylets.pop(name))
        for process in [raylet, *raylet.children(recursive=True)]:
            _kill(process)

    def stop(self) -> None:
        """Ends every process of the cluster."""
        children = [child for pid in self.raylets.values() for child in _tree(pid)]
        for process in [*children, *self._processes(self.folder)]:
            _kill(process)

    def _processes(self, folder: Path) -> list[psutil.Process]:
        """Those that name a folder of the cluster on their command line."""
        every = psutil.process_iter(["name", "cmdline", "ppid"])
        mine = [p for p in every if any(f"{folder}/" in part for part in p.info["cmdline"] or ())]
        return [process for process in mine if process.pid != os.getpid()]

    def listed(self, what: str) -> list[dict[str, Any]]:
        """What Ray's state interface knows of `actors` or `nodes`."""
        command = [
            BIN / "ray",
            "list",
            what,
            "--limit=1000",
            "--format=json",
            "--timeout=240",
            f"--address={self.address}",
        ]
        listed = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        found: list[dict[str, Any]] = json.loads(listed.stdout)
        return found

    def partner(self, *arguments: object, environment: dict[str, str] | None = None, **options):
        """The command line, as a client of this cluster."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=ROOT, env=environment or self.environment, capture_output=True, text=True, **options,
        )  # fmt: skip


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


@contextmanager
def local_cluster(folder: Path) -> Iterator[LocalCluster]:
    """A cluster with its head; the caller starts the other nodes."""
    token_file = folder / "auth_token"
    token_file.write_text(secrets.token_hex(32))
    token_file.chmod(0o600)
    with cluster_ports() as ports:
        cluster = LocalCluster(folder, ports[0], ports[1], token_file)
        try:
            cluster.start_head()
            yield cluster
        finally:
            cluster.stop()
