"""What an empathy classifier pays for the wording: set phrases, their paraphrases, and set phrases that make no sense.

How to run:
    partner-rl rewards train empathy --data sample --output models/empathy reward_training.empathy_members=3
    python -m benchmarks.set_phrases --model models/empathy

`set_phrases.csv` has 100 posts, written for this benchmark, each with a neutral response and two items: a set phrase
of empathy beside a sentence that says the same in other words, and a set phrase that makes no sense here. Each sentence
is put before the neutral response; what it is paid is the level that this adds, summed over the mechanisms, as the
reward counts it. The faults of the senseless ones: the `topic` is another trouble; the `move` does not fit, such as
condolence for good news or a question that the post has answered; a `contradiction` of what the post says; spoken to
`nobody` who is there.

The classifier's two halves are told apart by giving each one text and the other half the other: the part of a half is
what its own change of text adds to the level, the mean over both texts of the other half (Shapley's value of two
players), so that the parts add up to what the whole pays. With an ensemble, the mean and the lower bound of its members
stand beside. Brackets are 95 % bootstrap intervals, posts resampled.

Results to expect, of a classifier that was trained on the sample corpus: a paraphrase is paid seven tenths of its set
phrase; senseless set phrases are paid no less than sensible ones, and the lower bound changes that little.

Shapes: `_N` post, `_M` mechanism, `_L` level, `_C` column of the table.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor

from benchmarks.command import aligned_table, run_command, where
from launch.console import out
from partner_rl.types import MECHANISMS, NUM_LEVELS, PartnerError
from rewards.empathy_ensemble import EmpathyEnsemble, lower_bound
from rewards.empathy_model import EmpathyClassifier
from rewards.training.intervals import bootstrap_interval

NAME: Final = "python -m benchmarks.set_phrases"
ITEMS: Final = Path(__file__).with_suffix(".csv")
FAULTS: Final = ("topic", "move", "contradiction", "nobody")
SENTENCES: Final = ("phrase", "paraphrase", "senseless")
RESAMPLES: Final = 2000

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the file.

    Attributes:
        id: Its name.
        mechanism: What phrase and paraphrase express, one of `MECHANISMS`.
        post: A seeker's post.
        response: A neutral response.
        phrase: A set phrase of empathy that fits.
        paraphrase: The same in other words.
        senseless: A set phrase that does not fit.
        fault: Why it does not, one of `FAULTS`.
    """

    id: str
    mechanism: str
    post: str
    response: str
    phrase: str
    paraphrase: str
    senseless: str
    fault: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean, share or ratio with its 95 % interval; NaN where a ratio divides by nothing."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a figure for each column."""

    name: str
    figures: Mapping[str, Figure]


def read_items(path: Path) -> list[Item]:
    """The items of a file.

    Raises:
        PartnerError: It cannot be read, lacks a column or a value, or names a mechanism or fault that there is not.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        items = [Item(**{name: row[name].strip() for name in Item.__slots__}) for row in rows]
    except (OSError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise PartnerError(
            f"--items {path} cannot be read ({type(error).__name__}): give a CSV file with the columns "
            f"{', '.join(Item.__slots__)}"
        ) from error
    for number, item in enumerate(items, start=1):
        if item.mechanism not in MECHANISMS or item.fault not in FAULTS or not all(asdict(item).values()):
            raise PartnerError(
                f"--items {path}, row {number}: every column needs a value, mechanism one of {', '.join(MECHANISMS)}, "
                f"fault one of {', '.join(FAULTS)}"
            )
    if not items:
        raise PartnerError(f"--items {path} holds no rows")
    return items


@dataclass(frozen=True, slots=True)
class Terms:
    """The two terms that a classifier's mixed logits are the sum of, each `[N, M, L]`."""

    encoders_NML: Tensor
    ngrams_NML: Tensor


def terms_of(classifier: EmpathyClassifier, pairs: Sequence[tuple[str, str]]) -> Terms:
    """What encoders and n-grams add to the levels' logits."""
    logits_NML = classifier.level_logits(pairs)
    share = float(classifier.model.config.ngram_weight)
    ngrams_NML = share * classifier.model.ngrams([response for _, response in pairs]).cpu()
    return Terms(logits_NML - ngrams_NML, ngrams_NML)


def parts(level: Callable[[Tensor, Tensor], FloatArray], new: Terms, old: Terms) -> tuple[FloatArray, FloatArray]:
    """What the encoders and what the n-grams add to the level from the old text to the new one, each `[N]`.

    Args:
        level: Level `[N]` of an encoders' and an n-grams' term.
        new: Terms of the new text.
        old: Terms of the old text.
    """
    both, neither = level(new.encoders_NML, new.ngrams_NML), level(old.encoders_NML, old.ngrams_NML)
    encoders, ngrams = level(new.encoders_NML, old.ngrams_NML), level(old.encoders_NML, new.ngrams_NML)
    return (both - ngrams + encoders - neither) / 2, (both - encoders + ngrams - neither) / 2


