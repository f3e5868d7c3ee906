"""The policy's base model put to work on whole responses: what the baselines without training share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from partner_rl.evaluation.baselines.context import BaselineContext
from partner_rl.evaluation.baselines.generation import generate_answers, line_ends, random_streams
from partner_rl.evaluation.baselines.whole_response import clean_answer
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.models.text_tokens import control_ids, spells_control, text_ids
from partner_rl.types import Example

Turn = tuple[str, str]
"""Who speaks (`system`, `user` or `assistant`), and what."""

_PLACE: Final = "turn-{}-stands-here"
"""Stands for a turn in a chat template that is rendered without the turns."""
_PLACES: Final = re.compile(re.escape(_PLACE).replace(re.escape("{}"), r"(\d+)"))


def answers_of_base_model(
    context: BaselineContext, turns_of: Callable[[Example], Sequence[Turn]], description: str
) -> list[str]:
    """The base model's answer for each pair, cleaned.

    `turns_of` says what to ask for a pair: the last turn is the user's, and posts are cut already.
    """
    tokenizer: Any = load_tokenizer(context.base_model)
    model: Any = load_causal_lm(context.base_model)
    model.to(context.device)
    settings = context.config.baselines
    cut = Cut(tokenizer, settings.max_post_tokens)
    prompts = [chat_prompt(tokenizer, turns_of(cut(pair))) for pair in context.pairs]
    # A chat model ends its turn with a token of its own; a plain model goes on to the next label in a new line.
    ends = [int(tokenizer.eos_token_id), *([] if tokenizer.chat_template else line_ends(tokenizer))]
    streams = random_streams(context.pairs, settings.max_new_tokens, context.seed)
    with context.progress(description) as report:
        answers = generate_answers(model, tokenizer, prompts, streams, context.config.evaluation, ends, report)
    return [clean_answer(answer.text, cut_off=answer.cut_off) for answer in answers]


class Cut:
    """Cuts the posts of a pair to a number of tokens; of the seeker's post the end is kept, as for the policy."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        """Cut to `max_tokens` tokens of `tokenizer`."""
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def __call__(self, pair: Example) -> Example:
        """The pair with both posts on one line each and cut."""
        seeker = self._tokens(pair.seeker_post)[-self._max_tokens :]
        response = self._tokens(pair.response_post)[: self._max_tokens]
        return Example(pair.seeker_id, pair.response_id, self._text(seeker), self._text(response), pair.labels)

    def _text(self, tokens: list[int]) -> str:
        # A cut through a character of several bytes leaves a replacement character at the end.
        text: str = self._tokenizer.decode(tokens)
        return text.strip(" \N{REPLACEMENT CHARACTER}")

    def _tokens(self, post: str) -> list[int]:
        return text_ids(self._tokenizer, " ".join(post.split()))


def chat_prompt(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """The turns as token ids up to where the assistant speaks next.

    By the tokenizer's chat template; for a plain language model, which has none, as labelled paragraphs. Control tokens
    are the template's alone, whatever the turns hold.
    """
    if not tokenizer.chat_template:
        labels = {"system": "", "user": "", "assistant": "Answer: "}
        return text_ids(tokenizer, "\n".join(f"{labels[role]}{content}" for role, content in turns) + "\nAnswer:")
    frame = _rendered(tokenizer, [(role, _PLACE.format(turn)) for turn, (role, _) in enumerate(turns)])
    ids = _template_ids(tokenizer, _rendered(tokenizer, turns))
    control = control_ids(tokenizer) - {tokenizer.unk_token_id}
    as_the_frame = [i for i in ids if i in control] == [i for i in _template_ids(tokenizer, frame) if i in control]
    if as_the_frame and not any(spells_control(tokenizer, content) for _, content in turns):
        return ids
    # A turn spells a control token: frame and turns are tokenised piece by piece.
    pieces: list[list[int]] = [
        text_ids(tokenizer, turns[int(piece)][1]) if number % 2 else _template_ids(tokenizer, piece)
        for number, piece in enumerate(_PLACES.split(frame))
    ]
    return [token for piece in pieces for token in piece]


def _template_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return ids


def _rendered(tokenizer: Any, turns: Sequence[Turn]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text
