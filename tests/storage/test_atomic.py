"""Files and folders that are whole or absent, wherever they are written."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from partner_rl.storage import atomic
from partner_rl.storage.artefact import MARK, read_mark
from partner_rl.storage.atomic import (
    WriteError,
    file_when_whole,
    folder_when_whole,
    growing_folder,
    text_when_whole,
    write_json,
    write_text,
)
from partner_rl.storage.full_disk import is_full_disk
from partner_rl.storage.temporary import is_temporary, new_folder, remove_unfinished
from partner_rl.types import PartnerError
from tests.storage.processes import NOBODY, in_a_child, kill_self

pytestmark = pytest.mark.reported


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_after(folder: Path, name: str, text: str, error: BaseException) -> None:
    with text_when_whole(folder / name) as file:
        file.write(text)
        file.flush()
        raise error


def fail_in_a_folder(folder: Path, error: BaseException) -> None:
    with folder_when_whole(folder) as temporary:
        write_text(temporary / "posts", "a post")
        raise error


def test_a_file_is_there_when_it_is_whole_and_not_before(tmp_path: Path) -> None:
    with text_when_whole(tmp_path / "a" / "b" / "x.jsonl") as file:
        file.write("one\n")
        assert not (tmp_path / "a" / "b" / "x.jsonl").exists()
    assert (tmp_path / "a" / "b" / "x.jsonl").read_bytes() == b"one\n"
    assert names(tmp_path / "a" / "b") == ["x.jsonl"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(RuntimeError, match="stop"):
        fail_after(tmp_path, "x", "new", RuntimeError("stop"))
    with pytest.raises(RuntimeError, match="stop"):
        fail_after(tmp_path / "no" / "folder", "y", "new", RuntimeError("stop"))
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail_after(tmp_path, "posts", "a post", error())
    with pytest.raises(error):
        fail_in_a_folder(tmp_path / "model", error())
    assert names(tmp_path) == []


def test_permissions_are_those_of_a_plain_open(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "")
        write_text(tmp_path / "secret", "")
        (tmp_path / "secret").chmod(0o600)
        write_text(tmp_path / "secret", "again")
        with folder_when_whole(tmp_path / "folder") as folder:
            write_text(folder / "a", "")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(mask)
    assert modes == {"new": 0o640, "secret": 0o600, "folder": 0o750}


def test_links_stay_and_what_they_lead_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    write_text(tmp_path / "far" / "x", "old")
    (tmp_path / "link").symlink_to("far/x")
    (tmp_path / "dangling").symlink_to(tmp_path / "far" / "new")
    for name in ("link", "dangling"):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "far" / "x").read_text() == "link"
    assert (tmp_path / "far" / "new").read_text() == "dangling"
    with folder_when_whole(tmp_path / "far" / "v1") as folder:
        write_text(folder / "a", "one")
    (tmp_path / "current").symlink_to("far/v1")
    with folder_when_whole(tmp_path / "current") as folder:
        write_text(folder / "a", "two")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "far" / "v1" / "a").read_text() == "two"
    assert names(tmp_path / "far") == ["new", "v1", "x"]


def test_a_link_to_itself_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(WriteError, match=r"cannot write .*loop"):
        write_text(tmp_path / "loop", "")


def test_a_pipe_is_written_in_place(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "a line\n")
    reader.join()
    assert found == ["a line\n"]
    assert names(tmp_path) == ["pipe"]
    write_text(Path(os.devnull), "gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_written_after_what_is_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    script = (
        "import sys; from pathlib import Path; from partner_rl.storage.atomic import write_text; "
        "print('before'); write_text(Path(sys.argv[1]), 'written\\n'); print('after')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", script, name], stdout=log, check=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "log").read_text() == "before\nwritten\nafter\n"
    assert names(tmp_path) == ["link", "log"]


@pytest.mark.parametrize("where", ["a/b", "a/b/c"])
def test_a_file_in_the_way_is_one_line(tmp_path: Path, where: str) -> None:
    write_text(tmp_path / "a", "")
    for write in (lambda path: write_text(path, ""), lambda path: write_folder(path, "x")):
        with pytest.raises(WriteError, match=r"cannot write .*(Not a directory|File exists)"):
            write(tmp_path / where)
    assert names(tmp_path) == ["a"]


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(WriteError, match=r"cannot write .*Is a directory"):
        write_text(tmp_path / "x", "")
    assert names(tmp_path) == ["x"]


def test_a_folder_that_may_not_be_written_to_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    def write() -> None:
        with pytest.raises(WriteError, match=r"cannot write .*Permission denied"):
            write_text(tmp_path / "x", "")

    assert in_a_child(write, NOBODY) == 0


def test_other_errors_of_a_block_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), file_when_whole(tmp_path / "x"):
        (tmp_path / "missing").read_text()
    with pytest.raises(PartnerError, match=r"^mine$"), file_when_whole(tmp_path / "x"):
        raise PartnerError("mine")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), RuntimeError("I/O error: x (os error 28)")]
)
def test_a_full_disk_is_told_as_such(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(WriteError, match=r"the disk of .*x is full .*make room") as caught:
        fail_in_a_folder(tmp_path / "x", error)
    assert is_full_disk(caught.value)
    assert names(tmp_path) == []


def test_names_as_long_as_they_may_be_are_written(tmp_path: Path) -> None:
    name = "ä" * 127
    write_text(tmp_path / name, "x")
    assert names(tmp_path) == [name]


def test_half_a_surrogate_pair_does_not_cost_the_file(tmp_path: Path) -> None:
    assert write_json(tmp_path / "x", {"a": "\ud800"}).read_text() == '{\n  "a": "?"\n}\n'


def write_folder(path: Path, text: str, kind: str | None = None) -> None:
    with folder_when_whole(path, kind) as folder:
        write_text(folder / "a", text)


# --- What a kill leaves -----------------------------------------------------------------------------------------------


def test_the_next_writer_removes_what_killed_ones_left(tmp_path: Path) -> None:
    def killed_writing_a_file() -> None:
        with file_when_whole(tmp_path / "x") as file:
            file.write(b"posts")
            file.flush()
            kill_self()

    def killed_writing_a_folder() -> None:
        with folder_when_whole(tmp_path / "m") as folder:
            write_text(folder / "a", "posts")
            kill_self()

    assert in_a_child(killed_writing_a_file) == in_a_child(killed_writing_a_folder) == -9
    assert [is_temporary(name) for name in names(tmp_path)] == [True, True]
    write_text(tmp_path / "another", "")
    assert len(names(tmp_path)) == 3
    write_text(tmp_path / "x", "new")
    write_folder(tmp_path / "m", "new")
    assert names(tmp_path) == ["another", "m", "x"]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    with text_when_whole(tmp_path / "x") as first, folder_when_whole(tmp_path / "m") as folder:
        first.write("first")
        write_text(folder / "a", "first")
        # As another process would: locks belong to the open file.
        write_text(tmp_path / "x", "second")
        write_folder(tmp_path / "m", "second")
        remove_unfinished(tmp_path)
    assert (tmp_path / "x").read_text() == (tmp_path / "m" / "a").read_text() == "first"
    assert names(tmp_path) == ["m", "x"]


def test_a_kill_while_a_folder_is_replaced_loses_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "m", "old")
    real = Path.rename

    def killed_when_the_old_one_is_away(path: Path, target: Path) -> Path:
        if (tmp_path / "m").exists():
            return real(path, target)
        kill_self()
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_when_the_old_one_is_away)
        assert in_a_child(lambda: write_folder(tmp_path / "m", "new")) == -9
    assert not (tmp_path / "m").exists()
    remove_unfinished(tmp_path)
    assert (tmp_path / "m" / "a").read_text() == "old"
    assert names(tmp_path) == ["m"]


def test_nothing_is_removed_by_a_look_at_a_stranger_s_link_or_pipe(tmp_path: Path) -> None:
    write_text(tmp_path / "precious", "x")
    (tmp_path / ".m.01234567.part").symlink_to("precious")
    os.mkfifo(tmp_path / ".m.76543210.part")
    remove_unfinished(tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_writers_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(10):
            write_folder(tmp_path / "m", str(number), "judge")

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(write, range(3))) == [None] * 3
    assert names(tmp_path) == ["m"]
    assert names(tmp_path / "m") == ["a", MARK]


def test_a_file_system_without_locks_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("partner_rl.storage.temporary.fcntl.flock", unsupported)
    write_text(tmp_path / "x", "one")
    write_folder(tmp_path / "m", "one")
    write_folder(tmp_path / "m", "two")
    os.close(new_folder(tmp_path / "m")[1])
    # Nobody knows whether it is being written.
    remove_unfinished(tmp_path)
    assert [is_temporary(name) for name in names(tmp_path)] == [True, False, False]


# --- Marks ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_replaced_by_one_of_its_kind_alone(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", "judge", "judge")
    mark = read_mark(tmp_path / "m")
    assert mark is not None
    assert (mark.kind, mark.content["files"]) == ("judge", ["a", MARK])
    write_folder(tmp_path / "m", "judge again", "judge")
    with pytest.raises(PartnerError, match=r"holds something else \(kind 'judge', not 'policy'\): name a new folder"):
        write_folder(tmp_path / "m", "policy", "policy")
    write_text(tmp_path / "m" / "notes", "of the user")
    with pytest.raises(PartnerError, match=r"holds something else too \(notes\)"):
        write_folder(tmp_path / "m", "judge", "judge")
    assert (tmp_path / "m" / "a").read_text() == "judge again"
    assert names(tmp_path) == ["m"]


def test_a_folder_that_nobody_marked_is_not_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "m" / "report.json", "{}")
    with pytest.raises(PartnerError, match=r"holds something else \(report.json\)"):
        write_folder(tmp_path / "m", "judge", "judge")
    for damaged in ("", "{", "[]", '{"kind": "judge"}', '{"kind": "judge", "format": "x"}'):
        (tmp_path / "m" / MARK).write_text(damaged)
        with pytest.raises(PartnerError, match="holds something else"):
            write_folder(tmp_path / "m", "judge", "judge")


def test_a_growing_folder_is_gone_on_with(tmp_path: Path) -> None:
    def killed_at_once() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(atomic, "sync", lambda path: None)
            patch.setattr(Path, "replace", lambda *paths: kill_self())
            growing_folder(tmp_path / "sweep", "sweep")

    assert in_a_child(killed_at_once) == -9
    assert len(names(tmp_path / "sweep")) == 1
    growing_folder(tmp_path / "sweep", "sweep")
    write_text(tmp_path / "sweep" / "spec", "")
    growing_folder(tmp_path / "sweep", "sweep")
    assert names(tmp_path / "sweep") == [MARK, "spec"]
    with pytest.raises(PartnerError, match="kind 'sweep', not 'ablation'"):
        growing_folder(tmp_path / "sweep", "ablation")


def test_a_block_that_writes_nothing_changes_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", "old", "judge")
    with folder_when_whole(tmp_path / "m", "judge"):
        pass
    with folder_when_whole(tmp_path / "n", "judge"):
        pass
    assert names(tmp_path) == ["m"]
