"""What a text of the configuration names on disk, and how it becomes an absolute path.

A field says by its type what it names. A configuration that is loaded holds absolute paths and names alone, so that a
process in another working directory, and a run that is resumed from one, finds the same files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from partner_rl.types import PartnerError

SAMPLE: Final = "sample"
"""Name of the corpus that ships with the package."""

MODEL_SCHEMES: Final = ("pypi:", "hf:", "random:")
"""How a model's name begins when it is no folder."""


class Kind(StrEnum):
    """What is named."""

    CORPUS = "corpus"
    EXAMPLES = "warm-start examples"
    BASE_POLICY = "language model to train"
    LANGUAGE_MODEL = "language model"
    ENCODER = "encoder"
    POLICY = "policy"
    EMPATHY = "empathy classifier"
    COHERENCE = "coherence classifier"
    JUDGE = "judge"
    SEQ2SEQ = "sequence-to-sequence model"
    TOPIC = "topic classifier"
    CACHE = "folder of converted models"
    RUNS = "folder of run folders"

    @property
    def is_input(self) -> bool:
        """Whether it must be there before a command starts, and is never made."""
        return self not in (Kind.CACHE, Kind.RUNS)

    @property
    def is_model(self) -> bool:
        """Whether it is a pretrained model, which may be named and fetched."""
        return self in (Kind.BASE_POLICY, Kind.LANGUAGE_MODEL, Kind.ENCODER)


@dataclass(frozen=True, slots=True)
class Names:
    """Marks a field whose text names something on disk."""

    kind: Kind


Corpus = Annotated[str, Names(Kind.CORPUS)]
"""`sample`, or a file or folder of pairs."""
Examples = Annotated[str, Names(Kind.EXAMPLES)]
"""A file or folder of warm-start examples."""
BasePolicyName = Annotated[str, Names(Kind.BASE_POLICY)]
"""The name (`pypi:NAME`, `hf:ORG/NAME`, `random:ARCHITECTURE`) or folder of the model that a policy is made from."""
LanguageModelName = Annotated[str, Names(Kind.LANGUAGE_MODEL)]
"""The name or folder of a causal language model."""
EncoderName = Annotated[str, Names(Kind.ENCODER)]
"""The name or folder of a text encoder."""
PolicyFolder = Annotated[str, Names(Kind.POLICY)]
"""The folder of a policy."""
EmpathyFolder = Annotated[str, Names(Kind.EMPATHY)]
"""The folder of a trained empathy classifier."""
CoherenceFolder = Annotated[str, Names(Kind.COHERENCE)]
"""The folder of a trained coherence classifier."""
JudgeFolder = Annotated[str, Names(Kind.JUDGE)]
"""The folder of a held-out judge."""
Seq2SeqFolder = Annotated[str, Names(Kind.SEQ2SEQ)]
"""The folder of a sequence-to-sequence model."""
CacheFolder = Annotated[str, Names(Kind.CACHE)]
"""A folder that models are put into."""
RunsFolder = Annotated[str, Names(Kind.RUNS)]
"""A folder that run folders are put into."""


def is_bare_name(kind: Kind, text: str) -> bool:
    """Whether the text is a name of ours and no path; `./sample` is a folder of that name."""
    if kind is Kind.CORPUS:
        return text == SAMPLE
    return kind.is_model and text.startswith(MODEL_SCHEMES)


def resolved(kind: Kind, text: str, seen_from: Path | None = None) -> str:
    """The name as it stands, or the path made absolute.

    A relative path starts from `seen_from`, or from the working directory.

    Raises:
        PartnerError: The text can be no path.
    """
    return text if is_bare_name(kind, text) else str(absolute_path(text, seen_from))


def absolute_path(text: str | Path, seen_from: Path | None = None) -> Path:
    """A path made absolute, with `~` expanded; links are left alone.

    A name such as `~draft.csv` is a file of that name, as in a shell, unless there is such a user.

    A relative path starts from `seen_from`, or from the working directory.

    Raises:
        PartnerError: The text is empty or can be no path, there is no home folder, or the working directory is gone.
    """
    expanded = expand_home(text)
    try:
        return (seen_from or Path.cwd()) / expanded
    except FileNotFoundError as error:
        raise PartnerError("the working directory is gone: change to one that is there") from error


def expand_home(text: str | Path) -> Path:
    """A path with `~` expanded, and otherwise as it stands.

    Raises:
        PartnerError: The text is empty or can be no path, or there is no home folder.
    """
    text = str(text)
    if not text or "\0" in text:
        raise PartnerError(f"{text!r} can be no path: name a file or folder")
    expanded = os.path.expanduser(text)
    if expanded == "~" or (expanded.startswith("~") and os.sep in expanded):
        raise PartnerError(f"{text}: there is no home folder {text.split(os.sep)[0]}; write the whole path")
    return Path(expanded)


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: names of files may hold bytes that are no text."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def short_name(name: str) -> str:
    """A corpus or model without the folders that it lies in, which mean nothing elsewhere."""
    return name if name.startswith(MODEL_SCHEMES) else Path(name).name
