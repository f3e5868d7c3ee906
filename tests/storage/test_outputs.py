"""What a command is going to write, checked before it computes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from partner_rl.storage import outputs
from partner_rl.storage.artefact import write_mark
from partner_rl.storage.atomic import folder_when_whole, growing_folder, write_text
from partner_rl.storage.outputs import GrowingFolder, NewFolder, OutputFile, check_outputs
from partner_rl.types import PartnerError
from tests.storage.processes import NOBODY, in_a_child

pytestmark = pytest.mark.reported


def tree(folder: Path) -> list[tuple[str, bytes]]:
    paths = sorted(folder.rglob("*"))
    return [(str(path), path.read_bytes() if path.is_file() and not path.is_symlink() else b"") for path in paths]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with everything that somebody may name by mistake."""
    write_text(tmp_path / "pairs.csv", "posts")
    write_text(tmp_path / "corpus" / "a.csv", "posts")
    with folder_when_whole(tmp_path / "judge", "judge") as folder:
        write_text(folder / "head", "weights")
    write_text(growing_folder(tmp_path / "sweep", "sweep") / "trials" / "a" / "metrics.jsonl", "figures")
    write_text(tmp_path / "thesis" / "chapter", "words")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("pairs.csv")
    (tmp_path / "dangling").symlink_to("new")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to-judge").symlink_to("judge")
    os.link(tmp_path / "pairs.csv", tmp_path / "hard")
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [
        "new",
        "no/such/folder/new",
        "empty/new",
        "dangling",
        "thesis/chapter",
        "/dev/null",
        "/dev/stdout",
    ],
)
def test_a_file_that_can_be_written_is_let_through(home: Path, path: str) -> None:
    before = tree(home)
    check_outputs([OutputFile(home / path)], [home / "pairs.csv", "sample", "pypi:tiny", None])
    assert tree(home) == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("empty", "is a folder: name a file in it"),
        ("to-judge", "is a folder: name a file in it"),
        ("pairs.csv", "is an input of this command"),
        ("corpus/../pairs.csv", "is an input of this command"),
        ("link", "is an input of this command"),
        ("hard", "is an input of this command"),
        ("corpus/a.csv", "is a file of the input"),
        ("corpus/all.parquet", "would be read as a part of"),
        ("sweep/trials/a/metrics.jsonl", "is a file of the sweep"),
        ("judge/head", "is a file of the judge"),
        ("pairs.csv/new", "is a file, so that nothing can be in it"),
        ("pairs.csv/new/er", "is a file, so that nothing can be in it"),
        ("loop", "is a link that leads to itself"),
        ("x" * 256, "the name is too long"),
    ],
)
def test_a_file_that_would_fail_or_destroy_something_is_refused(home: Path, path: str, message: str) -> None:
    before = tree(home)
    with pytest.raises(PartnerError, match=message) as caught:
        check_outputs([OutputFile(home / path, "--rejects")], [home / "pairs.csv", home / "corpus"])
    assert str(caught.value).startswith("--rejects ")
    assert "\n" not in str(caught.value)
    assert tree(home) == before


@pytest.mark.parametrize("path", ["new", "no/such/folder", "empty", "judge", "to-judge", "dangling", "corpus/new"])
def test_a_folder_that_can_be_written_is_let_through(home: Path, path: str) -> None:
    before = tree(home)
    check_outputs([NewFolder(home / path, "judge")], [home / "corpus", home / "pairs.csv"])
    assert tree(home) == before


@pytest.mark.parametrize("kind", [NewFolder, GrowingFolder])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("pairs.csv", "is a file: name a folder"),
        ("link", "is a file: name a folder"),
        ("sweep", r"holds something else \(kind 'sweep', not 'judge'\): name a new folder"),
        ("thesis", r"holds something else \(chapter\): name a new folder"),
        ("corpus", "is an input of this command"),
        ("pairs.csv/new", "is a file, so that nothing can be in it"),
        ("loop", "is a link that leads to itself"),
    ],
)
def test_a_folder_that_would_fail_or_destroy_something_is_refused(
    home: Path, path: str, message: str, kind: type[NewFolder] | type[GrowingFolder]
) -> None:
    before = tree(home)
    with pytest.raises(PartnerError, match=message) as caught:
        check_outputs([kind(home / path, "judge")], [home / "corpus"])
    assert "\n" not in str(caught.value)
    assert tree(home) == before


