import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from partner_rl.types import EditAction, Example, RewardBreakdown, ScoreRequest

REAL_DATA = Path(__file__).parents[3] / "shared" / "data" / "epitome" / "dataset" / "explorations-reddit.csv"

LONG_RESPONSE = " ".join(
    f"I have been through year {number} of this and it slowly got easier." for number in range(150)
)

RESPONSES = (
    "Have you seen a doctor?",
    "ok",
    "😀😀 😀",
    "",
    " \n\t ",
    "<p>You should rest.</p> <br>Then call someone &amp; talk.",
    "First thing.\n\nSecond thing. And a third one!\n\n- eat\n- sleep\n",
    "Line one.\r\nLine two.\r\n\r\nDr. Smith helped me. He was kind.  ",
    "Das tut mir leid. Wie geht es dir heute?",
    "你好。我也经历过这些。慢慢来。",
    "Get over it.Just move on.What else?",
    LONG_RESPONSE,
)


@dataclass
class SorryScorer:
    """Pays a point for each "sorry" that the rewritten response has more than the original; keeps what it was sent."""

    calls: list[Sequence[ScoreRequest]] = field(default_factory=list)

    def __call__(self, requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
        self.calls.append(requests)
        return [_breakdown(request) for request in requests]


def _breakdown(request: ScoreRequest) -> RewardBreakdown:
    gain = float(request.rewritten_response.count("sorry") - request.original_response.count("sorry"))
    return RewardBreakdown({"sorry": gain})


@pytest.fixture
def scorer() -> SorryScorer:
    return SorryScorer()


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return [
        Example(f"s{number}", f"r{number}", "I cannot sleep and nothing helps.", response)
        for number, response in enumerate(RESPONSES)
    ]


@pytest.fixture(scope="session")
def real_examples() -> list[Example]:
    """The public EPITOME pairs; for tests marked `real`."""
    if not REAL_DATA.exists():
        pytest.skip("the public EPITOME data does not lie beside the repository (../shared/data)")
    with REAL_DATA.open(newline="", encoding="utf-8") as file:
        return [
            Example(row["sp_id"], row["rp_id"], row["seeker_post"], row["response_post"])
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="session")
def random_action() -> Callable[[np.random.Generator, np.ndarray], EditAction]:
    """Draws a valid position and a candidate, which is sometimes empty or several sentences."""
    candidates = ("I am so sorry.", "That sounds hard. I am sorry!", "", "  \n ", "What happened\nthen?", "🫂")

    def draw(generator: np.random.Generator, mask: np.ndarray) -> EditAction:
        position = int(generator.choice(np.flatnonzero(mask)))
        return EditAction(position, candidates[generator.integers(len(candidates))])

    return draw
