"""Memory of the commands that train one model on examples, in one process."""

from __future__ import annotations

from typing import Final

from launch.plan import DRIVER, Plan
from launch.preflight.memory import (
    ENCODER,
    POLICY,
    REWARD_LM,
    ProcessMemory,
    Shapes,
    prompt_tokens,
    supervised_memory,
    trained_parameters,
)
from launch.preflight.model_shape import ModelShape
from partner_rl.config.schema import RunConfig
from partner_rl.config.section import LoraSection

_COHERENCE_TOKENS: Final = 1024
"""Tokens of a pass of the coherence classifier's training."""
_JUDGE_TOKENS: Final = 4096
"""Tokens of a pass of the judge's language model, which is not trained."""


def warm_start_memory(config: RunConfig, plan: Plan, shapes: Shapes) -> tuple[ProcessMemory, ...]:
    """Of `partner-rl warmstart`."""
    shape, settings = shapes.get(POLICY), config.warmstart
    if shape is None:
        return ()
    trained = trained_parameters(shape, config.policy, config.env.window)
    longest = prompt_tokens(config) + config.policy.max_new_tokens
    tokens = max(min(settings.micro_batch_tokens, settings.batch_size * longest), longest)
    return (supervised_memory(DRIVER, shape, trained, tokens, on_gpu=_on_gpu(config, plan)),)


def empathy_memory(config: RunConfig, plan: Plan, shapes: Shapes) -> tuple[ProcessMemory, ...]:
    """Of `partner-rl rewards train empathy`: two encoders, the lowest layers frozen."""
    shape, settings = shapes.get(ENCODER), config.reward_training
    if shape is None:
        return ()
    trained = 2 * _upper_layers(shape, settings.frozen_layers)
    tokens = settings.batch_size * max(settings.empathy_max_tokens, settings.max_tokens)
    return (supervised_memory(DRIVER, shape, trained, tokens, on_gpu=_on_gpu(config, plan), models=2, has_head=False),)


def coherence_memory(config: RunConfig, plan: Plan, shapes: Shapes) -> tuple[ProcessMemory, ...]:
    """Of `partner-rl rewards train coherence`."""
    shape, settings = shapes.get(ENCODER), config.reward_training
    if shape is None:
        return ()
    trained = _upper_layers(shape, settings.coherence_frozen_layers)
    return (supervised_memory(DRIVER, shape, trained, _COHERENCE_TOKENS, on_gpu=_on_gpu(config, plan), has_head=False),)


def dialogue_memory(config: RunConfig, plan: Plan, shapes: Shapes) -> tuple[ProcessMemory, ...]:
    """Of `partner-rl rewards train mi`, whose two models are trained one after the other."""
    shape, settings = shapes.get(REWARD_LM), config.reward_training
    if shape is None:
        return ()
    tokens = max(settings.mi_batch_tokens, 2 * config.rewards.max_tokens)
    trained = _adapted(shape, settings.mi_lora)
    return (supervised_memory(DRIVER, shape, trained, tokens, on_gpu=_on_gpu(config, plan)),)


def seq2seq_memory(config: RunConfig, plan: Plan, shapes: Shapes) -> tuple[ProcessMemory, ...]:
    """Of `partner-rl baselines train-seq2seq`."""
    shape, settings = shapes.get(POLICY), config.baselines
    if shape is None:
        return ()
    longest = 2 * settings.max_post_tokens + settings.max_new_tokens
    tokens = max(settings.seq2seq_batch_tokens, longest)
    trained = _adapted(shape, settings.seq2seq_lora)
    return (supervised_memory(DRIVER, shape, trained, tokens, on_gpu=_on_gpu(config, plan)),)


def judge_memory(config: RunConfig, plan: Plan, shapes: Shapes) -> tuple[ProcessMemory, ...]:
    """Of `partner-rl judge train`: a frozen language model, of which one layer after the other is computed."""
    shape = shapes.get(REWARD_LM)
    if shape is None:
        return ()
    tokens = _JUDGE_TOKENS // shape.layers
    return (supervised_memory(DRIVER, shape, 0, tokens, on_gpu=_on_gpu(config, plan), has_head=False),)


def _on_gpu(config: RunConfig, plan: Plan) -> bool:
    return config.device != "cpu" and plan.machine_gpus > 0


def _adapted(shape: ModelShape, lora: LoraSection | None) -> int:
    return shape.parameters if lora is None else lora.rank * shape.linear_width


def _upper_layers(shape: ModelShape, frozen: int) -> int:
    """Parameters above the frozen layers; with any frozen layer the embeddings are frozen too."""
    if frozen == 0:
        return shape.parameters
    body = shape.parameters - shape.vocabulary * shape.hidden
    return body * max(0, shape.layers - frozen) // shape.layers