def test_what_would_go_with_a_replaced_folder_keeps_it(home: Path) -> None:
    with pytest.raises(PartnerError, match=r"holds the input .*head, which would be lost"):
        check_outputs([NewFolder(home / "judge", "judge")], [home / "judge" / "head"])
    # Another command has used it as a place for more.
    with folder_when_whole(home / "judge" / "empathy", "empathy") as folder:
        write_text(folder / "a", "")
    with pytest.raises(PartnerError, match=r"holds something else too \(empathy\)"):
        check_outputs([NewFolder(home / "judge", "judge")])


def test_a_part_of_something_else_is_not_replaced(home: Path) -> None:
    run = growing_folder(home / "run", "run")
    with folder_when_whole(run / "rewards" / "coherence", "coherence") as folder:
        write_text(folder / "weights", "")
    with pytest.raises(PartnerError, match=r"rewards/coherence is a part of the run .*run: name another folder"):
        check_outputs([NewFolder(run / "rewards" / "coherence", "coherence")])
    check_outputs([NewFolder(run / "another", "coherence"), GrowingFolder(run / "evaluation", "evaluation")])


def test_the_working_directory_is_not_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (home / "judge", home / "empty"):
        monkeypatch.chdir(place)
        with pytest.raises(PartnerError, match="is the working directory"):
            check_outputs([NewFolder(Path(), "judge")])
    check_outputs([GrowingFolder(Path(), "judge")])


def test_two_outputs_are_two_places(home: Path) -> None:
    for first, second in (("x", "x"), ("new", "dangling"), ("thesis/chapter", "thesis/../thesis/chapter")):
        with pytest.raises(PartnerError, match=r"--rejects .* and --output .* are the same place: name two"):
            check_outputs([OutputFile(home / first), OutputFile(home / second, "--rejects")])
    with pytest.raises(PartnerError, match="are the same place"):
        check_outputs([NewFolder(home / "m", "judge"), OutputFile(home / "m" / "sheet.csv", "--human-sheet")])
    check_outputs([GrowingFolder(home / "m", "evaluation"), OutputFile(home / "m" / "sheet.csv", "--human-sheet")])
    check_outputs([OutputFile(Path("/dev/stdout")), OutputFile(Path("/dev/stdout"), "--rejects")])


def test_what_is_neither_file_nor_folder_is_told_apart(home: Path) -> None:
    os.mkfifo(home / "pipe")
    check_outputs([OutputFile(home / "pipe")])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{os.path.relpath(home)}/socket")
        with pytest.raises(PartnerError, match="is a file: name a folder"):
            check_outputs([NewFolder(home / "socket", "judge")])


def test_a_home_is_expanded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(PartnerError, match="is an input of this command"):
        check_outputs([OutputFile(Path("~/pairs.csv"))], ["~/pairs.csv"])


def test_places_that_this_user_may_not_write_to_are_refused(home: Path) -> None:
    for path in (home, *home.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)

    def check() -> None:
        for output in (
            OutputFile(home / "new"),
            OutputFile(home / "no" / "such" / "folder"),
            NewFolder(home / "judge", "judge"),
            GrowingFolder(home / "sweep", "sweep"),
        ):
            with pytest.raises(PartnerError, match=r"--output .*: .* is not writable: name another place"):
                check_outputs([output])

    # Others must be able to enter the folder of the test.
    for folder in (home, *home.parents[:3]):
        folder.chmod(0o755)
    assert in_a_child(check, NOBODY) == 0


def test_a_write_protected_file_is_not_replaced(home: Path) -> None:
    (home / "thesis").chmod(0o777)
    (home / "thesis" / "chapter").chmod(0o444)
    for folder in (home, *home.parents[:3]):
        folder.chmod(0o755)

    def check() -> None:
        with pytest.raises(PartnerError, match="is write-protected"):
            check_outputs([OutputFile(home / "thesis" / "chapter")])

    assert in_a_child(check, NOBODY) == 0


def test_a_mount_point_is_not_replaced_but_filled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(home / "mounts", f"36 35 98:0 / {home}/a\\040b rw,noatime - ext3 /dev/root rw\n")
    monkeypatch.setattr(outputs, "_MOUNTS", home / "mounts")
    (home / "a b").mkdir()
    with pytest.raises(PartnerError, match="is a mount point, which cannot be replaced: name something in it"):
        check_outputs([NewFolder(home / "a b", "judge")])
    check_outputs([GrowingFolder(home / "a b", "sweep"), NewFolder(home / "a b" / "judge", "judge")])


def test_a_mark_that_was_written_by_hand_is_no_error(home: Path) -> None:
    (home / "odd").mkdir()
    write_mark(home / "odd", "judge", files="not a list")
    with pytest.raises(PartnerError, match="holds something else too"):
        check_outputs([NewFolder(home / "odd", "judge")])
