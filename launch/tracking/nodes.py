"""CPU, memory, disk and GPU metrics of every node of the cluster, taken now and then in the background."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from partner_rl import metric_names

_logger = logging.getLogger(__name__)

_MIB: Final = 2**20
_GPU_QUERY: Final = "utilization.gpu,memory.used"
_GPU_TIMEOUT_S: Final = 5.0
_ANSWER_S: Final = 1.0
_STOP_S: Final = 2.0


def node_metrics() -> dict[str, float]:
    """Metrics of this machine: shares in percent, sizes in MiB, network totals since it started in MiB."""
    memory, network = psutil.virtual_memory(), psutil.net_io_counters()
    metrics = {
        "cpu_percent": psutil.cpu_percent(interval=None),
        "memory_percent": memory.percent,
        "memory_used_mib": memory.used / _MIB,
        "disk_percent": psutil.disk_usage("/").percent,
        "load_1min": psutil.getloadavg()[0],
    }
    if network is not None:
        metrics |= {"net_sent_mib": network.bytes_sent / _MIB, "net_received_mib": network.bytes_recv / _MIB}
    return metrics | _gpu_metrics()


def _gpu_metrics() -> dict[str, float]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_gpus(result.stdout) if result.returncode == 0 else {}


def parse_gpus(text: str) -> dict[str, float]:
    """Metrics of the GPUs from what `nvidia-smi` prints: a line each, load in percent and used memory in MiB.

    A metric that a GPU lacks is left out.
    """
    metrics = {}
    for index, line in enumerate(text.strip().splitlines()):
        for name, value in zip(("gpu_percent", "gpu_memory_used_mib"), line.split(","), strict=True):
            try:
                metrics[f"{name}_{index}"] = float(value)
            except ValueError:
                continue
    return metrics


class NodeProbe:
    """An actor that costs nothing but memory, for the metrics of the node it is on."""

    def metrics(self) -> dict[str, float]:
        """Metrics of its node."""
        return node_metrics()


@dataclass(slots=True)
class _Probe:
    actor: Any
    name: str


class NodeWatch:
    """A thread that takes the metrics of all nodes every `interval_s` seconds; whoever asks gets the last ones at once.

    The driver's own node is read directly; every other one has a small actor, started when the node joins.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._latest: dict[str, float] = {}
        self._probes: dict[str, _Probe] = {}
        self._stopping = threading.Event()
        # The first call of psutil only begins its measurement.
        psutil.cpu_percent(interval=None)
        self._thread = threading.Thread(target=self._watch, name="node-watch", daemon=True)
        self._thread.start()

    def latest(self) -> dict[str, float]:
        """The last round's metrics, `system/NODE/METRIC`; empty before the first one has ended."""
        # Replaced whole by the thread.
        return dict(self._latest)

    def stop(self) -> None:
        """Ends the thread and the actors."""
        self._stopping.set()
        self._thread.join(_STOP_S)
        if ray.is_initialized():
            for probe in list(self._probes.values()):
                ray.kill(probe.actor)
        self._probes.clear()

    def _watch(self) -> None:
        while True:
            try:
                metrics = self._round()
            except (RayError, RuntimeError, ConnectionError, OSError, ValueError) as error:
                # Ray may be shut down at any moment; metrics of machines are no reason to disturb a run.
                _logger.debug("metrics of the nodes: %s: %s", type(error).__name__, error)
            else:
                self._latest = metrics
            if self._stopping.wait(self._interval_s):
                return

    def _round(self) -> dict[str, float]:
        own_name = socket.gethostname()
        if ray.is_initialized():
            living = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
            own = ray.get_runtime_context().get_node_id()
            names = node_names({key: node["NodeManagerHostname"] for key, node in living.items()})
            own_name = names.get(own, own_name)
            self._follow([key for key in living if key != own], names)
        found = {own_name: node_metrics(), **self._ask()}
        return {metric_names.system(name, key): value for name, own in found.items() for key, value in own.items()}

    def _follow(self, nodes: Sequence[str], names: Mapping[str, str]) -> None:
        """Starts probes on nodes that joined and forgets those of nodes that left."""
        for gone in self._probes.keys() - set(nodes):
            del self._probes[gone]
        for node in nodes:
            if node not in self._probes and not self._stopping.is_set():
                place = NodeAffinitySchedulingStrategy(node, soft=False)
                actor_class = ray.remote(NodeProbe).options(num_cpus=0, max_restarts=0, scheduling_strategy=place)
                self._probes[node] = _Probe(actor_class.remote(), names[node])

    def _ask(self) -> dict[str, dict[str, float]]:
        """The metrics of the nodes that answer in time."""
        calls = {probe.actor.metrics.remote(): (node, probe) for node, probe in self._probes.items()}
        if not calls:
            return {}
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_ANSWER_S)
        found: dict[str, dict[str, float]] = {}
        for call in done:
            node, probe = calls[call]
            try:
                found[probe.name] = ray.get(call)
            except RayError:
                # The node or the actor is gone; if the node is still there, the next round starts another.
                self._probes.pop(node, None)
        return found


def node_names(hosts: Mapping[str, str]) -> dict[str, str]:
    """Node id → name: its host's, with the start of the node's id behind it where a host has several nodes."""
    taken = list(hosts.values())
    return {node: host if taken.count(host) == 1 else f"{host}-{node[:6]}" for node, host in hosts.items()}
