"""What a model folder holds, so that a stage's output can say which model made it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from partner_rl.types import PartnerError


def folder_digest(folder: Path) -> str:
    """Hash of the names and contents of a folder's files; subfolders and its model card (*.md) are left out.

    Paths and times do not count: a copy of a model is the same model.

    Raises:
        PartnerError: There is no such folder, or it holds no weights.
    """
    if not folder.is_dir():
        raise PartnerError(f"no model folder {folder}: name a folder that `partner-rl rewards train empathy` wrote")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and path.suffix != ".md")
    if not any(path.suffix == ".safetensors" for path in files):
        raise PartnerError(
            f"{folder} holds no weights (*.safetensors): name a folder with a trained empathy classifier"
        )
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
