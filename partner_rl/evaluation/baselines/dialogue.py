"""The baseline `dialogue`: the base model answers the seeker, and its answer replaces the response.

It stands in the place of DialoGPT in the paper's table: fluent, on topic if all goes well, and unrelated to what the
supporter wrote.
"""

from __future__ import annotations

from typing import Final

from partner_rl.evaluation.baselines.base_model import Turn, answers_of_base_model
from partner_rl.evaluation.baselines.context import BaselineContext, BaselineRewrites
from partner_rl.evaluation.baselines.whole_response import whole_response_rewrites
from partner_rl.types import Example

INSTRUCTION: Final = "You are a member of a peer support forum. Reply to the post in one to four sentences."
"""What the model is asked to do; empathy is not mentioned."""

SHOTS: Final = (
    (
        "Does anybody else wake up at four every morning and lie there thinking about work?",
        "Yes, that was me for most of last year. Getting up and reading for a while worked better than staying in bed.",
    ),
    (
        "Moved to a new city in May and I still don't know a single person here.",
        "It took me about a year to find my people after I moved. Is there a club or a class that you could try?",
    ),
)
"""Invented posts and replies: a chat model speaks like a member of a forum only when it has seen one."""


def dialogue(context: BaselineContext) -> BaselineRewrites:
    """The base model's own answers to the seekers."""
    responses = answers_of_base_model(context, answering_turns, "Answering with the base model")
    return whole_response_rewrites(context.pairs, responses, "the base model answers the post, unaware of the response")


def answering_turns(pair: Example) -> list[Turn]:
    """The instruction, the examples as earlier turns, and the seeker's post."""
    turns: list[Turn] = [("system", INSTRUCTION)]
    for post, reply in SHOTS:
        turns += [("user", post), ("assistant", reply)]
    return [*turns, ("user", pair.seeker_post)]
