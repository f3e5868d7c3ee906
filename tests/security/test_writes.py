"""Nothing is written but by `partner_rl.storage`: whole or not at all, with nothing left behind."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.security.test_sources import ROOT, dotted

SOURCES = [
    path
    for name in ("partner_rl", "envs", "rewards", "launch")
    for path in sorted((ROOT / name).rglob("*.py"))
    if ROOT / "partner_rl" / "storage" not in path.parents
]
MODULE_CALLS = {"os.replace", "os.rename", "os.renames", "os.link", "os.open", "shutil.move", "tempfile.mkstemp"}
MODULE_CALLS |= {"tempfile.mkdtemp", "tempfile.NamedTemporaryFile", "np.save", "np.savez", "torch.save", "json.dump"}
METHODS = {"write_text", "write_bytes", "touch", "rename", "to_csv", "to_parquet", "to_json", "symlink_to"}
PATHS_OF_LIBRARIES = {"pq.ParquetWriter", "pq.write_table", "figure.savefig"}
"""Calls that take an open file as well as a path: they are given `file`."""

REASONS = {
    "launch/tracking/files.py": {"metrics_path.open('ab')", "samples_path.open('ab')"},  # appended to, line by line
    "launch/tracking/uploading.py": {".open('a')", "log.open('a')"},  # a log
    "partner_rl/pipelines/stage.py": {"path.open('ab')"},  # a counter that outlives its process
    "partner_rl/pipelines/ray_data.py": {"open('wb')"},  # /dev/null
    "launch/run_folder/folder.py": {"path.rename"},  # a checkpoint is set aside
    "launch/tracking/wandb_sink.py": {"os.link"},  # what W&B uploads while the run may remove it
    "launch/streams.py": {"os.open", "open('w')"},  # /dev/null in the place of a closed stream
    "partner_rl/cluster/local_ray.py": {
        "tempfile.mkstemp",
        "os.fdopen('w')",
        "os.link",
    },  # a secret, which one process makes
}
"""Module → what it may do itself, and why."""


def mode_of(call: ast.Call, place: int) -> str:
    """The mode that a file is opened with, `r` when none is given."""
    given = [word.value for word in call.keywords if word.arg == "mode"] or call.args[place : place + 1]
    value = given[0] if given else ast.Constant("r")
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else "?"


def writes(source: str) -> list[str]:
    """The calls of a module that write a file."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [found for call in calls for found in writing(call)]


def writing(call: ast.Call) -> list[str]:
    name = dotted(call.func)
    method = name.rpartition(".")[2]
    is_method = isinstance(call.func, ast.Attribute)
    if method in ("open", "fdopen") and name != "os.open":
        # `Path.open(mode)`, but `open(path, mode)` and `os.fdopen(descriptor, mode)`.
        mode = mode_of(call, 0 if method == "open" and is_method else 1)
        is_unknown = mode == "?" and name == "open"
        return [f"{name}({mode!r})"] if is_unknown or set(mode) & set("wax+") else []
    if name in MODULE_CALLS and (name not in ("np.save", "json.dump") or not is_given_a_file(call)):
        return [name]
    if is_method and method in METHODS:
        return [name]
    # `text.replace(old, new)` has two arguments, `path.replace(target)` one.
    if is_method and method == "replace" and len(call.args) == 1 and not call.keywords:
        return [name]
    return [name] if name in PATHS_OF_LIBRARIES and not is_given_a_file(call) else []


def is_given_a_file(call: ast.Call) -> bool:
    return any(isinstance(value, ast.Name) and value.id == "file" for value in call.args)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_source_writes_through_the_storage_package(path: Path) -> None:
    allowed = REASONS.get(path.relative_to(ROOT).as_posix(), set())
    assert set(writes(path.read_text(encoding="utf-8"))) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'w')",
        "open(path, mode='xb')",
        "open(path, mode)",
        "path.open('ab')",
        "path.open('r+')",
        "(folder / name).open('w', encoding='utf-8')",
        "os.fdopen(descriptor, 'wb')",
        "path.write_text(text)",
        "(folder / name).write_bytes(content)",
        "os.replace(path, target)",
        "temporary.replace(path)",
        "temporary.rename(path)",
        "tempfile.mkdtemp(dir=folder)",
        "tempfile.mkstemp()",
        "np.save(path, array)",
        "json.dump(content, handle)",
        "pq.write_table(table, path)",
        "pq.ParquetWriter(path, schema)",
        "figure.savefig(path)",
    ],
)
def test_each_of_these_would_be_found(source: str) -> None:
    assert writes(source)


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "path.open(encoding='utf-8')",
        "path.open('rb')",
        "RunFolder.open(path)",
        "text.replace('a', 'b')",
        "dataclasses.replace(record, a=1)",
        "np.save(file, array)",
        "pq.write_table(table, file, compression='zstd')",
        "write_text(path, text)",
    ],
)
def test_none_of_these_would(source: str) -> None:
    assert writes(source) == []
