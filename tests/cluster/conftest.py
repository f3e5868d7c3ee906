import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import LocalCluster, local_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head, and a node each for learners, env runners and rewards."""
    # Not pytest's folder: the names of Ray's sockets in it must be short.
    folder = Path(tempfile.mkdtemp(prefix="prl"))
    try:
        with local_cluster(folder) as running:
            running.start_nodes(["learner", "runner", "reward"])
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)
