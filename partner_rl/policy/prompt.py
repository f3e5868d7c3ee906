"""The state as tokens: the seeker's post and the numbered sentences of the window."""

from __future__ import annotations

from typing import Any

from partner_rl.config.schema import PolicyConfig
from partner_rl.models.text_tokens import text_ids
from partner_rl.types import RewriteState


def encode_prompt(tokenizer: Any, state: RewriteState, settings: PolicyConfig) -> list[int]:
    """The prompt's token ids; but for the start token none is a control token, whatever the texts hold.

    Sentences are numbered as the position tokens count them. The post keeps its last `max_seeker_tokens` tokens, where
    posts usually ask for something; a sentence keeps its first `max_sentence_tokens`.
    """

    def encode(text: str) -> list[int]:
        return text_ids(tokenizer, text)

    ids = _start_ids(tokenizer) + encode("Post:")
    ids += encode(" " + " ".join(state.seeker_post.split()))[-settings.max_seeker_tokens :]
    ids += encode("\nReply:")
    for number, sentence in enumerate(state.span, start=1):
        ids += encode(f"\n{number}.")
        ids += encode(" " + " ".join(sentence.split()))[: settings.max_sentence_tokens]
    return ids + encode("\nKinder:")


def _start_ids(tokenizer: Any) -> list[int]:
    """The start token where the tokenizer puts one before text (Llama does, GPT-2 does not)."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("").input_ids[:1] == [bos] else []
