"""The benchmark of the faults: what it reads off a run's output and folder, and its command line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.fault_runs import Training
from benchmarks.faults import SCENARIOS, Outcome, chosen, table
from partner_rl.types import PartnerError
from tests.helpers.command_line import benchmark


def training(folder: Path) -> Training:
    """A run whose files the test writes itself."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    return Training(folder, folder / "log", process)


def write_steps(folder: Path, *steps: int) -> None:
    (folder / "new").write_text("".join(f'{{"step": {step}}}\n' for step in steps))
    (folder / "new").replace(folder / "metrics.jsonl")


def test_what_a_run_says_and_loses_is_counted_from_the_mark(tmp_path):
    run = training(tmp_path)
    try:
        run.log.write_text("[10:00:00] WARNING  before\n")
        write_steps(tmp_path, 1, 2, 3)
        since = run.mark()
        with run.log.open("a") as log:
            log.write("[10:00:01] WARNING  1 of 1 learners were lost: starting new ones     \n")
            log.write("[10:00:02] INFO     going on after iteration 1\n")
            log.write("error: checkpoint /somewhere/else/runs/first/x cannot be written\n")
        assert run.iterations() == 3
        assert run.lost() == 2
        assert run.messages() == [
            "1 of 1 learners were lost: starting new ones",
            "checkpoint runs/first/x cannot be written",
        ]
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4}\n')
            file.flush()
        assert time.monotonic() >= since
    finally:
        run.end()
    assert run.process.poll() is not None


def test_a_run_that_is_over_is_no_run_that_goes_on(tmp_path):
    run = training(tmp_path)
    run.log.write_text("error: the end\n")
    write_steps(tmp_path, 1)
    run.end()
    with pytest.raises(PartnerError, match="no iteration follows: error: the end"):
        run.await_next(time.monotonic())


def test_faults_are_chosen_by_name():
    assert chosen("") == SCENARIOS
    assert [s.name for s in chosen("learner; reward actor")] == ["reward actor", "learner"]
    with pytest.raises(PartnerError, match="there are reward actor; env runner"):
        chosen("fire")


def test_the_table_names_what_seconds_count_from():
    rows = table(
        [
            Outcome("a learner, SIGKILL", 12.345, "the fault", 0, ("one", "two")),
            Outcome("the disk full", 0.5, "room is made", 0, ()),
            Outcome("NaN", None, "the fault", 0, ("scorer",)),
        ]
    ).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    assert cells[0] == ["a learner, SIGKILL", "0", "12.3", "`one`; `two`"]
    assert cells[1] == ["the disk full", "0", "0.5 from when room is made", "nothing"]
    assert cells[2] == ["NaN", "0", "the run ends", "`scorer`"]


def test_an_unknown_fault_is_one_line():
    result = benchmark(faults, "--only", "fire")
    assert result.returncode == 1
    assert result.stderr.startswith("error: --only fire: there are")
