"""Ray, started on this machine so that nobody else can use it, or joined; neither changes how this process behaves.

Left to itself, `ray.init` replaces this process's handler of SIGTERM, puts the working directory first on its workers'
search path, leaves its processes in the terminal's group, where a lost connection or `kill` ends them before a run is
saved, and takes the path of its sockets from `TMPDIR`, however long that is.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil
import ray
from ray._private import ray_constants, services
from ray.exceptions import AuthenticationError
from ray.job_config import JobConfig

from partner_rl.storage.full_disk import can_be_written
from partner_rl.types import PartnerError, first_line

_ANSWER_S: Final = 5.0
_SHOWN: Final = 300
_QUIET: Final = {
    "RAY_DEDUP_LOGS": "1",
    # RLlib's own advice about deprecated keys is not for our users.
    "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_OWNER_ENTERS: Final = 0o700
_OWN_TOKEN: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_BYTES: Final = 32
_SYSTEM_FOLDERS: Final = ("/tmp", "/var/tmp", "/dev/shm")
_SOCKET_BYTES: Final = 107
"""Longest path of a socket on Linux."""
_IN_SESSION: Final = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest that Ray appends to its folder."""
_ROOT: Final = Path(__file__).resolve().parents[2]
_INSTALLED: Final = ("site-packages", "dist-packages")


@contextmanager
def connected(address: str | None, *, shows_workers: bool = True, **sizes: Any) -> Iterator[None]:
    """This process in a Ray cluster, or in a Ray that is started for it, for the time of a block.

    A process that is in one already stays there, and stays connected.

    Args:
        address: `auto`, or HOST:PORT of a cluster; None starts a Ray on this machine.
        shows_workers: Whether what the workers of a cluster print is shown here.
        sizes: What the Ray that is started has, as in `ray.init`: `num_cpus`, `object_store_memory` …

    Raises:
        PartnerError: The cluster cannot be joined, or Ray cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address is None:
            start_ray(**sizes)
        else:
            join_ray(address, log_to_driver=shows_workers)
    except PartnerError:
        raise
    # Where a node does not come up in time, Ray raises a bare Exception.
    except Exception as error:
        raise PartnerError(f"Ray cannot be started on this machine: {first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def start_ray(**options: Any) -> None:
    """Starts a Ray on this machine; `options` as of `ray.init`.

    Raises:
        PartnerError: There is no folder for its session.
        Exception: Ray does not come up in time.
    """
    folder = session_folder()
    with _gone_unless_whole(), on_loopback(), _own_sigterm(), _in_own_session():
        ray.init(
            # Without it Ray would rather join whatever cluster RAY_ADDRESS names or runs on this machine.
            address="local",
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            job_config=_job(),
            _temp_dir=str(folder),
            **options,
        )


def join_ray(address: str, **options: Any) -> None:
    """Joins a cluster; `options` as of `ray.init`.

    Raises:
        PartnerError: There is no cluster at the address, or it turns this process away.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        # Ray itself would try for a minute.
        try:
            socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
        except OSError as error:
            reason = error.strerror or error
            raise PartnerError(f"no Ray cluster answers at {address} (resources.address): {reason}") from error
    try:
        with _gone_unless_whole(), _own_sigterm():
            ray.init(address=address, logging_level=logging.ERROR, job_config=_job(), **options)
    except AuthenticationError as error:
        raise PartnerError(
            f"the Ray cluster at {address} turns this process away: set RAY_AUTH_MODE=token, and put its token "
            "into ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        # Of versions that differ, Ray tells in several lines.
        reason = " ".join(str(error).split())[:_SHOWN]
        raise PartnerError(f"Ray cannot be joined at {address} (resources.address): {reason}") from error


@contextmanager
def _gone_unless_whole() -> Iterator[None]:
    """A start that fails or is interrupted in the block leaves no process and no connection."""
    before = set(_descendants())
    try:
        yield
    except BaseException:
        started = set(_descendants()) - before
        ray.shutdown()
        for process in started:
            # Some end with their parent only when they next look for it.
            with suppress(psutil.NoSuchProcess):
                process.kill()
        raise


def _descendants() -> list[psutil.Process]:
    return list(psutil.Process().children(recursive=True))


def make_token() -> None:
    """Makes the token of this user's Rays where there is none: a file that only its owner may read.

    Ray itself would make one that everybody may read, and two Rays that are started at once would make two, of which
    some of their processes hold the one and some the other. Where the home cannot be written, this process and those
    that it starts have a token of their own in their environment, which only their owner may read either.
    """
    if any(map(os.environ.get, _OWN_TOKEN)) or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    home = os.environ.get("HOME")
    try:
        if not home:
            raise FileNotFoundError("there is no HOME, by which Ray finds the file")
        _write_token(Path(home) / ".ray" / "auth_token")
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(_BYTES)


def _write_token(path: Path) -> None:
    if path.exists():
        path.read_bytes()
        return
    path.parent.mkdir(mode=_OWNER_ENTERS, parents=True, exist_ok=True)
    # Only its owner may read what mkstemp makes.
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_BYTES))
    # The first one stays.
    with suppress(FileExistsError):
        os.link(name, path)
    os.unlink(name)


