"""What faults cost: each is brought about for real in a training of tiny models, and what follows is timed.

How to run:
    python -m benchmarks.faults --json faults.json --markdown faults.md
    python -m benchmarks.faults --only 'reward actor; learner'

A local Ray, the real `partner-rl train`, and `random:` models whose iterations take a fraction of a second, so that the
seconds are those of noticing the fault and replacing what was lost. Larger models add the time to load them.

Results to expect: seconds to a minute; no finished iteration is done again, but for a learner whose state is not kept
in the driver's memory, and for a driver that is killed.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import psutil
import typer

from benchmarks.command import ROOT, aligned_table, run_command, where
from benchmarks.fault_runs import Lab, Training, kill, wait_for
from launch.console import out, progress, set_up_logging
from partner_rl.cluster.local_ray import on_loopback
from partner_rl.storage.atomic import write_json, write_text
from partner_rl.types import PartnerError

NAME: Final = "python -m benchmarks.faults"
COLUMNS: Final = ("fault", "iterations done again", "seconds until training goes on", "what the user sees")

SCORER: Final = "ScorerActor"
RUNNER: Final = "RewriteEnvRunner"
LEARNER: Final = "_WrappedExecutable"
RUNNERS: Final = ("algorithm.num_env_runners=2",)
LEARNERS: Final = ("algorithm.num_learners=1",)
PATIENT: Final = ("faults.stall_s=5", "faults.replace_stalled_s=10")
_WARM_ITERATIONS: Final = 3
_ROOM_AFTER_S: Final = 5.0

FILLER: Final = """
import select, sys
import numpy as np
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
held = []

def fill_up():
    for size in (2**20, 2**15, 2**10):
        try:
            while len(held) < int(sys.argv[2]):
                held.append(ray.put(np.ones(size, np.uint8)))
        except (ObjectStoreFullError, OutOfDiskError):
            continue

fill_up()
print("full", flush=True)
while not select.select([sys.stdin], [], [], 0.02)[0]:
    # Weights of an earlier iteration are freed some time later and leave a hole as large as the next ones.
    fill_up()
"""
"""Fills the store of a run's Ray, and what becomes free in it, until it is told to end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault did.

    Attributes:
        fault: What was done, in words.
        seconds: From the fault (or from when its cause was gone, where `since` says so) to the next finished iteration;
            None when the run ends with a message.
        since: What the seconds count from.
        lost: Finished iterations that were done again; the one in flight is not among them.
        messages: Warnings and errors, in their order.
    """

    fault: str
    seconds: float | None
    since: str
    lost: int
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault.

    Attributes:
        name: What `--only` calls it.
        fault: What is done, in words.
        happen: Does it, in a lab.
    """

    name: str
    fault: str
    happen: Callable[[Lab, Scenario], Outcome]


def lost_process(
    kind: str, settings: Sequence[str] = (), hurt: Callable[[Any], None] = kill
) -> Callable[[Lab, Scenario], Outcome]:
    """A fault of one process of the run, from which it recovers by itself.

    Args:
        kind: Class of the actor.
        settings: Of the run.
        hurt: What is done to the process.
    """

    def happen(lab: Lab, scenario: Scenario) -> Outcome:
        with lab.training(lab.run_folder(_slug(scenario), settings)) as run:
            run.await_iterations(_WARM_ITERATIONS)
            victims = run.workers(kind)
            if not victims:
                raise PartnerError(f"the run has no process of {kind}")
            # At the beginning of an iteration, so that all of it is still to be done.
            run.await_iterations(run.iterations() + 1)
            since = run.mark()
            hurt(victims[0])
            return _outcome(scenario, run, run.await_next(since))

    return happen


def _outcome(scenario: Scenario, run: Training, seconds: float | None, since: str = "the fault") -> Outcome:
    return Outcome(scenario.fault, seconds, since, run.lost(), tuple(run.messages()))


def _slug(scenario: Scenario) -> str:
    return "".join(c if c.isalnum() else "-" for c in scenario.name)


def stop(process: Any) -> None:
    """SIGSTOP: the process is there and does nothing."""
    process.send_signal(signal.SIGSTOP)


def lost_driver(lab: Lab, scenario: Scenario) -> Outcome:
    """SIGKILL for the driver, and `--resume` at once."""
    folder = lab.run_folder(_slug(scenario), ())
    with lab.training(folder) as run:
        run.await_iterations(6)
        since = run.mark()
        run.process.kill()
        run.process.wait()
        with lab.training(folder) as resumed:
            return _outcome(scenario, resumed, resumed.await_next(since))


