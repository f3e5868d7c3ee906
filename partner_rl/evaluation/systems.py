"""A system's scores on held-out pairs: one row of the results table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from envs import rewriting
from partner_rl.config.schema import EnvConfig
from partner_rl.evaluation.component_scores import RewardSource, component_scores, whole_response_coherence
from partner_rl.evaluation.metrics.change_in_empathy import change_in_empathy
from partner_rl.evaluation.metrics.coherence import coherence
from partner_rl.evaluation.metrics.commonest_sentence import commonest_sentence
from partner_rl.evaluation.metrics.distinct_n import distinct_n
from partner_rl.evaluation.metrics.distinct_sentences import distinct_sentences
from partner_rl.evaluation.metrics.edit_rate import edit_rate
from partner_rl.evaluation.metrics.length import mean_length
from partner_rl.evaluation.metrics.mean import mean
from partner_rl.evaluation.metrics.perplexity import perplexity
from partner_rl.evaluation.metrics.share_unchanged import share_unchanged
from partner_rl.evaluation.metrics.specificity import Embed, specificity
from partner_rl.types import MECHANISMS, Example, PartnerError, ScoreRequest
from rewards.empathy import NAME as EMPATHY
from rewards.fluency import NAME as FLUENCY
from rewards.mutual_information import NAME as MUTUAL_INFORMATION
from rewards.scorer import RewardDefinition


@dataclass(frozen=True, slots=True)
class SystemScores:
    """How well a system rewrites; each figure's definition stands in its file in `evaluation/metrics`.

    Attributes:
        name: The system, such as `original`, `warm_start` or `rl`.
        n: Rewritten responses.
        change_in_empathy: Mean change of the empathy score (0…6), by the training's classifier.
        change_by_mechanism: Mechanism → mean change of its level (0…2).
        perplexity: Perplexity of the rewritten responses under the reward's language model.
        coherence: Mean probability that two sentences of a rewritten response belong together.
        specificity: Mean cosine similarity of the seeker's post and the rewritten response.
        mutual_information: Mean of the reward of that name, in nats a token.
        distinct_1: Different words over words.
        distinct_2: Different word pairs over word pairs.
        distinct_sentences: Share of the written sentences that are different; None when none was written.
        commonest_sentence: Share of the written sentences that are the most frequent one; None when none was written.
        edit_rate: Mean word-level edit distance over the original's length.
        unchanged: Share of responses left as they were.
        length: Mean words of a rewritten response.
    """

    name: str
    n: int
    change_in_empathy: float
    change_by_mechanism: dict[str, float]
    perplexity: float
    coherence: float
    specificity: float
    mutual_information: float
    distinct_1: float
    distinct_2: float
    distinct_sentences: float | None
    commonest_sentence: float | None
    edit_rate: float
    unchanged: float
    length: float

    def as_json(self) -> dict[str, Any]:
        """The scores as JSON-able values."""
        return asdict(self)


def original_requests(examples: Sequence[Example], env: EnvConfig) -> list[ScoreRequest]:
    """The responses as their supporters wrote them, as if they were rewrites: the system `original`."""
    return [rewriting.score_request(rewriting.reset(example, env)) for example in examples]


def evaluate_system(
    name: str,
    requests: Sequence[ScoreRequest],
    client: RewardSource,
    definitions: Mapping[str, RewardDefinition],
    embed: Embed,
) -> SystemScores:
    """Scores a system's rewrites. Systems compare only on the same pairs and the same rewards.

    Args:
        name: The system.
        requests: Its rewrites.
        client: The rewards, all four components, also those without a weight.
        definitions: Component name → its definition, also of those without a weight.
        embed: Sentence embeddings for specificity.

    Raises:
        PartnerError: There is nothing to evaluate, or a reward fails.
    """
    if not requests:
        raise PartnerError(f"there is no pair to evaluate the system {name!r} on: use more data or a larger test split")
    measured = [definitions[component] for component in (EMPATHY, FLUENCY, MUTUAL_INFORMATION)]
    scores = component_scores(client, measured, requests)
    seekers = [request.seeker_post for request in requests]
    originals = [request.original_response for request in requests]
    rewrites = [request.rewritten_response for request in requests]
    written = [sentence for request in requests for sentence in request.candidates]
    return SystemScores(
        name=name,
        n=len(requests),
        change_in_empathy=change_in_empathy([score.value for score in scores[EMPATHY]]),
        change_by_mechanism={
            mechanism: change_in_empathy([score.details[mechanism] for score in scores[EMPATHY]])
            for mechanism in MECHANISMS
        },
        perplexity=perplexity([score.details["inverse_perplexity"] for score in scores[FLUENCY]]),
        coherence=coherence(whole_response_coherence(client, rewrites)),
        specificity=specificity(seekers, rewrites, embed),
        mutual_information=mean([score.value for score in scores[MUTUAL_INFORMATION]], MUTUAL_INFORMATION),
        distinct_1=distinct_n(rewrites, 1),
        distinct_2=distinct_n(rewrites, 2),
        distinct_sentences=distinct_sentences(written),
        commonest_sentence=commonest_sentence(written),
        edit_rate=edit_rate(originals, rewrites),
        unchanged=share_unchanged(originals, rewrites),
        length=mean_length(rewrites),
    )
