"""The Ray cluster that a run would use: can it be joined, has it room for every actor, is it open to strangers?"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launch.preflight.check_result import CheckResult
from launch.resources.plan import Plan
from partner_rl.cluster.placement import Node
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from launch.preflight.facts import Facts


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The Ray cluster that a run would use.

    Attributes:
        address: `resources.address`; None for a Ray that the run starts.
        nodes: Its nodes; this machine for a Ray that is yet to be started.
        has_token: Whether this process shows a token to Ray, and a Ray that the run starts asks for one.
        problem: Why it cannot be joined; empty otherwise.
        open_token: The file of the token if others than its owner may read it.
    """

    address: str | None
    nodes: tuple[Node, ...] = ()
    has_token: bool = False
    problem: str = ""
    open_token: str | None = None


def cluster_state(config: RunConfig, plan: Plan | None) -> ClusterState:
    """The cluster, joined for a moment; without an address the Ray that a run would start."""
    address = config.resources.address
    if address is None:
        # Ray turns it on for one that it starts, unless it is told otherwise.
        asks = _auth_mode() in ("", "token")
        return ClusterState(None, () if plan is None else (plan.local_node,), asks, open_token=_open_token())
    from partner_rl.cluster.local_ray import connected
    from partner_rl.cluster.nodes import cluster_nodes

    try:
        with connected(address):
            # Joining may have turned it on.
            return ClusterState(address, cluster_nodes(), _auth_mode() == "token", open_token=_open_token())
    except PartnerError as error:
        return ClusterState(address, (), _auth_mode() == "token", str(error), _open_token())


def _auth_mode() -> str:
    """How Ray authenticates in this process; empty where it decides by itself."""
    return os.environ.get("RAY_AUTH_MODE", "").lower()


def _open_token() -> str | None:
    """The file of Ray's token, if others than its owner may read it."""
    if _auth_mode() == "disabled" or os.environ.get("RAY_AUTH_TOKEN"):
        return None
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        readable = path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
        # Nobody else enters a folder that is its owner's alone.
        enters = path.parent.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    except OSError:
        return None
    return str(path) if readable and enters else None


def check_cluster(facts: Facts) -> Iterator[CheckResult]:
    """Whether the cluster can be joined, and every actor finds a node."""
    cluster = facts.cluster
    if cluster.problem:
        hint = "start it, correct resources.address, or set resources.address=null for a Ray on this machine"
        yield CheckResult("cluster", "problem", cluster.problem, hint)
        return
    if cluster.address is not None:
        count = len(cluster.nodes)
        yield CheckResult("cluster", "ok", f"{count} node{'s' if count > 1 else ''} at {cluster.address}")
    if facts.plan is None:
        yield CheckResult("plan", "problem", facts.plan_problem)
        return
    # Here, because Ray takes a second to import.
    from launch.resources.capacity import what_is_missing

    placement = facts.placement
    wait = facts.config.resources.wait_for_nodes_s
    if placement.fits:
        actors = len(placement.placed)
        where = "on this machine" if cluster.address is None else "on the cluster"
        yield CheckResult("plan", "ok", f"{actors} actors find room {where}")
    elif wait and cluster.address is not None:
        message = what_is_missing(facts.plan, placement)
        yield CheckResult("plan", "warning", message, f"train would wait {wait:g} s for nodes, and then fail")
    else:
        yield CheckResult("plan", "problem", what_is_missing(facts.plan, placement))


def check_token(facts: Facts) -> Iterator[CheckResult]:
    """Whether strangers could use the cluster."""
    cluster = facts.cluster
    if cluster.open_token is not None:
        hint = f"chmod 600 {cluster.open_token}"
        yield CheckResult(
            "authentication", "warning", f"others than its owner may read the token {cluster.open_token}", hint
        )
    if cluster.address is None and cluster.has_token:
        yield CheckResult("authentication", "ok", "the run's own Ray listens on 127.0.0.1 only, and asks for a token")
    elif cluster.address is None:
        hint = "unset RAY_AUTH_MODE, unless nobody else uses this machine"
        yield CheckResult(
            "authentication", "warning", "other users of this machine can run code in the run's own Ray", hint
        )
    elif cluster.has_token:
        yield CheckResult("authentication", "ok", "token authentication is on")
    elif not cluster.problem:
        hint = "start all nodes with RAY_AUTH_MODE=token and the token of `ray get-auth-token --generate`"
        yield CheckResult(
            "authentication", "warning", "without a token anybody who reaches the cluster runs code on it", hint
        )
