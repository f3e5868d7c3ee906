from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from launch import cli
from launch.console import progress
from partner_rl.config.load import load_config
from partner_rl.types import PartnerError
from tests.helpers.command_line import COMMAND, ROOT, partner


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return partner(*arguments, folder=ROOT)


def processor_seconds(*arguments: str) -> float:
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


def install_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Puts a command `broken` into the program that raises an error."""

    def command() -> None:
        raise error

    module = ModuleType("broken_command")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_command", module)
    monkeypatch.setitem(cli.COMMANDS, "broken", cli.LazyCommand("broken_command", "command", "Fails."))


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom launch import cli\n"
        "try:\n    cli.main(['--help'])\n"
        "finally:\n    print(sorted({'torch', 'ray', 'transformers', 'wandb', 'pydantic_core'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0
    assert all(name in result.stdout for name in [*cli.COMMANDS, "config"])
    heavy = result.stdout.splitlines()[-1]
    assert not {"torch", "ray", "transformers", "wandb"} & set(heavy.strip("[]'").split("', '"))


def test_help_answers_within_a_second() -> None:
    # Processor time of that one process, because other tests may hold the cores or end processes of their own; and the
    # least of several, because a busy machine makes it longer and nothing makes it shorter.
    assert min(processor_seconds("--help") for _ in range(3)) < 1.0


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.returncode == 0, result.stderr
    assert name in result.stdout


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, "partner-rl 0.1.0\n")


def test_a_mistyped_command_comes_with_the_nearest_one() -> None:
    result = run("quickstar")
    assert result.returncode == 2
    assert "quickstart" in result.stderr


def test_config_show_prints_a_configuration_that_loads(tmp_path: Path) -> None:
    result = run("config", "show", "smoke", "policy.lora.rank=8", "seed=3")
    assert result.returncode == 0
    path = tmp_path / "shown.yaml"
    path.write_text(result.stdout, encoding="utf-8")
    assert load_config(str(path)) == load_config("smoke", ["policy.lora.rank=8", "seed=3"])


def test_a_users_error_is_one_line_and_status_one() -> None:
    result = run("config", "show", "smoke", "algorithm.iteration=3")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == ("error: override algorithm.iteration: unknown key; did you mean algorithm.iterations?\n")


def test_config_docs_checks_a_file(tmp_path: Path) -> None:
    page = tmp_path / "configuration.md"
    page.write_text(run("config", "docs").stdout, encoding="utf-8")
    assert run("config", "docs", "--check", str(page)).returncode == 0
    page.write_text(page.read_text(encoding="utf-8").replace("moving average", "mean"), encoding="utf-8")
    outdated = run("config", "docs", "--check", str(page))
    assert outdated.returncode == 1
    assert "2 lines differ" in outdated.stderr


def test_a_users_error_inside_a_lazy_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_command(monkeypatch, PartnerError("the [model] is not there; pull it"))
    assert status_of("broken") == 1
    assert capsys.readouterr().err == "error: the [model] is not there; pull it\n"


def test_an_unexpected_error_is_one_line_without_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
    install_command(monkeypatch, RuntimeError("two\nlines"))
    assert status_of("broken") == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: unexpected RuntimeError: two lines (run `partner-rl --debug")
    assert printed.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    install_command(monkeypatch, RuntimeError("inside"))
    with pytest.raises(RuntimeError, match="inside"):
        cli.main(["broken"])


@pytest.mark.parametrize(
    ("message", "printed"), [("", "interrupted"), ("resume with --resume x", "resume with --resume x")]
)
def test_ctrl_c_is_one_line_and_status_130(
    message: str, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_command(monkeypatch, KeyboardInterrupt(message) if message else KeyboardInterrupt())
    assert status_of("broken") == 130
    assert capsys.readouterr().err == f"error: {printed}\n"


@pytest.mark.parametrize("status", [0, 3])
def test_a_command_may_choose_its_exit_status(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    install_command(monkeypatch, typer.Exit(status))
    assert status_of("broken") == status


@pytest.mark.reported
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_real_signal_ends_with_130(number: signal.Signals) -> None:
    script = (
        "import sys, time, types\nfrom launch import cli\n"
        "def command():\n    print('ready', flush=True)\n    time.sleep(600)\n"
        "module = types.ModuleType('sleeping')\nmodule.command = command\nsys.modules['sleeping'] = module\n"
        "cli.COMMANDS['sleep'] = cli.LazyCommand('sleeping', 'command', 'Sleeps.')\ncli.main(['sleep'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, printed = process.communicate(timeout=300)
    assert (process.returncode, printed) == (130, "error: interrupted\n")


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    with progress("Counting", Console(stderr=True, force_terminal=False)) as report:
        for done in range(1, 101):
            report(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Counting: 1/100", "Counting: 100/100"]


def test_progress_is_a_bar_with_time_left_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    with progress("Counting", Console(stderr=True, force_terminal=True, width=120)) as report:
        report(50, 100)
    shown = capsys.readouterr().err
    assert "Counting" in shown
    assert "50/100" in shown
    assert "left" in shown