def session_folder() -> Path:
    """The folder of Ray's sessions: Ray's own choice, or another where that cannot be written or its path is too long.

    Raises:
        PartnerError: There is none.
    """
    wished = (os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR"))
    places = [*filter(None, wished), *_SYSTEM_FOLDERS]
    longest = _SOCKET_BYTES - len(_IN_SESSION)
    for place in places:
        for name in ("ray", f"ray-{os.getuid()}"):
            folder = Path(place).absolute() / name
            # A place that is named and absent is a mistake, and not made.
            is_short = len(os.fsencode(folder)) <= longest
            if is_short and folder.parent.is_dir() and can_be_written(folder):
                return folder
    raise PartnerError(
        f"Ray has no folder for its session: {', '.join(places)} cannot be written, or have paths of more than "
        f"{longest - len('/ray')} bytes; set RAY_TMPDIR to a folder of yours with a shorter path"
    )


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started in the block listens on 127.0.0.1 and nowhere else.

    On Linux `ray.init` gives a node the machine's address on its network, so that other nodes could join, and listens
    on every interface; asked for 127.0.0.1, it takes that address all the same. Its own switch for systems on which
    no node can join does what is wanted here. Ray reads it when it is imported, so it is set for the processes that
    Ray starts and in the module that this process has imported.

    Other users of the machine need the token (`make_token`).
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = os.environ.get(name)
    make_token()
    os.environ[name] = "0"
    try:
        with _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def own_handlers() -> Iterator[None]:
    """Nothing in the block sets a signal handler: those of this process stay."""
    with _replaced(signal, "signal", lambda number, handler: signal.getsignal(number)):
        yield


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray may be started in the block; a SIGTERM waits for the block's end and finds this process's own handler.

    Ray's core sets a native one, which dumps the stack and aborts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with own_handlers():
            yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _in_own_session() -> Iterator[None]:
    """Processes that Ray starts in the block are no part of this one's group, and hear of SIGTERM."""

    def start(command: list[str], *, preexec_fn: Callable[[], None], **options: Any) -> subprocess.Popen[bytes]:
        def prepare() -> None:
            preexec_fn()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

        return subprocess.Popen(command, preexec_fn=prepare, start_new_session=True, **options)

    with _replaced(services, "ConsolePopen", start):
        yield


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Another value of an attribute, for the time of a block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class _Job(JobConfig):
    """A job whose workers do not look into the driver's working directory first."""

    def _runtime_env_has_working_dir(self) -> bool:
        """Ray's question for whether the driver's folders are none of the workers' business."""
        return True


def _job() -> JobConfig:
    """The job's configuration: workers find our packages where the driver does, unless they are installed."""
    return _Job(_py_driver_sys_path=[] if _ROOT.name in _INSTALLED else [str(_ROOT)])
