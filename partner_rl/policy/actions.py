"""An edit as tokens and back: `[POSITION] w_1 … w_T [END]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from partner_rl.models.text_tokens import text_ids
from partner_rl.policy.model import Policy
from partner_rl.positions import noop_position
from partner_rl.types import EditAction

_WHOLE_SENTENCES = re.compile(r"(.*[.!?…][\"')\]]*)(?:\s|$)")


@dataclass(frozen=True, slots=True)
class ActionTokens:
    """An action in the policy's own terms.

    Attributes:
        position: Index into the `2k+2` positions.
        tokens: Sentence token ids, closed by the end token unless the sentence was cut off; empty for the no-op.
    """

    position: int
    tokens: tuple[int, ...]


def encode_action(policy: Policy, action: EditAction) -> ActionTokens:
    """The tokens of an edit; a sentence longer than `max_new_tokens` is cut off and then has no end token."""
    if action.position == noop_position(policy.vocabulary.window):
        return ActionTokens(action.position, ())
    tokens = [*text_ids(policy.tokenizer, action.sentence), policy.vocabulary.end_id][: policy.settings.max_new_tokens]
    return ActionTokens(action.position, tuple(int(t) for t in tokens))


def decode_action(policy: Policy, action: ActionTokens) -> EditAction:
    """The edit that an action's tokens spell, the sentence on one line.

    A sentence that reached `max_new_tokens` without an end token is cut back to its last whole sentence, and to nothing
    when it has none (unless `policy.unfinished` is `keep`): nobody should read half a thought. What is trained are all
    sampled tokens; the edit is what the task makes of them, and an edit that writes nothing gains nothing, so that the
    policy learns to come to an end.
    """
    tokens = [t for t in action.tokens if t != policy.vocabulary.end_id]
    text = " ".join(policy.tokenizer.decode(tokens, skip_special_tokens=True).split())
    if len(tokens) == len(action.tokens):
        whole = _WHOLE_SENTENCES.match(text)
        unfinished = text if policy.settings.unfinished == "keep" else ""
        text = whole.group(1) if whole else unfinished
    return EditAction(action.position, text)
