"""Ray's object store filled to the brim: it spills, and where it cannot, training waits for room and loses nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.helpers.command_line import ROOT, environment

SCRIPT = """
import json, logging, sys, threading
import numpy as np
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError
from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.types import PartnerError
from tests.algorithm.toy import build_toy, toy_config

MIB = 2**20
held, said = [], []
ray_put = ray.put


def put_and_keep(value):
    # Weights that training has sent would leave a hole as large as the next ones, at a time that nobody knows.
    reference = ray_put(value)
    held.append(reference)
    return reference


class Said(logging.Handler):
    # Some seconds after it is said that there is no room, however long training took to get there, there is some.

    def __init__(self, freed_after_s):
        super().__init__()
        self.freed_after_s = freed_after_s

    def emit(self, record):
        said.append(record.getMessage())
        if self.freed_after_s and "is full: the run waits" in said[-1]:
            threading.Timer(self.freed_after_s, held.clear).start()


def fill_up():
    for size in (MIB, MIB // 32, 1024):
        try:
            while True:
                held.append(ray_put(np.ones(size, np.uint8)))
        except (ObjectStoreFullError, OutOfDiskError):
            pass


def train(wait_s, freed_after_s, capacity):
    # A full disk refuses spilled objects; Ray's threshold alone goes on spilling in the background, which makes room.
    spilling = {"local_fs_capacity_threshold": capacity, "automatic_object_spilling_enabled": bool(capacity)}
    ray.init(
        address="local", num_cpus=2, object_store_memory=80 * MIB, include_dashboard=False, log_to_driver=False,
        _system_config=spilling,
    )
    config = toy_config(num_env_runners=1)
    config = config.model_copy(update={"faults": config.faults.model_copy(update={"room_wait_s": wait_s})})
    ray.put = put_and_keep
    algorithm = build_toy(config)
    algorithm.train()
    if capacity:
        held.extend(ray.put(np.ones(MIB, np.uint8)) for _ in range(200))
    else:
        fill_up()
    said.clear()
    handler = Said(freed_after_s)
    logging.getLogger().addHandler(handler)
    reward, error = None, None
    try:
        algorithm.train()
        reward = iteration_metrics(algorithm.last, 3)["reward/total"]
    except PartnerError as raised:
        error = str(raised)
    logging.getLogger().removeHandler(handler)
    held.clear()
    algorithm.stop()
    ray.put = ray_put
    ray.shutdown()
    return {"reward": reward, "error": error, "said": "\\n".join(said)}


logging.getLogger().setLevel(logging.WARNING)
print(json.dumps([train(*case) for case in json.loads(sys.argv[1])]))
"""
SPILLS, WAITS, ENDS = (0, 0, 0.99), (200, 4, 0), (0, 0, 0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_full_store_spills_or_training_waits_for_room_or_ends_with_one_line():
    command = [sys.executable, "-c", SCRIPT, json.dumps([SPILLS, WAITS, ENDS])]
    result = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=1000)
    assert result.returncode == 0, result.stderr
    spills, waits, ends = json.loads(result.stdout.splitlines()[-1])

    assert spills["reward"] is not None
    assert "is full" not in spills["said"]

    # The first try may itself take a while.
    assert re.search(r"Ray's object store is full: the run waits for room since \d+ s", waits["said"])
    assert waits["reward"] is not None

    assert "Ray's object store is full, and the disk that it spills to as well" in ends["error"]
    assert "\n" not in ends["error"]
    assert "resources.object_store_mb" in ends["error"]
