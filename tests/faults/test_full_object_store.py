"""Ray's object store filled to the brim: it spills, and where it cannot, training waits for room and loses nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import logging, sys, threading, time
import numpy as np
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError
from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.types import PartnerError
from tests.algorithm.toy import build_toy, toy_config

MIB = 2**20
logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
wait_s, freed_after_s, capacity = float(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
ray.init(
    address="local", num_cpus=2, object_store_memory=80 * MIB, include_dashboard=False,
    log_to_driver=False,
    # A full disk refuses spilled objects; Ray's threshold alone goes on spilling in the background, which makes room.
    _system_config={"local_fs_capacity_threshold": capacity, "automatic_object_spilling_enabled": bool(capacity)},
)
held = []
ray_put = ray.put


def put_and_keep(value):
    # Weights that training has sent would leave a hole as large as the next ones, at a time that nobody knows.
    reference = ray_put(value)
    held.append(reference)
    return reference


class MakesRoom(logging.Handler):
    # Some seconds after it is said that there is none, however long training took to get there.

    def emit(self, record):
        if "is full: the run waits" in record.getMessage():
            threading.Timer(freed_after_s, held.clear).start()


def fill_up():
    for size in (MIB, MIB // 32, 1024):
        try:
            while True:
                held.append(ray_put(np.ones(size, np.uint8)))
        except (ObjectStoreFullError, OutOfDiskError):
            print("full after", len(held))


config = toy_config(num_env_runners=1)
config = config.model_copy(update={"faults": config.faults.model_copy(update={"room_wait_s": wait_s})})
ray.put = put_and_keep
algorithm = build_toy(config)
algorithm.train()
if capacity:
    held += [ray.put(np.ones(MIB, np.uint8)) for _ in range(200)]
else:
    fill_up()
if freed_after_s:
    logging.getLogger().addHandler(MakesRoom())
started = time.monotonic()
try:
    algorithm.train()
    print("seconds", time.monotonic() - started)
    print("reward", iteration_metrics(algorithm.last, 3)["reward/total"])
except PartnerError as error:
    print("error:", error)
held.clear()
algorithm.stop()
ray.shutdown()
"""


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
def test_a_full_store_spills_and_training_goes_on(tmp_path):
    result = train(0, 0, 0.99)
    assert "reward" in result.stdout
    assert "is full" not in result.stderr


@pytest.mark.slow
def test_where_nothing_can_be_spilled_training_waits_for_room(tmp_path):
    result = train(200, 4, 0)
    assert "full after" in result.stdout
    # The first try may itself take a while.
    assert re.search(r"Ray's object store is full: the run waits for room since \d+ s", result.stderr)
    assert "reward" in result.stdout


@pytest.mark.slow
def test_without_room_the_run_ends_with_one_line(tmp_path):
    result = train(0, 0, 0)
    (error,) = [line for line in result.stdout.splitlines() if line.startswith("error:")]
    assert "Ray's object store is full, and the disk that it spills to as well" in error
    assert "resources.object_store_mb" in error
