"""A model folder is complete or it does not exist, whatever was killed and whoever else was at it."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from partner_rl.models.store import MANIFEST_NAME, cache_folder, find_corruption, find_damage, install, read_manifest
from partner_rl.types import PartnerError


def build_small(target: Path) -> None:
    (target / "config.json").write_text("{}")
    (target / "weights").mkdir()
    (target / "weights" / "model.safetensors").write_bytes(bytes(1000))


def build_forbidden(target: Path) -> None:
    raise AssertionError("must not be built again")


def build_slowly(target: Path) -> None:
    build_small(target)
    with (target.parent / "builds").open("a") as builds:
        builds.write("x")
    time.sleep(1.0)


def build_until_killed(target: Path) -> None:
    build_small(target)
    (target.parent / "builds").touch()
    time.sleep(3600)


def test_installs_once_with_a_manifest(tmp_path):
    folder = tmp_path / "cache" / "model"
    assert install(folder, "v1", build_small) == folder
    assert install(folder, "v1", build_forbidden) == folder
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.source == "v1"
    assert sorted(manifest.files) == ["config.json", "weights/model.safetensors"]
    assert manifest.size == 1002
    assert find_corruption(folder, "v1") is None


def test_another_source_is_rebuilt(tmp_path):
    folder = install(tmp_path / "model", "v1", build_small)
    assert "v1" in (find_damage(folder, "v2") or "")
    install(folder, "v2", build_small)
    assert find_damage(folder, "v2") is None


@pytest.mark.parametrize("damage", ["no manifest", "half a manifest", "truncated file", "missing file"])
def test_a_damaged_folder_is_rebuilt(tmp_path, damage):
    folder = install(tmp_path / "model", "v1", build_small)
    if damage == "no manifest":
        (folder / MANIFEST_NAME).unlink()
    elif damage == "half a manifest":
        (folder / MANIFEST_NAME).write_text((folder / MANIFEST_NAME).read_text()[:40])
    elif damage == "truncated file":
        os.truncate(folder / "weights" / "model.safetensors", 10)
    else:
        (folder / "config.json").unlink()
    assert find_damage(folder, "v1") is not None
    install(folder, "v1", build_small)
    assert find_corruption(folder, "v1") is None


def test_a_flipped_byte_is_found_by_the_full_check_only(tmp_path):
    folder = install(tmp_path / "model", "v1", build_small)
    (folder / "weights" / "model.safetensors").write_bytes(b"\x01" + bytes(999))
    assert find_damage(folder, "v1") is None
    assert find_corruption(folder, "v1") == "checksum of weights/model.safetensors differs"


def test_a_failing_build_leaves_nothing(tmp_path):
    def build(target: Path) -> None:
        build_small(target)
        raise PartnerError("broke off")

    with pytest.raises(PartnerError, match="broke off"):
        install(tmp_path / "model", "v1", build)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_a_killed_build_is_not_used_and_cleaned_up(tmp_path):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=install, args=(tmp_path / "model", "v1", build_until_killed), daemon=True)
    process.start()
    while not (tmp_path / "builds").exists():
        assert process.is_alive()
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "model").exists()
    assert list(tmp_path.glob(".model.*.part"))
    install(tmp_path / "model", "v1", build_small)
    assert find_corruption(tmp_path / "model", "v1") is None
    assert not list(tmp_path.glob(".model.*.part"))


def test_processes_at_once_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=install, args=(tmp_path / "model", "v1", build_slowly)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "builds").read_text() == "x"
    assert find_corruption(tmp_path / "model", "v1") is None


def test_an_unwritable_cache_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PartnerError, match="cannot write model cache"):
        install(tmp_path / "file" / "model", "v1", build_small)


def test_cache_folder_order(tmp_path, monkeypatch):
    monkeypatch.setenv("PARTNER_RL_CACHE", str(tmp_path / "variable"))
    assert cache_folder(tmp_path / "argument") == tmp_path / "argument"
    assert cache_folder(None) == tmp_path / "variable"
    monkeypatch.delenv("PARTNER_RL_CACHE")
    assert cache_folder(None) == Path.home() / ".cache" / "partner-rl"


def test_a_manifest_of_another_shape_is_none(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(["something else"]))
    assert read_manifest(tmp_path) is None
