"""Tiny randomly initialised models with a tokenizer, for smoke tests: no download, the same ones on every machine.

Default initialisation makes tiny models nearly uniform, which hides bugs in log-probabilities; a wide one does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from partner_rl.models.store import cache_folder, install
from partner_rl.storage.atomic import write_text

_FORMAT: Final = 1
"""Raised when these models change, so that cached ones are rebuilt."""

_SEED: Final = 20_210_701
_INITIALIZER_RANGE: Final = 0.3
_HIDDEN: Final = 48
_HEADS: Final = 4
_LAYERS: Final = 2
_VOCABULARY: Final = 600
_MAX_POSITIONS: Final = 1024

_CORPUS: Final = (
    "I am so sorry to hear that you are going through this right now.",
    "That sounds really hard, and it makes sense that you feel tired and alone.",
    "What happened today that made things feel worse than before?",
    "I have been there too, and I know how heavy these feelings can be.",
    "Thank you for sharing this with us. How are you feeling at the moment?",
    "My job is too much, my friends do not call, and I can not sleep at night.",
    "Nobody understands what it is like when everything feels pointless.",
    "You could try to go for a walk, talk to someone you trust, or write it down.",
    "Everyone feels like this sometimes. Just stop thinking about it!",
    "Do you have someone who can stay with you while you wait for the appointment?",
    "We moved to a new town last year and since then I have felt lonely.",
    "It must be frustrating when your family does not take your worries seriously.",
)


def build_random_gpt2(target: Path) -> None:
    """Write a GPT-2 with a byte-level BPE tokenizer and, like the real one, no padding token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = _byte_level_tokenizer({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}, target)
    config = GPT2Config(
        vocab_size=size,
        n_embd=_HIDDEN,
        n_head=_HEADS,
        n_layer=_LAYERS,
        n_positions=_MAX_POSITIONS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=_INITIALIZER_RANGE,
        bos_token_id=0,
        eos_token_id=0,
    )
    _save(GPT2LMHeadModel, config, target)


def build_random_llama(target: Path) -> None:
    """Write a Llama with tied embeddings and a byte-level BPE tokenizer with padding and end tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = _byte_level_tokenizer({"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}, target)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS // 2,
        num_hidden_layers=_LAYERS,
        max_position_embeddings=_MAX_POSITIONS,
        attention_dropout=0.0,
        initializer_range=_INITIALIZER_RANGE,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    _save(LlamaForCausalLM, config, target)


def build_random_bert(target: Path) -> None:
    """Write a BERT encoder with a lower-casing word-piece tokenizer."""
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = target / "vocab.txt"
    write_text(vocabulary, "\n".join(_word_pieces()) + "\n")
    tokenizer = BertTokenizer(vocab=str(vocabulary), do_lower_case=True, model_max_length=512)
    tokenizer.save_pretrained(target)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_attention_heads=_HEADS,
        num_hidden_layers=_LAYERS,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=_INITIALIZER_RANGE,
        pad_token_id=0,
    )
    _save(BertModel, config, target)


RANDOM_MODELS: Final[Mapping[str, Callable[[Path], None]]] = MappingProxyType(
    {"gpt2": build_random_gpt2, "llama": build_random_llama, "bert": build_random_bert}
)
"""Architecture → what writes the model into a folder."""


def random_source(architecture: str) -> str:
    """Identifies the content of a random model's folder (see `store.Manifest.source`)."""
    return f"random:{architecture} format {_FORMAT}"


def random_folder(architecture: str, cache_dir: Path | None) -> Path:
    """Where a random model lies once it is built."""
    return cache_folder(cache_dir) / "random" / architecture


def build_random(architecture: str, cache_dir: Path | None = None) -> Path:
    """The folder of a random model, built when it is not there yet (under two seconds).

    Raises:
        PartnerError: The cache folder cannot be written.
    """
    return install(random_folder(architecture, cache_dir), random_source(architecture), RANDOM_MODELS[architecture])


def _save(architecture: type, config: object, target: Path) -> None:
    import torch

    from partner_rl.models.loading import quiet_transformers

    # The caller's random stream must not depend on whether the model was cached.
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        architecture(config).save_pretrained(target)


def _word_pieces() -> list[str]:
    """A vocabulary of word pieces: written down rather than trained, since the trainer's order varies between runs."""
    printable = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = sorted({word for line in _CORPUS for word in re.findall(r"[a-z]{2,}", line.lower())})
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *printable, *(f"##{piece}" for piece in printable), *words]


def _byte_level_tokenizer(special_tokens: Mapping[str, str], target: Path) -> int:
    """Train and save a tokenizer; returns its number of tokens, special ones included."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer_class: Any = PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        _CORPUS,
        vocab_size=_VOCABULARY,
        min_frequency=1,
        show_progress=False,
        special_tokens=list(dict.fromkeys(special_tokens.values())),
    )
    tokenizer = tokenizer_class(tokenizer_object=trained._tokenizer, model_max_length=_MAX_POSITIONS, **special_tokens)
    tokenizer.save_pretrained(target)
    return len(tokenizer)
