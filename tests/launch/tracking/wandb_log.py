"""Reading the log that W&B keeps of a run: records in the format of LevelDB's logs."""

from __future__ import annotations

import struct
from pathlib import Path

from wandb.proto import wandb_internal_pb2

FILE_HEADER = 7
BLOCK = 32_768
WHOLE, LAST = 1, 4


def records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """What the log in a segment's folder says so far; nothing before W&B's own process has made the file."""
    path = next(folder.glob("*.wandb"), None)
    if path is None:
        return []
    data, place, part, found = path.read_bytes(), FILE_HEADER, b"", []
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + size > len(data):
            # It is being written.
            break
        part += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (WHOLE, LAST):
            found.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return found


def artifacts(folder: Path) -> list[tuple[str, list[str]]]:
    """Name and sorted aliases of each model, in the order in which they were logged."""
    logged = [record.artifact for record in records(folder) if record.HasField("artifact")]
    requests = [r.request.log_artifact.artifact for r in records(folder) if r.request.HasField("log_artifact")]
    return [(a.name, sorted(a.aliases)) for a in [*logged, *requests] if a.type == "model"]
