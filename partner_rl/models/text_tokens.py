"""Text as tokens, of which none is a control token.

A tokenizer looks for its control tokens in whatever it is given: `<|im_end|>` in a post would end the turn. The
`split_special_tokens` of transformers leaves two gaps: added tokens without the flag `special` (`<think>` in some
vocabularies), and control tokens that are pieces which plain text can be cut into (`</s>` of SentencePiece's unigrams).

Here a text is tokenised as usual, which is all there is to do for ordinary text. One in which a control token came up
is tokenised again by a copy of the tokenizer in which no control token has a name that could be written down.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Encoding, Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.types import PartnerError

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""


def token_limit(encoder: PreTrainedModel, max_tokens: int) -> int:
    """`max_tokens`, or fewer where the encoder has fewer positions."""
    positions = getattr(encoder.config, "max_position_embeddings", None)
    # RoBERTa numbers its positions from padding_idx + 1: two of those it declares cannot be used.
    return max_tokens if positions is None else min(max_tokens, int(positions) - 2)


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text's token ids, none of which is a control token; the tokenizer adds none around it either.

    Raises:
        PartnerError: The tokenizer is not one of the `tokenizers` library.
    """
    control = _control_of(tokenizer)
    ids = _plain_ids(tokenizer, text)
    if not control.came_up(ids, text):
        return ids
    return list(control.blind(tokenizer).encode(text, add_special_tokens=False).ids)


def framed_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int | None) -> list[Encoding]:
    """Texts in the tokenizer's own frame, such as `[CLS] … [SEP]`, cut to `max_tokens` tokens with it; None keeps all.

    Raises:
        PartnerError: The tokenizer is not one of the `tokenizers` library.
    """
    if not texts:
        return []
    control = _control_of(tokenizer)
    found = tokenizer(
        list(texts),
        truncation=max_tokens is not None,
        max_length=max_tokens,
        padding=False,
        verbose=False,
    ).encodings
    assert found is not None
    suspects = [i for i, text in enumerate(texts) if control.came_up(_unframed_ids(found[i]), text)]
    if suspects:
        blind = control.blind(tokenizer)
        if max_tokens is not None:
            blind.enable_truncation(max_tokens, direction=tokenizer.truncation_side)
        for i, encoding in zip(suspects, blind.encode_batch([texts[i] for i in suspects]), strict=True):
            found[i] = encoding
        blind.no_truncation()
    return list(found)


def spells_control(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text holds a control token as it is written, which the tokenizer alone would take for one.

    Raises:
        PartnerError: The tokenizer is not one of the `tokenizers` library.
    """
    return _control_of(tokenizer).came_up(_plain_ids(tokenizer, text), text)


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # No warning, here and above, about a text that is longer than the model: the caller cuts it.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens that no text may turn into and no sentence may hold.

    All special tokens, and of the other added tokens those that hold more than letters, digits and spaces: runs of
    spaces and whole words are text that a vocabulary has a token for.

    Raises:
        PartnerError: The tokenizer is not one of the `tokenizers` library.
    """
    control = _control_of(tokenizer)
    return control.ids if control.unknown_id is None else control.ids | {control.unknown_id}


@dataclass(slots=True)
class _Control:
    """A tokenizer's control tokens.

    Attributes:
        size: Tokens of the vocabulary that this was found in.
        names: The control tokens as they are written.
        ids: Their ids, without the token for unknown characters, which stands for text.
        unknown: That token as it is written, unless it is also one of the others.
        unknown_id: Its id.
    """

    size: int
    names: frozenset[str]
    ids: frozenset[int]
    unknown: str | None
    unknown_id: int | None
    _blind: Tokenizer | None = None

    def came_up(self, ids: Iterable[int], text: str) -> bool:
        """Whether the tokens of a text may hold a control token that the text spells."""
        if not self.ids.isdisjoint(ids):
            return True
        return self.unknown is not None and self.unknown.casefold() in text.casefold()

    def blind(self, tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
        """A copy of the tokenizer that knows no control token by its name; made when it is first needed."""
        if self._blind is None:
            self._blind = _without_names(_backend_of(tokenizer), self.names)
        return self._blind


_known: WeakKeyDictionary[PreTrainedTokenizerBase, _Control] = WeakKeyDictionary()


def _control_of(tokenizer: PreTrainedTokenizerBase) -> _Control:
    known = _known.get(tokenizer)
    if known is None or known.size != len(tokenizer):
        known = _known[tokenizer] = _find_control(tokenizer)
    return known


def _find_control(tokenizer: PreTrainedTokenizerBase) -> _Control:
    backend, t = _backend_of(tokenizer), tokenizer
    added: Mapping[int, AddedToken] = backend.get_added_tokens_decoder()
    names = {token.content for token in added.values() if token.special or _is_mark(token.content)}
    found = {name: backend.token_to_id(name) for name in names | {str(name) for name in t.all_special_tokens}}
    ids = {name: i for name, i in found.items() if i is not None}
    has_other_part = t.unk_token in (t.bos_token, t.eos_token, t.pad_token, t.cls_token, t.sep_token, t.mask_token)
    unknown = None if has_other_part or t.unk_token not in ids else str(t.unk_token)
    return _Control(
        size=len(tokenizer),
        names=frozenset(ids),
        ids=frozenset(i for name, i in ids.items() if name != unknown),
        unknown=unknown,
        unknown_id=None if unknown is None else ids[unknown],
    )


def _is_mark(content: str) -> bool:
    return not all(char.isalnum() or char.isspace() or char == _SPACE for char in content)


def _backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise PartnerError(
            f"the tokenizer of {tokenizer.name_or_path} has no tokenizer.json, so that control tokens in a post could "
            "not be told from text: save it as a fast tokenizer, or choose another model"
        )
    return backend


def _unframed_ids(encoding: Encoding) -> Iterator[int]:
    """Ids of a whole text, what was cut off included: it decides on how the rest is split, too."""
    for part in (encoding, *encoding.overflowing):
        yield from (i for i, framing in zip(part.ids, part.special_tokens_mask, strict=True) if not framing)


def _without_names(backend: Tokenizer, names: frozenset[str]) -> Tokenizer:
    """A copy of a tokenizer in which names have been exchanged for ones that nobody can guess; ids stay."""
    content: dict[str, Any] = json.loads(backend.to_str())
    secret = {name: secrets.token_hex(16) for name in names}
    content["truncation"] = content["padding"] = None
    for token in content["added_tokens"]:
        token["content"] = secret.get(token["content"], token["content"])
    # A single character may be a piece that other text is made of.
    _rename_pieces(content["model"], {name: new for name, new in secret.items() if len(name) > 1})
    return Tokenizer.from_str(json.dumps(content))


def _rename_pieces(model: dict[str, Any], secret: Mapping[str, str]) -> None:
    """Renames entries of a model's vocabulary, in place, with what else in the model names them."""
    pieces = model["vocab"]
    if isinstance(pieces, dict):
        model["vocab"] = {secret.get(piece, piece): i for piece, i in pieces.items()}
    else:
        model["vocab"] = [[secret.get(piece, piece), score] for piece, score in pieces]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = secret.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ", 1)) for m in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if secret.keys().isdisjoint((a, b, a + b))]
