"""Fetching the public data set, from a server on this machine."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import launch.commands.data.app
from partner_rl.data.epitome import EPITOME_COLUMNS, EPITOME_FILES
from partner_rl.data.pull import pull_epitome
from partner_rl.storage.artefact import MARK
from partner_rl.types import PartnerError


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "public" / "dataset"
    folder.mkdir(parents=True)
    for name in EPITOME_FILES:
        (folder / name).write_text(f"{','.join(EPITOME_COLUMNS)}\ns1,r1,A post,A reply,0,\n")
    return folder


@pytest.fixture
def url(dataset) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(dataset))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != MARK}


def test_fetches_all_three_files_with_progress(dataset, url, tmp_path):
    calls: list[tuple[int, int]] = []
    assert pull_epitome(tmp_path / "out", url=url, progress=lambda done, total: calls.append((done, total))) == 1
    assert contents(tmp_path / "out") == contents(dataset)
    assert calls[-1] == (1, 1)


def test_a_missing_file_leaves_nothing(dataset, url, tmp_path):
    (dataset / EPITOME_FILES[2]).unlink()
    with pytest.raises(PartnerError, match="answered 404"):
        pull_epitome(tmp_path / "out", url=url)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_data_leaves_the_old_ones(dataset, url, tmp_path):
    pull_epitome(tmp_path / "out", url=url)
    before = contents(tmp_path / "out")
    (dataset / EPITOME_FILES[1]).write_text("<html>Sign in to the network</html>\n")
    with pytest.raises(PartnerError, match="header lacks"):
        pull_epitome(tmp_path / "out", url=url)
    assert contents(tmp_path / "out") == before


def test_offline_is_one_clear_line(tmp_path):
    with pytest.raises(PartnerError, match="is this machine online"):
        pull_epitome(tmp_path / "out", url="http://127.0.0.1:9")


def test_command_copies_from_a_folder(dataset, tmp_path):
    arguments = ["pull", "epitome", "--output", str(tmp_path / "out"), "--source", str(dataset.parent)]
    result = CliRunner().invoke(launch.commands.data.app.app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 pairs" in result.output
    assert contents(tmp_path / "out") == contents(dataset)
    unknown = CliRunner().invoke(launch.commands.data.app.app, ["pull", "epitom", "--output", str(tmp_path)])
    assert "unknown data set" in str(unknown.exception)
