"""The folder of installed models: all or nothing, one process at a time.

A model is built in a temporary folder beside its final place (`storage.atomic`) and described by a manifest that is
written last. So a folder with a valid manifest is complete, whatever was killed and when; anything else is
rebuilt. A file lock per model lets several processes ask for the same model at once: one builds, the others wait.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from partner_rl.config.paths import absolute_path
from partner_rl.storage.atomic import WriteError, folder_when_whole, write_json
from partner_rl.storage.file_names import is_path_inside
from partner_rl.types import PartnerError

logger = logging.getLogger(__name__)

MANIFEST_NAME: Final = "partner_manifest.json"
"""The file that marks a folder as complete."""

CACHE_VARIABLE: Final = "PARTNER_RL_CACHE"
"""Environment variable that names the cache folder."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of an installed model."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an installed model folder consists of.

    Attributes:
        source: What the folder was made from, with its version; another source makes the folder out of date.
    """

    source: str
    files: Mapping[str, StoredFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def cache_folder(cache_dir: Path | None) -> Path:
    """The cache folder: the argument, else `$PARTNER_RL_CACHE`, else `~/.cache/partner-rl`."""
    if cache_dir is not None:
        return absolute_path(cache_dir)
    return absolute_path(os.environ.get(CACHE_VARIABLE) or "~/.cache/partner-rl")


def sha256_of(stream: BufferedReader) -> str:
    """Hexadecimal SHA-256 of what is left to read of a binary stream."""
    return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an installed folder, or None where there is none that can be read."""
    try:
        content = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        files = {name: StoredFile(int(file["size"]), str(file["sha256"])) for name, file in content["files"].items()}
        if not all(is_path_inside(name) for name in files):
            raise ValueError("it names files of other folders")
        return Manifest(source=str(content["source"]), files=files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.debug("no usable manifest in %s: %s", folder, error)
        return None


def find_damage(folder: Path, source: str) -> str | None:
    """Why an installed folder cannot be used, by cheap facts (manifest, source, sizes), or None if it can."""
    manifest = read_manifest(folder)
    if manifest is None:
        return "no manifest"
    if manifest.source != source:
        return f"made from {manifest.source}, wanted {source}"
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file.size:
            return f"{name} is missing or has another size"
    return None


def find_corruption(folder: Path, source: str) -> str | None:
    """Like `find_damage`, but reads every file and compares its checksum."""
    damage = find_damage(folder, source)
    manifest = read_manifest(folder)
    if damage is not None or manifest is None:
        return damage or "no manifest"
    for name, file in manifest.files.items():
        with (folder / name).open("rb") as stream:
            if sha256_of(stream) != file.sha256:
                return f"checksum of {name} differs"
    return None


def install(folder: Path, source: str, build: Callable[[Path], None]) -> Path:
    """Make sure that `folder` holds a complete model, building it when it does not.

    `build` fills the empty folder that it is given; it runs at most once, under the model's lock.

    Returns:
        `folder`.

    Raises:
        PartnerError: The cache folder cannot be written; whatever `build` raises passes through.
    """
    if find_damage(folder, source) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            damage = find_damage(folder, source)
            if damage is not None:
                _rebuild(folder, source, build, damage)
    except (OSError, WriteError) as error:
        reason = os.strerror(error.errno or 0)
        raise PartnerError(
            f"cannot write model cache {folder.parent}: {reason}; set ${CACHE_VARIABLE} to a folder with room"
        ) from error
    return folder


def _rebuild(folder: Path, source: str, build: Callable[[Path], None], damage: str) -> None:
    if folder.exists():
        logger.warning("rebuilding model folder %s: %s", folder, damage)
    with folder_when_whole(folder) as temporary:
        build(temporary)
        _write_manifest(temporary, source)


def _write_manifest(folder: Path, source: str) -> None:
    files: dict[str, StoredFile] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        # Of whatever library; a cache may be shared.
        path.chmod(0o644)
        with path.open("rb") as stream:
            files[path.relative_to(folder).as_posix()] = StoredFile(path.stat().st_size, sha256_of(stream))
    content = {"source": source, "files": {name: asdict(file) for name, file in files.items()}}
    write_json(folder / MANIFEST_NAME, content, indent=1)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is preparing %s; waiting for it", folder.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
