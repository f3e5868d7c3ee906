"""GGUF files → folders in the Hugging Face format with float32 safetensors."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.models.loading import quiet_transformers
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.atomic import write_json
from partner_rl.types import PartnerError, first_line

_TOKENIZER_ORIGIN_KEYS = ("is_local", "local_files_only", "name_or_path")


def convert_gguf(source: Path, target: Path, progress: Progress = no_progress) -> None:
    """Convert a causal language model, its tokenizer and chat template; dequantised to float32.

    Takes about a minute for 135 M parameters on two cores.

    `target` is an existing folder, which receives `config.json`, `model.safetensors` and the tokenizer's files.

    Raises:
        PartnerError: The file is no GGUF file that transformers can read.
    """
    folder, name = str(source.parent), source.name
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
            progress(1, 4)
            # transformers draws this progress bar with a bare tqdm that no setting turns off.
            with redirect_stderr(io.StringIO()):
                loaded = AutoModelForCausalLM.from_pretrained(
                    folder, gguf_file=name, dtype=torch.float32, trust_remote_code=False
                )
        except (OSError, ValueError, ImportError) as error:
            raise PartnerError(f"cannot read GGUF file {source}: {first_line(error)}") from error
        progress(2, 4)
        model = _without_quantisation(loaded)
        progress(3, 4)
        model.save_pretrained(target)
        _save_tokenizer(tokenizer, target, model.config.max_position_embeddings)
        progress(4, 4)


def _without_quantisation(loaded: PreTrainedModel) -> PreTrainedModel:
    """The same model with the same weights; one loaded from GGUF refuses `save_pretrained`."""
    dropped = {"quantization_config", "_name_or_path", "_model_name_or_path"}
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in dropped}
    auto: Any = AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(type(loaded.config)(**settings), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), strict=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, target: Path, max_length: int) -> None:
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(target)
    path = target / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in settings.items() if key not in _TOKENIZER_ORIGIN_KEYS}
    write_json(path, kept)
