"""Rewards that can be computed by hand, invented pairs, and a made-up evaluation of three systems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from partner_rl.config.reward_schema import RewardSection
from partner_rl.config.schema import EnvConfig
from partner_rl.evaluation.evaluate_systems import originals
from partner_rl.evaluation.system import TEMPLATE, System
from partner_rl.evaluation.system_scores import Sources
from partner_rl.types import Example, MechanismLabel, ScoreRequest
from rewards.coherence import CoherenceReward
from rewards.empathy import EmpathyReward
from rewards.fluency import FluencyReward
from rewards.local import LocalRewards
from rewards.mutual_information import MutualInformationReward
from rewards.scorer import FloatArray, Item, RewardComponent, RewardDefinition, Scorer

SORRY = "I am so sorry to hear that."
TOPICS = ("sleep", "work", "school", "money", "friends", "home", "health", "love")


class CountingScorer:
    """Scores by words: enough for figures that can be checked by hand."""

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, items: Sequence[Item]) -> FloatArray:
        return np.array([self._row(item) for item in items], dtype=np.float32)

    def _row(self, item: Item) -> list[float]:
        text = item[0] if self.name == "fluency" else item[1]
        match self.name:
            case "empathy":
                return [min(2.0, text.count(word)) for word in ("sorry", "understand", "?")]
            case "fluency":
                return [1.0 / len(text.split()), 0.0, 0.5]
            case "coherence":
                return [float(item[0][0] == item[1][0])]
            case _:
                return [-1.0, -3.0]


class CountingBuilder:
    def __init__(self, name: str) -> None:
        self.name = name

    def build(self) -> Scorer:
        return CountingScorer(self.name)


class HarshJudge:
    """Half of what the classifier says."""

    def levels(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        return CountingScorer("empathy").score(pairs) / 2


def embed(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Word counts of the topics, and a constant, so that nothing is zero."""
    return np.array([[1.0, *(float(topic in text) for topic in TOPICS)] for text in texts])


DEFINITIONS: dict[str, RewardDefinition] = {
    definition.name: definition
    for definition in (EmpathyReward(), FluencyReward(), CoherenceReward(), MutualInformationReward(0.25))
}


def sources(judge: HarshJudge | None = None) -> Sources:
    components = {
        name: RewardComponent(d, CountingBuilder(name), RewardSection(weight=1.0)) for name, d in DEFINITIONS.items()
    }
    return Sources(LocalRewards(components), DEFINITIONS, embed, judge)


def made_up_pairs(count: int) -> list[Example]:
    """Invented pairs; every third is unlabelled, the others have a label of their number modulo 7."""
    return [_pair(number) for number in range(count)]


def _pair(number: int) -> Example:
    total = number % 7
    levels = (min(2, total), min(2, max(0, total - 2)), max(0, total - 4))
    first, second, third = (MechanismLabel(level) for level in levels)
    topic = TOPICS[number % len(TOPICS)]
    return Example(
        f"s{number}",
        f"r{number}",
        f"I have trouble with {topic}, day {number}.",
        f"Take it easy. Number {number} will pass, sorry.",
        None if number % 3 == 0 else (first, second, third),
    )


def with_sentence(example: Example, sentence: str) -> ScoreRequest:
    """A rewrite that puts a sentence before the response."""
    response = example.response_post
    own = tuple(f"{part.strip('.')}." for part in response.split(". "))
    return ScoreRequest(example.seeker_post, response, f"{sentence} {response}", (sentence,), own)


def made_up_systems(examples: Sequence[Example]) -> list[System]:
    """The originals, a template that says one thing to all, and a policy that is specific and asks."""
    asked = [f"Does {TOPICS[row % len(TOPICS)]} worry you on day {row}? I understand." for row in range(len(examples))]
    return [
        originals(examples, EnvConfig(window=2)),
        System(TEMPLATE, [with_sentence(example, SORRY) for example in examples], "one sentence for all"),
        System("rl", [with_sentence(e, text) for e, text in zip(examples, asked, strict=True)], "the policy"),
    ]
