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
START_TIMEOUT_S = 60.0


class WandbServer:
    """The server; its data outlives its process.

    Args:
        folder: Where it keeps its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
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
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs, with short waits between attempts: a test cannot wait a minute for the next one."""
        waits = {f"WANDB__{kind}_RETRY_WAIT_MAX_SECONDS": "1" for kind in ("FILE_STREAM", "FILE_TRANSFER", "GRAPHQL")}
        transmit = {"WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1"}
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY, **waits, **transmit}

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
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
        return any(content in path.read_bytes() for path in self.data.rglob("*") if path.is_file())


def main(port: str, data: str) -> None:
    """Runs the server."""
    os.environ |= {"OPENWANDB_DATA_DIR": data, "OPENWANDB_HOST": "127.0.0.1", "OPENWANDB_PORT": port}
    import uvicorn

    uvicorn.run("openwandb.server:app", host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
