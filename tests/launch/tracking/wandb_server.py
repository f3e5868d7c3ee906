"""A real W&B-compatible server (`openwandb`) on this machine, to be killed and started again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

API_KEY = "local" + "0" * 40
START_TIMEOUT_S = 240.0
ANSWER_S = 120.0


class WandbServer:
    """The server; its data outlives its process.

    Args:
        folder: Where it keeps its data and its log.
        port: Where it answers, one that nobody else takes while the server is gone.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = folder / "data"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, __file__, str(self.port), str(self.data)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
        except OSError:
            return False
        return True

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._process is not None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs, with short waits between attempts: a test cannot wait a minute for the next one.

        The attempts are many instead: of twenty in as many seconds, a server that starts slowly would see none.
        """
        kinds = ("FILE_STREAM", "FILE_TRANSFER", "GRAPHQL")
        waits = {f"WANDB__{kind}_RETRY_WAIT_MAX_SECONDS": "1" for kind in kinds}
        attempts = {f"WANDB__{kind}_RETRY_MAX": "1000" for kind in kinds}
        transmit = {"WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1"}
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY, **waits, **attempts, **transmit}

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=ANSWER_S) as answer:
            return json.loads(answer.read())

    def run(self, identifier: str) -> dict[str, Any]:
        """The run with its configuration, summary, tags and notes."""
        return self.get(f"/api/v2/runs/{identifier}")["run"]

    def history(self, identifier: str) -> dict[str, list[float]]:
        """Metric → logged values; those of a part that was sent twice are there twice."""
        metrics = self.get(f"/api/v2/runs/{identifier}/metrics")["metrics_by_key"]
        return {key: [row["value"] for row in rows] for key, rows in metrics.items()}

    def models(self, identifier: str) -> set[str]:
        """Names of the models of a run."""
        artifacts = self.get(f"/api/v2/runs/{identifier}/artifacts")["artifacts"]
        return {artifact["name"] for artifact in artifacts if artifact["artifact_type"] == "model"}

    def table_rows(self, identifier: str, key: str) -> list[list[Any]]:
        """The rows of all parts of a table."""
        parts = self.data.rglob(f"{identifier}/media/table/{key}_*.table.json")
        return [row for part in parts for row in json.loads(part.read_text())["data"]]

    def holds(self, content: bytes) -> bool:
        """Whether a file of the server, its database included, has these bytes."""
        return any(content in content_of(path) for path in self.data.rglob("*") if path.is_file())


def content_of(path: Path) -> bytes:
    """A file's content; nothing if whoever writes there has removed it just now, as a database does its journal."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def main(port: str, data: str) -> None:
    """Runs the server."""
    os.environ |= {"OPENWANDB_DATA_DIR": data, "OPENWANDB_HOST": "127.0.0.1", "OPENWANDB_PORT": port}
    import uvicorn

    uvicorn.run("openwandb.server:app", host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
