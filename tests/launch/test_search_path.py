"""Our packages are imported before files of other people that have their names, in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import search_path
from launch.jobs.working_dir import EXCLUDED, check_tree
from launch.search_path import PACKAGES, ordered
from partner_rl.types import PartnerError

pytestmark = pytest.mark.reported
ROOT = Path(__file__).parents[2]
STRANGER = "import pathlib\npathlib.Path('EXECUTED').touch()\nraise IndexError('a file of the working directory')\n"
MODULES = ("rewards", "envs", "partner_rl", "random", "torch", "yaml")
IN_A_WORKER = """
import json, os, signal
import ray
from launch.interrupt import heed_signals
from launch.resources.session import place_on_this_machine, ray_session
from partner_rl.config.load import load_config

@ray.remote
def look():
    import envs, launch, partner_rl, random, rewards
    return [module.__file__ for module in (envs, launch, partner_rl, random, rewards)], os.getsid(0)

config, plan = place_on_this_machine(load_config("smoke", ["resources.object_store_mb=80"]))
with heed_signals():
    before = signal.getsignal(signal.SIGTERM)
    with ray_session(config, plan):
        files, session = ray.get(look.remote())
        print(json.dumps({
            "files": files,
            "apart": session != os.getsid(0),
            "same handler": signal.getsignal(signal.SIGTERM) is before,
            "blocked": signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        }))
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            print("stopped")
"""


@pytest.fixture
def strangers(tmp_path) -> Path:
    """A working directory in which somebody's files have our names."""
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(STRANGER)
    for name in ("ray", "typer"):
        (tmp_path / name).mkdir()
    return tmp_path


def python(folder: Path, *arguments: str, **variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    # Set where this process has imported `launch`.
    environment.pop("PYTHONSAFEPATH", None)
    result = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert not (folder / "EXECUTED").exists(), result.stderr
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["-m", "launch.cli"], str(ROOT)),
        (["-m", "launch.cli"], f":{ROOT}"),
        (["-m", "launch.cli"], f".{os.pathsep}{ROOT}"),
        (["-c", "from launch.cli import main; main()"], str(ROOT)),
    ],
)
def test_no_file_of_the_working_directory_is_executed_by_a_command(arguments, path, strangers):
    assert python(strangers, *arguments, "config", "show", "smoke", PYTHONPATH=path).startswith("name: ")


def test_not_even_one_called_launch_by_the_installed_program(strangers):
    (strangers / "launch.py").write_text(STRANGER)
    program = "from launch.cli import main; main()"
    assert python(strangers, "-P", "-c", program, "config", "show", "smoke", PYTHONPATH=str(ROOT)).startswith("name: ")


@pytest.mark.slow
def test_nor_by_rays_workers_which_are_started_in_a_session_and_with_handlers_of_their_own(strangers, tmp_path):
    (strangers / "launch.py").write_text(STRANGER)
    long = tmp_path / ("x" * 100)
    long.mkdir()
    # An unwritable home and a long temporary folder are no hindrance either.
    variables = {"HOME": "/dev/null/home", "TMPDIR": str(long), "PYTHONPATH": str(ROOT)}
    found, stopped = python(strangers, "-P", "-c", IN_A_WORKER, **variables).splitlines()
    answer = json.loads(found)
    standard = answer["files"].pop(3)
    assert standard == __import__("random").__file__
    assert answer["files"] == [str(ROOT / name / "__init__.py") for name in PACKAGES]
    assert (answer["apart"], answer["same handler"], answer["blocked"]) == (True, True, False)
    assert stopped == "stopped"
    assert not list(long.iterdir())


def test_the_working_directory_is_taken_out_of_a_search_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    given = ["", ".", str(tmp_path), str(other)]
    assert ordered(given) == [str(ROOT), str(other)]
    monkeypatch.chdir(ROOT)
    assert ordered([str(ROOT), str(other)]) == [str(ROOT), str(other)]


def test_installed_packages_come_first_only_where_somebody_has_taken_their_names(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    monkeypatch.setattr(search_path, "ROOT", str(site))
    standard, other = tmp_path / "lib", tmp_path / "other"
    for folder in (site, standard, other):
        folder.mkdir()
    path = [str(other), str(standard), str(site)]
    assert ordered(path) == path
    # A folder without `__init__.py` takes nothing.
    (other / "rewards").mkdir()
    assert ordered(path) == path
    (other / "rewards" / "__init__.py").touch()
    assert ordered(path) == [str(site), str(other), str(standard)]


def test_a_removed_working_directory_is_no_reason_to_fail(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert ordered(["", "/usr/lib"]) == [str(ROOT), "/usr/lib"]


@pytest.mark.parametrize("name", ["rewards.py", "launch.py", "envs/__init__.py"])
def test_a_working_directory_that_would_take_our_names_on_a_cluster_is_not_sent(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(STRANGER)
    with pytest.raises(PartnerError, match="would be imported on the cluster instead of our package") as error:
        check_tree(tmp_path, EXCLUDED)
    assert str(tmp_path / name) in str(error.value)
    assert check_tree(tmp_path, [*EXCLUDED, f"/{Path(name).parts[0]}"]) == 0


def test_a_working_directory_with_our_packages_is_sent():
    assert check_tree(ROOT, EXCLUDED) > 0
