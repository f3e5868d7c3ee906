"""Terminals, pipes and files of every kind at the ends of the standard streams."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

from launch import cli
from launch.console import err, out, progress
from launch.streams import _ERRORS, CLOSED_PIPE, _Remarks, _Results, settle_streams
from tests.helpers.run_folders import REWRITE, write_run

pytestmark = pytest.mark.reported
ROOT = Path(__file__).parents[2]
WIDE = "It hurts – “so” much… 👋 ▁█ [red]x[/red] :cat:"
SAVING = """
import pathlib, sys, time
from launch import cli
from launch.console import err
from launch.interrupt import stop_on_request
from launch.streams import settle_streams

def work():
    with stop_on_request("saving") as stop:
        print("ready", flush=True)
        while not stop():
            time.sleep(0.01)
        err.print("iteration done")
        print("result", file=sys.stderr)
        pathlib.Path("saved").touch()
        raise KeyboardInterrupt

import types
module = types.ModuleType("saving")
module.command = work
sys.modules["saving"] = module
cli.COMMANDS["save"] = cli.LazyCommand("saving", "command", "Saves.")
cli.main(["save"])
"""


@pytest.fixture
def streams(monkeypatch):
    """Standard output and error of an encoding, and what was written to them."""
    settle_streams_only_registers(monkeypatch)

    def use(encoding: str) -> tuple[io.BytesIO, io.BytesIO]:
        written = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "stdout", _Results(written[0], encoding=encoding, errors=_ERRORS))
        monkeypatch.setattr(sys, "stderr", _Remarks(written[1], encoding=encoding, errors=_ERRORS))
        return written

    return use


def settle_streams_only_registers(monkeypatch) -> None:
    """The real call, whose streams the test's take the place of."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    settle_streams()


def text_of(stream: io.TextIOWrapper, written: io.BytesIO, encoding: str) -> str:
    stream.flush()
    return written.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", 'It hurts - "so" much... \\ud83d\\udc4b _@ [red]x[/red] :cat:'),
        ("latin-1", 'It hurts - "so" much... \\ud83d\\udc4b _@ [red]x[/red] :cat:'),
        ("cp1252", "It hurts – “so” much… \\ud83d\\udc4b _@ [red]x[/red] :cat:"),
        ("utf-8", WIDE),
    ],
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_every_text_is_shown_as_it_is_as_far_as_the_encoding_goes(name, encoding, shown, streams):
    written = dict(zip(("stdout", "stderr"), streams(encoding), strict=True))[name]
    console = out if name == "stdout" else err
    console.print(WIDE, soft_wrap=True)
    assert text_of(getattr(sys, name), written, encoding) == f"{shown}\n"
    console.print(Text.assemble((WIDE, "bold")), soft_wrap=True)
    print(WIDE, file=getattr(sys, name))
    assert text_of(getattr(sys, name), written, encoding) == f"{shown}\n" * 3


def test_json_stays_json(streams):
    results, _ = streams("ascii")
    posts = ["naïve 👋", "日本", "a\\b\n", "\ud800"]
    print(json.dumps(posts, ensure_ascii=False))
    assert json.loads(text_of(sys.stdout, results, "ascii")) == posts


SHOWING_RUNS = (
    ["watch", "RUN", "--once"],
    ["runs", "."],
    ["runs", ".", "--json"],
    ["runs", "compare", "RUN", "RUN"],
)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", SHOWING_RUNS)
def test_commands_show_runs_on_any_terminal(command, encoding, streams, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for columns in ("80", "20", "abc"):
        monkeypatch.setenv("COLUMNS", columns)
        write_run(tmp_path / f"run {columns}")
        results, _ = streams(encoding)
        assert cli._run([word.replace("RUN", f"run {columns}") for word in command]) == 0
        assert "2" in text_of(sys.stdout, results, encoding)
    if command[0] == "watch":
        assert REWRITE[:20] in text_of(sys.stdout, results, encoding)


@pytest.mark.parametrize("name", ["[red]x", "[/red]", "a[b]c", ":cat:", "[link=x]y"])
def test_brackets_in_a_users_words_keep_their_letters(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli._run(["watch", f"{name}/run"]) == 1
    assert f"{name}/run" in capsys.readouterr().err
    with progress(f"Reading {name}") as report:
        report(1, 1)
    assert f"Reading {name}" in capsys.readouterr().err


def test_who_closes_the_pipe_ends_the_command_in_silence(streams, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", _Results(os.fdopen(write, "wb"), encoding="utf-8", errors=_ERRORS))
    assert cli._run(["config", "docs"]) == CLOSED_PIPE
    print("more")
    sys.stdout.flush()


def test_results_that_a_full_disk_does_not_take_are_an_error(streams, monkeypatch):
    _, remarks = streams("utf-8")
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")
    monkeypatch.setattr(sys, "stdout", _Results(full, encoding="utf-8", errors=_ERRORS))
    assert cli._run(["config", "docs"]) == 1
    assert "the disk is full" in text_of(sys.stderr, remarks, "utf-8")


def test_remarks_that_nobody_reads_are_no_error(streams, monkeypatch):
    results, _ = streams("utf-8")
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stderr", _Remarks(os.fdopen(write, "wb"), encoding="utf-8", errors=_ERRORS))
    err.print("on the way")
    assert cli._run(["config", "show", "smoke"]) == 0
    assert text_of(sys.stdout, results, "utf-8").startswith("name: ")


def python(script: str, folder: Path, **options) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-P", "-c", script], cwd=folder, env=environment, **options)


def test_a_lost_terminal_does_not_keep_a_command_from_saving(tmp_path):
    terminal, end = pty.openpty()
    # A session of its own, whose terminal it is: losing it sends HUP.
    process = python(
        f"import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{SAVING}",
        tmp_path, stdin=end, stdout=end, stderr=end, start_new_session=True,
    )  # fmt: skip
    os.close(end)
    said = b""
    while b"ready" not in said:
        assert select.select([terminal], [], [], 60)[0], said
        said += os.read(terminal, 1000)
    os.close(terminal)
    assert process.wait(60) == 130
    assert (tmp_path / "saved").exists()


def test_a_width_that_is_no_number_is_no_width(tmp_path, monkeypatch):
    monkeypatch.setenv("TERMINAL_WIDTH", "wide")
    monkeypatch.setenv("COLUMNS", "wide")
    process = python("from launch import cli\ncli.main(['nosuch'])", tmp_path, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"No such command" in said


def test_streams_that_the_parent_has_closed_are_no_places_for_our_files(tmp_path):
    script = (
        "import os\nos.close(0); os.close(1); os.close(2)\n"
        "import sys\nsys.stdin = sys.stdout = sys.stderr = None\n"
        "from launch import cli\nfile = None\n"
        "try:\n    cli.main(['config', 'show', 'smoke'])\n"
        "except SystemExit as end:\n    file = open('kept', 'w'); file.write(f'{file.fileno()} {end.code}')\n"
    )
    assert python(script, tmp_path).wait(60) == 0
    number, status = (tmp_path / "kept").read_text().split()
    assert int(number) > 2
    assert status == "0"
