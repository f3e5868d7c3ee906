"""The baseline `template`: the same empathic sentence before and the same question after every response.

It stands for the worst that an empathy reward can teach. It raises empathy on average and says nothing about the post,
so that a policy must beat it in empathy and in diversity and specificity at once.
"""

from __future__ import annotations

from typing import Final

from envs import text
from partner_rl.evaluation.baselines.context import BaselineContext, BaselineRewrites
from partner_rl.types import Example, ScoreRequest

OPENING: Final = "I'm so sorry that you are going through this, it must be really hard."
"""Put before the response: an emotional reaction and a guess at how it feels."""

CLOSING: Final = "Would you like to tell us more about how you are feeling right now?"
"""Put after the response: an exploration."""


def template(context: BaselineContext) -> BaselineRewrites:
    """Every response with the two sentences around it."""
    return BaselineRewrites([with_template(pair) for pair in context.pairs], "the same two sentences for everybody")


def with_template(example: Example) -> ScoreRequest:
    """The response between the opening and the closing, set apart as its own sentences are."""
    own = text.split(example.response_post)
    opened = text.insert_sentence(own, 0, OPENING)
    closed = text.insert_sentence(opened, len(opened.sentences), CLOSING)
    return ScoreRequest(
        seeker_post=example.seeker_post,
        original_response=example.response_post,
        rewritten_response=text.join(closed),
        candidates=(OPENING, CLOSING),
        other_sentences=own.sentences,
    )