def lost_node(lab: Lab, scenario: Scenario) -> Outcome:
    """A node with all actors of the run is killed; another one of its kind is there already."""
    from ray._private.ray_constants import PROCESS_TYPE_RAYLET
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 4, "resources": {"worker": 1}, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    try:
        first = cluster.add_node(**node)
        placed = [f"resources.placement.{actors}=worker" for actors in ("env_runners", "learners", "rewards")]
        settings = [*RUNNERS, *LEARNERS, f"resources.address={cluster.address}", *placed]
        with lab.training(lab.run_folder(_slug(scenario), settings)) as run:
            run.await_iterations(_WARM_ITERATIONS)
            cluster.add_node(**node)
            since = run.mark()
            (raylet,) = first.all_processes[PROCESS_TYPE_RAYLET]
            # Workers that outlive their raylet finish what they are at; those of a node without power do not.
            for process in [*_below(raylet.process.pid), psutil.Process(raylet.process.pid)]:
                kill(process)
            wait_for(lambda: run.says("lost"), "the message")
            return _outcome(scenario, run, run.await_next(since))
    finally:
        cluster.shutdown()


def _below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def full_store(spills: bool) -> Callable[[Lab, Scenario], Outcome]:
    """Another driver fills the object store.

    Args:
        spills: Whether the node's disk has room to spill to.
    """

    def happen(lab: Lab, scenario: Scenario) -> Outcome:
        # The threshold alone would go on spilling in the background, which makes room; a full disk does not.
        no_room = {"RAY_local_fs_capacity_threshold": "0", "RAY_automatic_object_spilling_enabled": "0"}
        environment = {} if spills else no_room
        with lab.training(lab.run_folder(_slug(scenario), RUNNERS), environment) as run:
            run.await_iterations(_WARM_ITERATIONS)
            command = [sys.executable, "-c", FILLER, _ray_address(run), "300" if spills else "10000"]
            with on_loopback():
                # The run's Ray asks for the token.
                joining = {**os.environ, "RAY_AUTH_MODE": "token"}
                filler = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=joining
                )
            assert filler.stdout is not None
            since = run.mark()
            filler.stdout.readline()
            if spills:
                seconds = run.await_next(since)
            else:
                wait_for(lambda: run.says("object store is full"), "the message")
                time.sleep(_ROOM_AFTER_S)
            filler.communicate("\n")
            if not spills:
                seconds = run.await_next(time.monotonic())
            return _outcome(scenario, run, seconds, "the fault" if spills else "room is made")

    return happen


def _ray_address(run: Training) -> str:
    for child in _below(run.process.pid):
        for word in child.cmdline():
            if word.startswith("--gcs-address="):
                return word.partition("=")[2]
    raise PartnerError("the run's Ray is not found among its processes")


def full_disk(lab: Lab, scenario: Scenario) -> Outcome:
    """The run folder's file system is filled to the last byte, and room is made after some seconds."""
    with lab.training(lab.run_folder(_slug(scenario), ()), small_disk="200m") as run:
        run.await_iterations(_WARM_ITERATIONS)
        run.mark()
        ballast = run.folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (2**20, 4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue
        wait_for(lambda: run.says("is full"), "the message")
        time.sleep(_ROOM_AFTER_S)
        ballast.unlink()
        return _outcome(scenario, run, run.await_next(time.monotonic()), "room is made")


def slow_scorer(lab: Lab, scenario: Scenario) -> Outcome:
    """No micro-batch is scored within the time limit, however often it is sent."""
    return _ends(lab, scenario, ("rewards.timeout_s=0.001", "rewards.max_retries=3"))


def nan_scorer(lab: Lab, scenario: Scenario) -> Outcome:
    """The weights of a classifier are not numbers."""
    import torch
    from safetensors.torch import load_file, save_file

    def break_weights(folder: Path) -> None:
        weights = folder / "rewards" / "coherence" / "model.safetensors"
        tensors = load_file(weights)
        save_file({name: torch.full_like(tensor, float("nan")) for name, tensor in tensors.items()}, weights)

    return _ends(lab, scenario, (), break_weights)


def _ends(
    lab: Lab, scenario: Scenario, settings: Sequence[str], prepare: Callable[[Path], None] = lambda folder: None
) -> Outcome:
    folder = lab.run_folder(_slug(scenario), settings)
    prepare(folder)
    with lab.training(folder) as run:
        wait_for(lambda: run.process.poll() is not None, "the end of the run")
        return _outcome(scenario, run, None)


def no_wandb(lab: Lab, scenario: Scenario) -> Outcome:
    """Nobody listens where the W&B server should be; the run goes to its end."""
    settings = ("tracking.wandb=online", "tracking.upload_wait_s=1", "algorithm.iterations=8")
    server = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "local" + 40 * "0"}
    with lab.training(lab.run_folder(_slug(scenario), settings), server) as run:
        run.await_iterations(_WARM_ITERATIONS)
        seconds = run.await_next(time.monotonic())
        wait_for(lambda: run.process.poll() is not None, "the end of the run")
        return _outcome(scenario, run, seconds)


