"""Everyday posts: what the topic classifier learns to leave out of a corpus."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from partner_rl.data.delimited import csv_records
from partner_rl.data.readers import DEFAULT_MAX_CHARACTERS
from partner_rl.data.records import Reject
from partner_rl.data.rows import BadRowError, checked_post
from partner_rl.progress import Progress, no_progress
from partner_rl.types import PartnerError

EVERYDAY_POSTS: Final = "everyday_posts.csv"
"""File of the shipped sample that holds everyday posts: columns `id`, `kind`, `text`."""

HARD_PREFIX: Final = "hard:"
"""Kinds that begin like this hold words of distress used lightly, everyday trouble, or a wish for advice."""


@dataclass(frozen=True, slots=True)
class EverydayPost:
    """A post that is not about mental health.

    Attributes:
        kind: What it is about, such as `food`; empty where the file does not say.
    """

    text: str
    kind: str = ""

    @property
    def is_hard(self) -> bool:
        """Whether it was written to be mistaken for a post about mental health."""
        return self.kind.startswith(HARD_PREFIX)


def read_everyday_posts(path: Path | None = None, progress: Progress = no_progress) -> tuple[EverydayPost, ...]:
    """Read a CSV file of everyday posts.

    Args:
        path: A file with the column `text` and, if it likes, `kind`; None for the posts that ship with the package.
        progress: Called with (done, total) bytes.

    Raises:
        PartnerError: The file cannot be read, lacks the column, or has a row that cannot be used.
    """
    file: Traversable = importlib.resources.files("partner_rl.data").joinpath("sample", EVERYDAY_POSTS)
    if path is not None:
        file = path

    def read_header(found: Sequence[str]) -> list[str]:
        names = [name.strip().lower() for name in found]
        if names.count("text") != 1:
            raise PartnerError(f"{file.name}: the header must name one column text, and names {names.count('text')}")
        return names

    posts = []
    for row in csv_records(file, read_header, progress):
        if isinstance(row, Reject):
            raise PartnerError(f"{file.name} line {row.line}: {row.reason}; mend the row or delete it")
        try:
            text = checked_post(row.values, "text", DEFAULT_MAX_CHARACTERS)
        except BadRowError as error:
            raise PartnerError(f"{file.name} line {row.line}: {error}; mend the row or delete it") from error
        posts.append(EverydayPost(text, str(row.values.get("kind", ""))))
    if not posts:
        raise PartnerError(f"{file.name} holds no posts: give a CSV file with one post a row in the column text")
    return tuple(posts)
