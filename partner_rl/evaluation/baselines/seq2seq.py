"""The baseline `seq2seq`: a language model that was fine-tuned to write the whole kinder response.

It stands in the place of BART in the paper's table. It learns from the examples of the warm start, so that what differs
from the policy's start is the form alone: the whole response is written anew instead of one sentence at one place.
`seq2seq_training` trains it.
"""

from __future__ import annotations

from typing import Any, Final

from partner_rl.evaluation.baselines.base_model import Cut
from partner_rl.evaluation.baselines.context import BaselineContext, BaselineRewrites
from partner_rl.evaluation.baselines.generation import generate_answers, random_streams
from partner_rl.evaluation.baselines.whole_response import clean_answer, whole_response_rewrites
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.models.text_tokens import text_ids
from partner_rl.types import Example

BEFORE: Final = "Post: "
"""Stands before the seeker's post."""
BETWEEN: Final = "\nReply: "
"""Stands between post and response."""
AFTER: Final = "\nKinder reply:"
"""Stands after the response; the new response follows, with a space before it."""


def seq2seq(context: BaselineContext) -> BaselineRewrites:
    """Whole responses of the fine-tuned model.

    Raises:
        ValueError: The context names no model.
        PartnerError: The folder holds no language model.
    """
    if context.seq2seq is None:
        raise ValueError("there is no sequence-to-sequence model")
    tokenizer: Any = load_tokenizer(context.seq2seq)
    model = load_causal_lm(context.seq2seq).to(context.device)  # type: ignore[arg-type]
    settings = context.config.baselines
    cut = Cut(tokenizer, settings.max_post_tokens)
    prompts = [source_ids(tokenizer, cut(pair)) for pair in context.pairs]
    streams = random_streams(context.pairs, settings.max_new_tokens, context.seed)
    end = [int(tokenizer.eos_token_id)]
    with context.progress("Rewriting with the sequence-to-sequence model") as report:
        answers = generate_answers(model, tokenizer, prompts, streams, context.config.evaluation, end, report)
    responses = [clean_answer(answer.text, cut_off=answer.cut_off) for answer in answers]
    note = "the base model fine-tuned to write the whole response, on the warm start's examples"
    return whole_response_rewrites(context.pairs, responses, note)


def source_ids(tokenizer: Any, pair: Example) -> list[int]:
    """What the model reads: post and response, already cut, after the tokenizer's start token if it has one."""
    bos = tokenizer.bos_token_id
    start = [bos] if bos is not None else []
    text = f"{BEFORE}{pair.seeker_post}{BETWEEN}{pair.response_post}{AFTER}"
    return start + text_ids(tokenizer, text)


def target_ids(tokenizer: Any, response: str, max_tokens: int) -> list[int]:
    """What the model is to write: the response and the end token, which a response that was cut off lacks."""
    ids = text_ids(tokenizer, " " + " ".join(response.split()))
    return [*ids, int(tokenizer.eos_token_id)][:max_tokens]
