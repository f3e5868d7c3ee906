"""The baseline `prompted`: the policy's base model, asked in words to rewrite the response with more empathy.

It shows what the pretrained model can do without any training for the task.
"""

from __future__ import annotations

from typing import Final

from partner_rl.evaluation.baselines.base_model import Turn, answers_of_base_model
from partner_rl.evaluation.baselines.context import BaselineContext, BaselineRewrites
from partner_rl.evaluation.baselines.whole_response import whole_response_rewrites
from partner_rl.types import Example

INSTRUCTION: Final = (
    "Someone wrote a post in a support forum and got a reply. Rewrite the reply so that it shows more empathy: say "
    "that you care, show that you understand how they feel, and ask a gentle question. Keep what the reply says. "
    "Write only the new reply, in one to four sentences."
)
"""What the model is asked to do."""

SHOTS: Final = (
    (
        "My landlord wants me out by Friday and I have nowhere to go. I can't stop shaking.",
        "Call the city's housing line.",
        "I'm so sorry, being told to leave with nowhere to go sounds terrifying. Call the city's housing line. "
        "Is there somebody who could be with you tonight?",
    ),
    (
        "third job rejection this week. i feel like a complete failure",
        "Everybody gets rejected. Keep applying.",
        "Three rejections in one week would wear anybody down, and it does not make you a failure. Everybody gets "
        "rejected at times. Keep applying when you feel ready. What kind of work are you hoping for?",
    ),
)
"""Invented examples: a post, a reply, and the reply with more empathy."""


def prompted(context: BaselineContext) -> BaselineRewrites:
    """The base model's rewrites of whole responses."""
    responses = answers_of_base_model(context, rewriting_turns, "Rewriting with the prompted base model")
    return whole_response_rewrites(context.pairs, responses, "the base model, prompted with two examples")


def rewriting_turns(pair: Example) -> list[Turn]:
    """The instruction, the examples as earlier turns, and the pair."""
    turns: list[Turn] = [("system", INSTRUCTION)]
    for post, reply, rewritten in SHOTS:
        turns += [("user", _question(post, reply)), ("assistant", rewritten)]
    return [*turns, ("user", _question(pair.seeker_post, pair.response_post))]


def _question(post: str, reply: str) -> str:
    return f"Post: {post}\nReply: {reply}"
