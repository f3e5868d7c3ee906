"""Raw reward scores of rewritten responses for evaluation: all components, whatever they weigh in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Protocol

from envs import text
from partner_rl.types import Example, RewardBreakdown, ScoreRequest
from rewards.coherence import NAME as COHERENCE
from rewards.coherence import mean_probability, whole_response_items
from rewards.scorer import ComponentScore, FloatArray, Item, RewardDefinition


class RewardSource(Protocol):
    """What evaluation needs of the rewards: `rewards.pool.RewardClient` and `rewards.local.LocalRewards` have it."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
        """The reward of each request, from the components that have a weight."""
        ...

    def score_items(self, component: str, items: Sequence[Item]) -> FloatArray:
        """One component's scores of any items, shape `[n_items, width]`."""
        ...


def component_scores(
    client: RewardSource, definitions: Sequence[RewardDefinition], requests: Sequence[ScoreRequest]
) -> dict[str, list[ComponentScore]]:
    """Component → score of each request.

    Components with a weight come from one call, which runs them in parallel; the others are asked one after the other.

    Raises:
        PartnerError: A component fails.
    """
    breakdowns = client.score(requests)
    scores = {}
    for definition in definitions:
        if all(definition.name in breakdown.raw for breakdown in breakdowns):
            scores[definition.name] = [_from_breakdown(definition.name, breakdown) for breakdown in breakdowns]
        else:
            values = grouped_scores(client, definition.name, [definition.items(request) for request in requests])
            scores[definition.name] = [
                definition.combine(request, rows) for request, rows in zip(requests, values, strict=True)
            ]
    return scores


def whole_response_coherence(client: RewardSource, responses: Sequence[str]) -> list[float]:
    """Coherence of each response over all ordered pairs of its sentences.

    It needs no candidate, so that it compares systems that write much, little or nothing; a response of one sentence
    has the reward's neutral value.
    """
    items = [whole_response_items(text.split(response).sentences) for response in responses]
    return [mean_probability(values) for values in grouped_scores(client, COHERENCE, items)]


def _from_breakdown(component: str, breakdown: RewardBreakdown) -> ComponentScore:
    prefix = f"{component}/"
    details: Mapping[str, float] = {
        key.removeprefix(prefix): value for key, value in breakdown.details.items() if key.startswith(prefix)
    }
    return ComponentScore(breakdown.raw[component], details)


def grouped_scores(client: RewardSource, component: str, items: Sequence[Sequence[Item]]) -> list[FloatArray]:
    """A component's scores of each group of items, from one call."""
    values = client.score_items(component, [item for group in items for item in group])
    bounds = accumulate((len(group) for group in items), initial=0)
    return [values[start:end] for start, end in pairwise(bounds)]


def whole_response_request(example: Example, response: str) -> ScoreRequest:
    """A response that was written as a whole, in the place of the old one.

    Its sentences that the original has too, as often as there, are the supporter's own (`other_sentences`); the rest
    are `candidates`. So the coherence reward and the metrics of written sentences mean what they mean for the policy.
    A generated sentence that the splitter cuts in two counts as two candidates here.
    """
    left = Counter(text.split(example.response_post).sentences)
    candidates, others = list[str](), list[str]()
    for sentence in text.split(response).sentences:
        (others if left[sentence] > 0 else candidates).append(sentence)
        left[sentence] -= 1
    return ScoreRequest(example.seeker_post, example.response_post, response, tuple(candidates), tuple(others))