def two_drivers(lab: Lab, scenario: Scenario) -> Outcome:
    """A second training in the folder of one that is at work."""
    folder = lab.run_folder(_slug(scenario), ())
    with lab.training(folder) as run:
        run.await_iterations(_WARM_ITERATIONS)
        with lab.training(folder) as second:
            wait_for(lambda: second.process.poll() is not None, "the end of the second run")
            refused = _outcome(scenario, second, None)
        run.await_next(time.monotonic())
    return refused


SCENARIOS: Final = (
    Scenario("reward actor", "a reward actor, SIGKILL", lost_process(SCORER)),
    Scenario("env runner", "one of two env runners, SIGKILL", lost_process(RUNNER, RUNNERS)),
    Scenario("last env runner", "the only env runner, SIGKILL", lost_process(RUNNER, ("algorithm.num_env_runners=1",))),
    Scenario("learner", "a learner, SIGKILL", lost_process(LEARNER, LEARNERS)),
    Scenario(
        "learner, checkpoint",
        "a learner, SIGKILL, its state not kept in the driver",
        lost_process(LEARNER, (*LEARNERS, "faults.snapshot_mb=0")),
    ),
    Scenario("node", "a node with reward actors, env runners and learner, SIGKILL", lost_node),
    Scenario("driver", "the driver, SIGKILL, and a resume at once", lost_driver),
    Scenario("frozen reward actor", "a reward actor, SIGSTOP", lost_process(SCORER, PATIENT, stop)),
    Scenario("frozen env runner", "an env runner, SIGSTOP", lost_process(RUNNER, (*RUNNERS, *PATIENT), stop)),
    Scenario("frozen learner", "a learner, SIGSTOP", lost_process(LEARNER, (*LEARNERS, *PATIENT), stop)),
    Scenario("object store", "the object store full, room to spill", full_store(spills=True)),
    Scenario("object store and disk", "the object store full, no room to spill", full_store(spills=False)),
    Scenario("disk", "the run folder's disk full", full_disk),
    Scenario("slow scorer", "a scorer that never answers in time", slow_scorer),
    Scenario("nan", "a scorer that answers NaN", nan_scorer),
    Scenario("wandb", "no W&B server", no_wandb),
    Scenario("two drivers", "two trainings in one run folder", two_drivers),
)


def chosen(only: str) -> tuple[Scenario, ...]:
    """The faults of `--only`; all for an empty text.

    Raises:
        PartnerError: There is no such fault.
    """
    names = [name.strip() for name in only.split(";") if name.strip()]
    unknown = set(names) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        known = "; ".join(scenario.name for scenario in SCENARIOS)
        raise PartnerError(f"--only {'; '.join(sorted(unknown))}: there are {known}")
    return tuple(scenario for scenario in SCENARIOS if not names or scenario.name in names)


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in Markdown."""
    rows = []
    for outcome in outcomes:
        seconds = "the run ends" if outcome.seconds is None else f"{outcome.seconds:.1f}"
        after = "" if outcome.since == "the fault" or outcome.seconds is None else f" from when {outcome.since}"
        messages = "; ".join(f"`{message}`" for message in outcome.messages) or "nothing"
        rows.append((outcome.fault, str(outcome.lost), seconds + after, messages))
    return aligned_table(COLUMNS, rows)


def command(
    only: Annotated[str, typer.Option(help="Faults to bring about, separated by `;`.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the outcomes here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here.")] = None,
) -> None:
    """Bring about each fault in a training of tiny models and take the time until it goes on."""
    set_up_logging(logging.WARNING)
    wanted = chosen(only)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="partner-rl-faults-") as folder, progress("Faults") as report:
        lab = Lab(Path(folder))
        lab.prepare()
        for number, scenario in enumerate(wanted):
            report(number, len(wanted))
            outcomes.append(scenario.happen(lab, scenario))
            # After each one: the next may be the one that ends the benchmark.
            _keep(outcomes, json_file, markdown)
        report(len(wanted), len(wanted))
    out.print(table(outcomes), soft_wrap=True, markup=False)


def _keep(outcomes: Sequence[Outcome], json_file: Path | None, markdown: Path | None) -> None:
    content: Mapping[str, Any] = {**where(), "outcomes": [asdict(outcome) for outcome in outcomes]}
    if json_file is not None:
        write_json(json_file, content)
    if markdown is not None:
        write_text(markdown, table(outcomes))


if __name__ == "__main__":
    run_command(command, NAME)
