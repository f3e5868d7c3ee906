"""Fingerprints of what a training depends on: values, pairs, and the files of models and examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from partner_rl.types import Example, PartnerError

WHOLE_BYTES: Final = 256 * 2**20
"""Files up to this size are hashed whole, larger ones by their size and evenly spaced blocks."""

_BLOCK: Final = 2**20
_BLOCKS: Final = WHOLE_BYTES // _BLOCK
_DIGEST_BYTES: Final = 16
_READ: Final = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt", ".parquet"})
"""Endings of the files that loaders read; cards and reports beside them mean nothing to a training."""
_NOT_READ: Final = frozenset({"report.json", "warm_start.json", "partner_manifest.json"})
_WRITTEN_BY: Final = frozenset({"transformers_version", "_name_or_path"})
"""Keys of a model's configuration that say who wrote it where."""


def fingerprint_of(parts: Iterable[object]) -> str:
    """Identifies values by their `repr`, order included; records and sequences show where each ends."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()


def fingerprint_of_pairs(*parts: Sequence[Example]) -> str:
    """Identifies pairs as they were read: texts, ids, labels, order, and which part each is in."""
    return fingerprint_of(
        (
            part,
            pair.seeker_id,
            pair.response_id,
            pair.seeker_post,
            pair.response_post,
            [(label.level, label.rationales) for label in pair.labels or ()],
        )
        for part, pairs in enumerate(parts)
        for pair in pairs
    )


def fingerprint_of_files(path: Path) -> str:
    """Identifies a file, or the files of a folder that its loader reads, by name and content.

    Raises:
        PartnerError: There is nothing of that name, or it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    try:
        for file in [path] if path.is_file() else sorted(_read_files(path)):
            name = "" if file == path else file.relative_to(path).as_posix()
            digest.update(f"{name}\0{file.stat().st_size if file.suffix != '.json' else ''}\0".encode())
            for block in _content(file):
                digest.update(block)
    except OSError as error:
        raise PartnerError(f"{path} cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _read_files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(2, "there is no such file or folder", str(folder))
    for path in folder.rglob("*"):
        # What a pipeline keeps beside its results begins with an underscore.
        is_hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        if path.suffix in _READ and path.name not in _NOT_READ and not is_hidden and path.is_file():
            yield path


def _content(file: Path) -> Iterator[bytes]:
    """What is hashed of a file."""
    if file.name in ("config.json", "generation_config.json"):
        yield _without_writer(file.read_bytes())
        return
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= WHOLE_BYTES:
            while block := opened.read(_BLOCK):
                yield block
            return
        for number in range(_BLOCKS):
            opened.seek((size - _BLOCK) * number // (_BLOCKS - 1))
            yield opened.read(_BLOCK)


def _without_writer(content: bytes) -> bytes:
    try:
        values = json.loads(content)
    except ValueError:
        return content
    if not isinstance(values, dict):
        return content
    return json.dumps({key: values[key] for key in sorted(values.keys() - _WRITTEN_BY)}).encode()
