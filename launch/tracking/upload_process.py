"""The process that sends a run folder's W&B segments.

`python -m launch.tracking.upload_process --parent PID [--live S] [S…]`

It stands apart from `launch.tracking` because it is to start fast. It ends with the process that started it, so that a
killed run leaves nothing behind; W&B's own process ends with it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from typing import Final

COMMAND: Final = ("-m", "launch.tracking.upload_process")

_LOOK_S: Final = 0.5


def main(arguments: list[str]) -> None:
    """Sends finished segments, then one that is still growing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--live")
    parser.add_argument("finished", nargs="*")
    wanted = parser.parse_args(arguments)
    threading.Thread(target=_end_with, args=(wanted.parent,), daemon=True).start()
    from wandb.cli.cli import cli

    for options, segments in ((["--yes"], wanted.finished), (["--live"], [wanted.live] if wanted.live else [])):
        if segments:
            cli.main(args=["beta", "sync", "--no-skip-online", *options, *segments], standalone_mode=False)


def _end_with(parent: int) -> None:
    """Ends this process as soon as it has lost its parent, however that ended."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
