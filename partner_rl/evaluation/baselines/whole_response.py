"""A response that was written as a whole, in the terms of sentence edits, so that all systems are measured alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from envs import text
from partner_rl.evaluation.baselines.context import BaselineRewrites
from partner_rl.types import Example, ScoreRequest

_LABEL: Final = re.compile(
    r"^(?:(?:here(?:'s| is) )?(?:the |a |my )?(?:more |rewritten |revised |kinder |empathic |empathetic |new |better )*"
    r"(?:response|reply|version|rewrite|answer)|assistant)\s*:\s*",
    re.IGNORECASE,
)
_QUOTES: Final = (('"', '"'), ("“", "”"), ("'", "'"), ("«", "»"))
_LIST_MARK: Final = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_WHOLE_SENTENCES: Final = re.compile(r"(.*[.!?…][\"')\]”’]*)(?:\s|$)", re.DOTALL)


def clean_answer(answer: str, *, cut_off: bool) -> str:
    """A language model's answer as one response on one line.

    Left out are a line or label that announces the answer ("Rewritten response:"), quotation marks around the whole
    and marks of lists. An answer that was cut off is read up to its last whole sentence, as the policy's sentences are.

    Args:
        answer: The generated text.
        cut_off: Whether generation stopped because of its length.

    Returns:
        The response; "" when nothing visible is left.
    """
    lines = [_LIST_MARK.sub("", line).strip() for line in answer.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    joined = text.clean_sentence(" ".join(lines))
    if cut_off and (whole := _WHOLE_SENTENCES.match(joined)):
        joined = whole.group(1)
    return text.clean_sentence(_unquoted(_LABEL.sub("", joined)))


def _unquoted(response: str) -> str:
    for opening, closing in _QUOTES:
        inner = response[1:-1]
        if len(response) > 1 and response[0] == opening and response[-1] == closing and opening not in inner:
            return inner.strip()
    return response


def whole_response_request(example: Example, response: str) -> ScoreRequest:
    """A new response in the place of the old one, against the original.

    Its sentences that the original has too, as often as there, are the supporter's own (`other_sentences`); the rest
    are `candidates`. So the coherence reward and the figures on written sentences mean what they mean for the policy.

    Args:
        example: The pair.
        response: The new response; without visible text the original stands.
    """
    if not text.clean_sentence(response):
        response = example.response_post
    left = list(text.split(example.response_post).sentences)
    candidates, others = [], []
    for sentence in text.split(response).sentences:
        if sentence in left:
            left.remove(sentence)
            others.append(sentence)
        else:
            candidates.append(sentence)
    return ScoreRequest(example.seeker_post, example.response_post, response, tuple(candidates), tuple(others))


def whole_response_rewrites(pairs: Sequence[Example], responses: Sequence[str], note: str) -> BaselineRewrites:
    """New responses, one a pair; those that are empty leave the original and are counted in the note."""
    requests = [whole_response_request(pair, response) for pair, response in zip(pairs, responses, strict=True)]
    empty = sum(not text.clean_sentence(response) for response in responses)
    return BaselineRewrites(requests, f"{note}; {empty} empty answers left unchanged" if empty else note)
