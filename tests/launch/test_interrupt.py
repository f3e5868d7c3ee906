"""Signals as requests to stop: the first for the next good place, the second for at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from launch import interrupt
from launch.interrupt import INTERRUPTED, STOP_SIGNALS, heed_signals, received, stop_on_request
from launch.run_folder.record import read_record, recorded

pytestmark = pytest.mark.reported
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0
"""Limit for a busy machine."""
STARTS_RAY = """
import sys, time, types
from launch import cli

def command():
    from launch.resources.session import place_on_this_machine, ray_session
    from partner_rl.config.load import load_config
    config, plan = place_on_this_machine(load_config("smoke", ["resources.object_store_mb=80"]))
    with ray_session(config, plan):
        time.sleep(600)

module = types.ModuleType("starting")
module.command = command
sys.modules["starting"] = module
cli.COMMANDS["start"] = cli.LazyCommand("starting", "command", "Starts Ray.")
cli.main(["start"])
"""
each_signal = pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    """Every signal is told apart from the one before, and the handlers are afterwards as they were."""
    monkeypatch.setattr(interrupt, "TOGETHER_S", 0.0)
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def ask_to_stop(*numbers: signal.Signals) -> None:
    """Sends signals to a block that puts the stop off and looks after each whether there is a request."""
    with stop_on_request("saving") as stop:
        assert not stop()
        for number in numbers:
            signal.raise_signal(number)
            assert stop()


@each_signal
def test_the_first_is_a_request_and_the_second_interrupts_at_once(number, capsys):
    with pytest.raises(KeyboardInterrupt, match="at once"):
        ask_to_stop(number, number)
    said = capsys.readouterr().err
    assert "saving" in said
    assert ("Ctrl-C" if number == signal.SIGINT else number.name) in said


@each_signal
def test_where_nothing_puts_it_off_it_interrupts_at_once(number):
    with pytest.raises(KeyboardInterrupt, match=r"^$"), heed_signals():
        signal.raise_signal(number)


@each_signal
def test_the_record_of_a_run_says_which_signal_it_was(number, tmp_path):
    with pytest.raises(KeyboardInterrupt), heed_signals(), recorded(tmp_path):
        ask_to_stop(number)
    record = read_record(tmp_path)
    assert (record["state"], record["reason"]) == ("interrupted", number.name)
    assert received() is None


def test_a_lost_terminal_is_told_twice_and_is_one_request(monkeypatch):
    monkeypatch.setattr(interrupt, "TOGETHER_S", 3600.0)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        ask_to_stop(signal.SIGHUP, signal.SIGHUP, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="at once"):
        ask_to_stop(signal.SIGTERM, signal.SIGINT)


@each_signal
def test_what_was_ignored_at_the_start_stays_ignored(number, monkeypatch):
    # What `nohup` does with HUP, and a shell with INT for what it runs in the background.
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with heed_signals(), stop_on_request("saving") as stop:
            signal.raise_signal(number)
            assert not stop()
        assert received() is None
    finally:
        signal.signal(number, before)


def test_a_block_inside_of_another_answers_first():
    with stop_on_request("outer") as outer:
        with pytest.raises(KeyboardInterrupt):
            ask_to_stop(signal.SIGTERM)
        assert not outer()


def test_other_threads_hear_of_nothing():
    found: list[bool] = []

    def look() -> None:
        with heed_signals(), stop_on_request("saving") as stop:
            found.append(stop())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.slow
def test_a_signal_while_ray_starts_ends_the_command_and_all_that_was_started():
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS_RAY], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    started: list[psutil.Process] = []
    while process.poll() is None and not started:
        started = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    # To the whole group: what Ray starts is not in it.
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said) == (INTERRUPTED, "error: interrupted\n")
    _, alive = psutil.wait_procs(started, timeout=TIMEOUT_S)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
