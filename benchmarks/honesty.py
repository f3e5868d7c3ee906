"""How often the rules about a writer's own life are right: precision and recall on sentences labelled by hand.

`benchmarks/honesty.csv` holds the sentences. Half of each form is held out: its errors are counted and not printed.
Whoever changes a rule because of a held-out sentence moves it to the other half and writes a new one in its place.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from scipy.stats import binomtest

from benchmarks.command import aligned_table, run_command
from envs.text import split
from partner_rl.data.readers import read_examples
from partner_rl.text.self_disclosure import speaks_of_itself

SENTENCES: Final = Path(__file__).with_name("honesty.csv")

Part = Literal["development", "held-out"]
PARTS: Final[tuple[Part, ...]] = ("development", "held-out")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sentence and what a person found in it.

    Attributes:
        part: Whether rules may be made by it.
        claim: Whether it tells of its writer's own life.
        form: How it says so, or what else it does.
        sentence: The sentence.
    """

    part: Part
    claim: bool
    form: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Share:
    """A share of some cases.

    Attributes:
        hits: Those counted.
        cases: All of them.
    """

    hits: int
    cases: int

    @property
    def value(self) -> float:
        """The share; not a number of no cases."""
        return self.hits / self.cases if self.cases else float("nan")

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; everything of no cases."""
        if not self.cases:
            return 0.0, 1.0
        found = binomtest(self.hits, self.cases).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.1%} ({low:.1%} to {high:.1%}; {self.hits} of {self.cases})"


def read_labelled(path: Path = SENTENCES) -> list[Labelled]:
    """The labelled sentences of a file whose comment lines start with `#`."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [
            Labelled("held-out" if row["part"] == "held-out" else "development", row["claim"] == "1", row["form"], text)
            for row in rows
            if (text := row["sentence"])
        ]


def precision(labelled: Sequence[Labelled]) -> Share:
    """Share of the sentences that the rules find which are claims."""
    found = [it.claim for it in labelled if speaks_of_itself(it.sentence)]
    return Share(sum(found), len(found))


def recall(labelled: Sequence[Labelled]) -> Share:
    """Share of the claims that the rules find."""
    found = [speaks_of_itself(it.sentence) for it in labelled if it.claim]
    return Share(sum(found), len(found))


def false_alarms(labelled: Sequence[Labelled]) -> Share:
    """Share of the other sentences that the rules find."""
    found = [speaks_of_itself(it.sentence) for it in labelled if not it.claim]
    return Share(sum(found), len(found))


def in_responses(source: str) -> tuple[Share, Share]:
    """Shares of the sentences, and of the responses, of a corpus that the rules find.

    Raises:
        PartnerError: There is no such corpus.
    """
    texts = {example.response_post for example in read_examples(source).examples}
    found = [[speaks_of_itself(sentence) for sentence in split(text).sentences] for text in sorted(texts)]
    flat = list(chain.from_iterable(found))
    return Share(sum(flat), len(flat)), Share(sum(map(any, found)), len(found))


def main(
    responses: Annotated[str, typer.Option(help="A corpus, to count in its responses as well.")] = "",
    errors: Annotated[bool, typer.Option("--errors", help="Print the development half's mistakes.")] = False,
) -> None:
    """Precision and recall of the rules about a writer's own life, with Wilson's 95 % intervals."""
    labelled = read_labelled()
    parts = {part: [it for it in labelled if it.part == part] for part in PARTS}
    columns = ("half", "sentences", "precision", "recall", "false alarms")
    rows = [
        (part, str(len(chosen)), str(precision(chosen)), str(recall(chosen)), str(false_alarms(chosen)))
        for part, chosen in parts.items()
    ]
    print(aligned_table(columns, rows))
    print(aligned_table(("claims by form", *PARTS), _by_form(parts["development"], parts["held-out"])))
    if errors:
        wrong = [it for it in parts["development"] if speaks_of_itself(it.sentence) != it.claim]
        print("\n".join(f"{'missed' if it.claim else 'found'}: {it.sentence}" for it in wrong))
    if responses:
        sentences, texts = in_responses(responses)
        print(f"{responses}: {sentences} of the sentences, {texts} of the responses")


def _by_form(development: Sequence[Labelled], held_out: Sequence[Labelled]) -> list[tuple[str, str, str]]:
    """A row of recall for each form of claim."""
    forms = dict.fromkeys(it.form for it in development if it.claim)
    return [
        (form, *(str(recall([it for it in half if it.form == form])) for half in (development, held_out)))
        for form in forms
    ]


if __name__ == "__main__":
    run_command(main, "python -m benchmarks.honesty")
