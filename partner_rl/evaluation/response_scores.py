"""Raw scores of responses as they are, and rewards of their rewritings, as JSON-able values.

Rewards compare a rewriting with its original; to score a response alone, each component is asked for what it says of
that response: its levels of empathy, its perplexity, the coherence among its sentences, and how well it and the
seeker's post predict each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from envs import text
from partner_rl.config.schema import RunConfig
from partner_rl.data.rewrites import RewrittenPair
from partner_rl.evaluation.component_scores import grouped_scores, whole_response_request
from partner_rl.types import MECHANISMS, RewardBreakdown
from rewards import coherence, empathy, fluency, mutual_information
from rewards.actor import describe_failure
from rewards.coherence import mean_probability, whole_response_items
from rewards.empathy import EmpathyScorer
from rewards.local import LocalRewards
from rewards.scorer import RewardComponent

_DIGITS: Final = 6

Scores = dict[str, Any]
"""One component's scores of one response."""


class ResponseScores:
    """Scores pairs with the reward models in this process."""

    def __init__(self, components: Mapping[str, RewardComponent], config: RunConfig) -> None:
        """Load the models.

        Raises:
            PartnerError: A model cannot be found or loaded.
        """
        self._components = dict(components)
        self._rewards = LocalRewards(components)
        self._weights = config.rewards.weights()
        self._empathy_score = config.rewards.empathy.score
        scorers: dict[str, Callable[[Sequence[RewrittenPair]], list[Scores]]] = {
            empathy.NAME: self._empathy,
            fluency.NAME: self._fluency,
            coherence.NAME: self._coherence,
            mutual_information.NAME: self._mutual_information,
        }
        # A component of the user's own has no score of a response alone, only a reward of a rewriting.
        self._scorers = {name: scorers[name] for name in components if name in scorers}

    def score(self, pairs: Sequence[RewrittenPair]) -> list[dict[str, Any]]:
        """Per pair, component → scores and, with a rewriting, `reward`; or `error` when it cannot be scored."""
        try:
            return self._score(pairs)
        except Exception as error:
            if len(pairs) == 1:
                return [{"error": describe_failure(error, [_texts(pairs[0])])}]
        # One bad row must not cost its neighbours.
        return [self.score([pair])[0] for pair in pairs]

    def _score(self, pairs: Sequence[RewrittenPair]) -> list[dict[str, Any]]:
        if not pairs:
            return []
        columns = {name: score(pairs) for name, score in self._scorers.items()}
        rows: list[dict[str, Any]] = [{name: column[i] for name, column in columns.items()} for i in range(len(pairs))]
        rewritten = [(i, response) for i, pair in enumerate(pairs) if (response := pair.rewritten_response) is not None]
        breakdowns = self._rewards.score(
            [whole_response_request(pairs[i].example, response) for i, response in rewritten]
        )
        for (i, _), breakdown in zip(rewritten, breakdowns, strict=True):
            rows[i]["reward"] = _reward(breakdown.weighed(self._weights))
        return rows

    def _empathy(self, pairs: Sequence[RewrittenPair]) -> list[Scores]:
        scorer = self._rewards.scorer(empathy.NAME)
        assert isinstance(scorer, EmpathyScorer)
        texts = [(p.example.seeker_post, p.example.response_post) for p in pairs]
        found = scorer.classifier.predict(texts)
        bounds_NM = scorer.score(texts) if self._empathy_score == "conservative" else None
        rows: list[Scores] = []
        for number, prediction in enumerate(found):
            levels = [m.level if self._empathy_score == "argmax" else m.expected_level for m in prediction]
            mechanisms = {
                name: {
                    "level": mechanism.level,
                    "expected_level": _round(mechanism.expected_level),
                    "probabilities": [_round(p) for p in mechanism.probabilities],
                    "rationales": [list(span) for span in mechanism.rationales],
                }
                for name, mechanism in zip(MECHANISMS, prediction, strict=True)
            }
            if bounds_NM is not None:
                levels = [float(bound) for bound in bounds_NM[number]]
                for mechanism, bound in zip(mechanisms.values(), levels, strict=True):
                    mechanism["lower_level"] = _round(bound)
            rows.append({**mechanisms, "total": _round(sum(levels))})
        return rows

    def _fluency(self, pairs: Sequence[RewrittenPair]) -> list[Scores]:
        rows: list[Scores] = []
        for score in self._combined(fluency.NAME, pairs):
            plain = score.details["inverse_perplexity"]
            perplexity = _round(1.0 / plain) if plain > 0.0 else None
            repeated = _round(score.details["repeated"])
            rows.append({"value": _round(score.value), "perplexity": perplexity, "repeated": repeated})
        return rows

    def _mutual_information(self, pairs: Sequence[RewrittenPair]) -> list[Scores]:
        return [
            {**{name: _round(x) for name, x in score.details.items()}, "value": _round(score.value)}
            for score in self._combined(mutual_information.NAME, pairs)
        ]

    def _combined(self, name: str, pairs: Sequence[RewrittenPair]) -> list[Any]:
        """The component's own score of each response, for components that read no original."""
        definition = self._components[name].definition
        # The response as it is, as if it were the rewriting.
        requests = [whole_response_request(pair.example, pair.example.response_post) for pair in pairs]
        values = grouped_scores(self._rewards, name, [definition.items(request) for request in requests])
        return [definition.combine(request, rows) for request, rows in zip(requests, values, strict=True)]

    def _coherence(self, pairs: Sequence[RewrittenPair]) -> list[Scores]:
        items = [whole_response_items(text.split(pair.example.response_post).sentences) for pair in pairs]
        return [
            {"value": _round(mean_probability(values)), "sentence_pairs": len(values)}
            for values in grouped_scores(self._rewards, coherence.NAME, items)
        ]


def _reward(breakdown: RewardBreakdown) -> dict[str, Any]:
    return {
        "total": _round(breakdown.total),
        "raw": {name: _round(x) for name, x in breakdown.raw.items()},
        "weighted": {name: _round(x) for name, x in breakdown.weighted.items()},
        "details": {name: _round(x) for name, x in breakdown.details.items()},
    }


def _texts(pair: RewrittenPair) -> tuple[str, ...]:
    return (pair.example.seeker_post, pair.example.response_post, pair.rewritten_response or "")


def _round(number: float) -> float:
    return round(float(number), _DIGITS)
