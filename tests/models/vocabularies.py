"""Small tokenizers built like those of well-known families: the same parts, trained on a few sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = (
    "I am so tired of all this, and nobody asks how I am.",
    "That sounds like a long and lonely week. What would help you to rest?",
    "My brother moved out last month; the flat is far too quiet now.",
    "You wrote that you can't sleep. Is there somebody who could stay for a night?",
    "It is hard to start again when all you did came to nothing!",
)
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
"""Splits as Llama 3 and Qwen do it, but for lookahead."""
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def llama3_like() -> PreTrainedTokenizerFast:
    """Whole pieces before merges, control tokens beside the vocabulary, a start token before every text."""
    tokenizer = _byte_level(models.BPE(ignore_merges=True))
    _add(tokenizer, ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    start = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    return _wrap(tokenizer, bos_token=start[0], eos_token="<|end_of_text|>")


def qwen_like() -> PreTrainedTokenizerFast:
    """Some control tokens without the flag `special`; no start token; a chat template."""
    tokenizer = _byte_level(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    _add(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(
        [AddedToken(name, normalized=False) for name in ("<tool_call>", "</tool_call>", "<think>", "</think>")]
    )
    # One that is matched after the normaliser has been over the text.
    tokenizer.add_tokens([AddedToken("<|quad_start|>", normalized=True)])
    wrapped = _wrap(tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def gemma_like() -> PreTrainedTokenizerFast:
    """SentencePiece's BPE: control tokens and runs of spaces are pieces; some added ones are not special."""
    named = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<h1>", "</h1>"]
    spaces = ["\n\n", "▁▁", "▁▁▁▁"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=560, special_tokens=[*named, *spaces, *bytes_], initial_alphabet=[], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    # The trainer takes all of them for control tokens, which bytes are not: the model alone is kept.
    rebuilt = Tokenizer(tokenizer.model)
    rebuilt.normalizer, rebuilt.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    rebuilt.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    _add(rebuilt, named[:7])
    rebuilt.add_tokens([AddedToken(name, normalized=False) for name in (*named[7:], *spaces)])
    start = ("<bos>", rebuilt.token_to_id("<bos>"))
    rebuilt.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[start])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return _wrap(rebuilt, **names)


def unigram_like() -> PreTrainedTokenizerFast:
    """SentencePiece's unigrams, as in T5: plain text can be cut into the very piece that is the end token."""
    characters = sorted(set("".join(SENTENCES).replace(" ", "▁")) | set("</s>unkpad▁|[]_0"))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((character, -5.0) for character in characters)]
    pieces += [(f"▁{word}", -3.0) for word in sorted({w for s in SENTENCES for w in s.split() if w.isalpha()})]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    _add(tokenizer, ["<pad>", "</s>", "<unk>"])
    end = ("</s>", 1)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    return _wrap(tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def words_like() -> PreTrainedTokenizerFast:
    """Whole words between spaces, of which control tokens are some."""
    words = ["[UNK]", "[PAD]", "[END]", *sorted({word for sentence in SENTENCES for word in sentence.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    _add(tokenizer, ["[UNK]", "[PAD]", "[END]"])
    return _wrap(tokenizer, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]")


VOCABULARIES: Mapping[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama3": llama3_like,
    "qwen": qwen_like,
    "gemma": gemma_like,
    "unigram": unigram_like,
    "words": words_like,
}


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> int:
    """Writes a tokenizer and returns its number of tokens."""
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def _add(tokenizer: Tokenizer, names: Iterable[str]) -> None:
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])


def _wrap(tokenizer: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