def payments(ensemble: EmpathyEnsemble, items: Sequence[Item], deviations: float) -> dict[str, dict[str, FloatArray]]:
    """Sentence → column → what each post's sentence is paid, `[N]`."""
    classifier = ensemble.members[0]

    def level(encoders_NML: Tensor, ngrams_NML: Tensor) -> FloatArray:
        probabilities_NML = classifier.model.calibrated(encoders_NML + ngrams_NML)
        levels_NM = probabilities_NML @ torch.arange(NUM_LEVELS, dtype=torch.float32)
        return levels_NM.sum(-1).double().numpy()

    plain = [(item.post, item.response) for item in items]
    plain_terms, plain_levels_ENM = terms_of(classifier, plain), ensemble.expected_levels(plain)
    paid: dict[str, dict[str, FloatArray]] = {}
    for name in SENTENCES:
        pairs = [(item.post, f"{getattr(item, name)} {item.response}") for item in items]
        encoders, ngrams = parts(level, terms_of(classifier, pairs), plain_terms)
        paid[name] = {"encoders": encoders, "n-grams": ngrams, "expected": encoders + ngrams}
        if len(ensemble.members) > 1:
            levels_ENM = ensemble.expected_levels(pairs)
            for column, taken in (("mean of members", 0.0), ("conservative", deviations)):
                gain_NM = lower_bound(levels_ENM, taken) - lower_bound(plain_levels_ENM, taken)
                paid[name][column] = gain_NM.sum(-1).double().numpy()
    return paid


def table_rows(paid: Mapping[str, Mapping[str, FloatArray]], faults: Sequence[str], seed: int) -> list[Row]:
    """The lines of the table.

    Args:
        paid: As `payments` gives it.
        faults: Of each post's senseless phrase.
        seed: Seed of the intervals.
    """
    posts = np.arange(len(faults))

    def row(name: str, statistic: Callable[[str, npt.NDArray[np.int64]], float], of: FloatArray = posts) -> Row:
        figures = {}
        for column in paid["phrase"]:
            low, high = bootstrap_interval(
                lambda chosen, column=column: statistic(column, of[chosen]), np.arange(len(of)), seed, RESAMPLES
            )
            figures[column] = Figure(statistic(column, of), low, high)
        return Row(name, figures)

    def mean(sentence: str) -> Callable[[str, npt.NDArray[np.int64]], float]:
        return lambda column, chosen: float(paid[sentence][column][chosen].mean())

    def ratio(below: str) -> Callable[[str, npt.NDArray[np.int64]], float]:
        above, under = mean("senseless"), mean(below)
        # A half without a share in the logits pays nothing for anything.
        return lambda column, chosen: above(column, chosen) / (under(column, chosen) or float("nan"))

    def wins(column: str, chosen: npt.NDArray[np.int64]) -> float:
        return float((paid["paraphrase"][column][chosen] > paid["senseless"][column][chosen]).mean())

    phrase, paraphrase, senseless = (mean(sentence) for sentence in SENTENCES)
    kinds = {fault: np.flatnonzero([fault == other for other in faults]) for fault in FAULTS}
    return [
        row("set phrase", phrase),
        row("its paraphrase", paraphrase),
        row("set phrase less paraphrase", lambda c, chosen: phrase(c, chosen) - paraphrase(c, chosen)),
        row("senseless set phrase", senseless),
        *(row(f"– {fault}", senseless, of) for fault, of in kinds.items() if len(of)),
        row("senseless ÷ set phrase", ratio("phrase")),
        row("senseless ÷ paraphrase", ratio("paraphrase")),
        row("paraphrase is paid more than the senseless one", wins),
    ]


def table(rows: Sequence[Row]) -> str:
    """The lines in Markdown."""
    columns = list(rows[0].figures)
    cells = [[row.name, *(_cell(row.figures[column]) for column in columns)] for row in rows]
    return aligned_table(["paid for", *columns], cells)


def _cell(figure: Figure) -> str:
    if np.isnan(figure.value):
        return "–"
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def _numbers(figure: Figure) -> dict[str, float] | None:
    """The figure for a JSON file, which knows no NaN."""
    return None if np.isnan(figure.value) else asdict(figure)


def command(
    model: Annotated[Path, typer.Option(help="Folder of a trained empathy classifier, with or without members.")],
    items: Annotated[Path, typer.Option(help="The items.")] = ITEMS,
    deviations: Annotated[float, typer.Option(min=0.0, help="As rewards.empathy.deviations.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure what an empathy classifier pays for set phrases, for their paraphrases, and for senseless set phrases."""
    read = read_items(items)
    ensemble = EmpathyEnsemble.load(model)
    paid = payments(ensemble, read, deviations)
    rows = table_rows(paid, [item.fault for item in read], seed)
    out.print(table(rows), markup=False, soft_wrap=True)
    if json_file is not None:
        report: dict[str, Any] = {
            "posts": len(read),
            "members": len(ensemble.members),
            "deviations": deviations,
            "seed": seed,
            "rows": [
                {"name": row.name, "figures": {c: _numbers(figure) for c, figure in row.figures.items()}}
                for row in rows
            ],
            **where(),
        }
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(command, NAME)
