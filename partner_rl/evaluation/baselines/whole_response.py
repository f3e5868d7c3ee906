"""A response that was written as a whole, in the terms of sentence edits, so that all systems are measured alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from envs import text
from partner_rl.evaluation.baselines.context import BaselineRewrites
from partner_rl.evaluation.component_scores import whole_response_request
from partner_rl.types import Example

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


def whole_response_rewrites(pairs: Sequence[Example], responses: Sequence[str], note: str) -> BaselineRewrites:
    """New responses, one a pair; those that are empty leave the original and are counted in the note."""
    visible = [bool(text.clean_sentence(response)) for response in responses]
    requests = [
        whole_response_request(pair, response if seen else pair.response_post)
        for pair, response, seen in zip(pairs, responses, visible, strict=True)
    ]
    empty = visible.count(False)
    return BaselineRewrites(requests, f"{note}; {empty} empty answers left unchanged" if empty else note)
