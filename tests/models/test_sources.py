"""Names → folders → loaded models, on the random models (no download)."""

import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoTokenizer

from partner_rl.models.loading import load_causal_lm, load_encoder, load_tokenizer
from partner_rl.models.random_models import RANDOM_MODELS, build_random
from partner_rl.models.sources import known_names, resolve
from partner_rl.models.store import find_corruption
from partner_rl.types import PartnerError

# A Ray that an earlier file has left running writes to the standard error of the process when it likes.
pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("architecture", sorted(RANDOM_MODELS))
def test_random_models_are_the_same_everywhere_and_quick(architecture, cache, tmp_path):
    first = resolve(f"random:{architecture}", cache)
    state = torch.get_rng_state()
    # The time that this thread computes: on the clock there is also whatever else the machine does.
    start = time.thread_time()
    second = build_random(architecture, tmp_path)
    assert time.thread_time() - start < 10
    assert torch.equal(state, torch.get_rng_state())
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert find_corruption(first, f"random:{architecture} format 1") is None


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_random_language_models_load_without_dropout(architecture, cache, capfd):
    folder = resolve(f"random:{architecture}", cache)
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder)
    assert tokenizer.pad_token_id is not None
    assert tokenizer.eos_token_id is not None
    assert len(tokenizer) == model.config.vocab_size
    text = "I can not sleep 😀 — naïve,\n\n  2 spaces"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    tokens = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        evaluated = model(**tokens).logits
        trained = model.train()(**tokens).logits
    torch.testing.assert_close(evaluated, trained)
    # A wide initialisation: far from the uniform distribution, which would hide bugs.
    assert evaluated.log_softmax(-1).max() > -2
    assert capfd.readouterr().err == ""


def test_random_encoder_loads(cache, capfd):
    folder = resolve("random:bert", cache)
    tokenizer, encoder = load_tokenizer(folder), load_encoder(folder)
    tokens = tokenizer(["I am so sorry", "That sounds really hard 😀"], return_tensors="pt", padding=True)
    assert encoder(**tokens).last_hidden_state.shape == (*tokens["input_ids"].shape, encoder.config.hidden_size)
    assert not encoder.training
    assert capfd.readouterr().err == ""


def test_dropout_of_a_saved_configuration_is_overridden(cache, tmp_path):
    model = load_causal_lm(resolve("random:gpt2", cache))
    model.config.resid_pdrop = model.config.attn_pdrop = model.config.embd_pdrop = 0.5
    model.save_pretrained(tmp_path)
    again = load_causal_lm(tmp_path).train()
    assert all(module.p == 0 for module in again.modules() if isinstance(module, torch.nn.Dropout))
    assert again.config.resid_pdrop == 0


def test_bfloat16_on_request(cache):
    assert load_causal_lm(resolve("random:llama", cache), torch.bfloat16).dtype is torch.bfloat16


def test_a_local_folder_is_itself(cache):
    folder = resolve("random:llama", cache)
    assert resolve(str(folder)) == folder


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pypi:smollm2-135m-instrct", "did you mean pypi:smollm2-135m-instruct"),
        ("all-minilm-l6-v2", "did you mean pypi:all-minilm-l6-v2"),
        ("random:gpt3", "did you mean random:gpt2"),
        ("bert", "did you mean random:bert"),
        ("no/such/place", "hf:ORG/NAME"),
    ],
)
def test_unknown_names_get_a_hint(name, hint):
    with pytest.raises(PartnerError, match=hint):
        resolve(name)


def test_every_known_name_resolves_or_is_embedded():
    assert {"pypi:smollm2-135m-instruct", "pypi:all-minilm-l6-v2", "random:gpt2"} <= set(known_names())


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(PartnerError, match=r"config\.json is missing"):
        resolve(str(tmp_path))
    with pytest.raises(PartnerError, match=r"config\.json is missing"):
        load_causal_lm(tmp_path)
    with pytest.raises(PartnerError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(PartnerError, match="pickled weights are not read"):
        load_causal_lm(tmp_path)


def test_damaged_files_are_one_clear_line(cache, tmp_path):
    folder = resolve("random:gpt2", cache)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:200])
    for load in (load_causal_lm, load_encoder, load_tokenizer):
        with pytest.raises(PartnerError, match=r"cannot (read|load)"):
            load(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(PartnerError, match="cannot load"):
        load_causal_lm(tmp_path)


def test_weights_of_another_kind_of_model(cache, tmp_path):
    (tmp_path / "config.json").write_bytes((resolve("random:llama", cache) / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((resolve("random:gpt2", cache) / "model.safetensors").read_bytes())
    with pytest.raises(PartnerError, match=r"lacks \d+ weights of a llama model"):
        load_causal_lm(tmp_path)


def test_an_unreachable_hub_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PartnerError, match="the hub is unreachable"):
        resolve("hf:someone/some-model")
    with pytest.raises(PartnerError, match="no valid name"):
        resolve("hf:one/two/three")


def test_the_real_tokenizer_is_used_as_saved(cache):
    folder = resolve("random:llama", cache)
    assert AutoTokenizer.from_pretrained(folder).pad_token == "<pad>"
    assert load_tokenizer(folder).pad_token == "<pad>"
