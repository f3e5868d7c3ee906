"""How much memory each process of a run needs, from the sizes of its models and the run's settings.

An estimate in bytes, on the safe side of what torch allocates at its peak: weights, gradients and AdamW's two moments
are exact; keys and values follow from the settings; activations count what linear maps, normalisations and
non-linearities keep of a token for the backward pass (Korthikanti et al. 2022 count the same for GPT).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from launch.resources.model_shape import ModelShape
from launch.resources.plan import DRIVER, ENV_RUNNERS, LEARNERS, Plan, reward_group_name
from partner_rl.cluster.placement import ActorGroup
from partner_rl.config.schema import PolicyConfig, RunConfig
from partner_rl.config.section import LoraSection
from partner_rl.positions import num_positions

GIB: Final = 2**30
POLICY: Final = "models.policy"
REWARD_LM: Final = "models.reward_lm"
ENCODER: Final = "models.encoder"

Shapes = Mapping[str, ModelShape | None]
"""Key of the configuration → the model's sizes, None where they are not known."""

_FLOAT: Final = 4
_ADAM_MOMENTS: Final = 2
_GPU_CONTEXT: Final = 600 * 2**20
"""What CUDA and its libraries take of a GPU for each process."""
_PROCESS: Final = 700 * 2**20
"""Resident memory of a Python process that has imported torch, transformers and Ray."""
_FRAGMENTATION: Final = 1.1
"""torch's allocator keeps blocks that are free but do not fit."""
_PROMPT_FRAME: Final = 12
"""Tokens of a prompt that are neither post nor sentences (see `partner_rl.policy.prompt`)."""
_SENTENCE_FRAME: Final = 4
_KEPT_BYTES: Final = MappingProxyType({"float32": 7, "bfloat16": 4})
"""Bytes that the forward pass keeps for each input and output of a linear map: those themselves and what normalisations
and non-linearities keep beside them. Measured: 4.7 (Llama) to 6.5 (GPT-2, whose GELU is not fused), 3 in bfloat16."""
_DECODING_COPIES: Final = 3
"""Tensors over the vocabulary that a decoding step holds for each row: logits, scaled ones, cumulative ones."""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """What one process of a group needs at its peak, in bytes.

    Attributes:
        group: The group's name in the plan.
        on_gpu: Whether its models are on a GPU; otherwise all of this is the machine's memory.
        reference: The frozen copy for the KL penalty.
        kv_cache: Keys and values while it samples.
        activations: Of the update's largest forward and backward pass, or of the largest forward pass alone.
        overhead: CUDA's context on a GPU, Python with its libraries otherwise.
    """

    group: str
    on_gpu: bool
    weights: int
    gradients: int = 0
    optimizer: int = 0
    reference: int = 0
    kv_cache: int = 0
    activations: int = 0
    overhead: int = 0

    @property
    def total(self) -> int:
        """Everything together, with what the allocator wastes."""
        tensors = self.weights + self.gradients + self.optimizer + self.reference + self.kv_cache + self.activations
        return int(tensors * _FRAGMENTATION) + self.overhead


def run_memory(config: RunConfig, plan: Plan, shapes: Shapes) -> tuple[ProcessMemory, ...]:
    """The memory of one process of each group of a run, as far as its models are known.

    Args:
        config: The run, with GPUs shared out.
        plan: Its plan.
        shapes: The models' sizes, keyed `models.policy`, `models.reward_lm` and `models.encoder`.
    """
    found = [_policy_process(group.name, config, shapes.get(POLICY)) for group in plan.groups if _has_policy(group)]
    for name in ("empathy", "fluency", "coherence", "mutual_information", "listener"):
        if plan.reward_group(name) is not None:
            found.append(_reward_process(name, config, shapes))
    return tuple(process for process in found if process is not None)


def scoring_memory(config: RunConfig, plan: Plan, shapes: Shapes) -> tuple[ProcessMemory, ...]:
    """The same for an evaluation: the driver samples from a policy, reward pools score."""
    shape, rows = shapes.get(POLICY), config.evaluation.batch_size
    found = [] if shape is None else [_sampling_driver(config, shape, rows)]
    return (*found, *(process for process in run_memory(config, plan, shapes) if process.group != DRIVER))


def _sampling_driver(config: RunConfig, shape: ModelShape, rows: int) -> ProcessMemory:
    on_gpu = config.algorithm.num_learners == 0 and config.algorithm.num_gpus_per_learner > 0
    return ProcessMemory(
        DRIVER,
        on_gpu,
        weights=_FLOAT * shape.parameters,
        kv_cache=_kv_cache(config, shape, rows, rows),
        activations=_decoding(config, shape, rows, rows),
        overhead=_GPU_CONTEXT if on_gpu else _PROCESS,
    )


def _has_policy(group: ActorGroup) -> bool:
    return group.name in (DRIVER, ENV_RUNNERS, LEARNERS)


def trained_parameters(shape: ModelShape, settings: PolicyConfig, window: int) -> int:
    """Numbers that training changes: all weights, or the adapters and the position tokens' rows."""
    rows = num_positions(window) * shape.hidden
    if settings.lora is None:
        return shape.parameters + rows * (1 if shape.is_tied else 2)
    return settings.lora.rank * shape.linear_width + rows * (1 if shape.is_tied else 2)


def _policy_process(group: str, config: RunConfig, shape: ModelShape | None) -> ProcessMemory | None:
    """A process that learns, samples or does both; the driver does what is left to it."""
    if shape is None:
        return None
    algorithm = config.algorithm
    learns = group == LEARNERS or (group == DRIVER and algorithm.num_learners == 0)
    samples = group == ENV_RUNNERS or (group == DRIVER and algorithm.num_env_runners == 0)
    gpus = algorithm.num_gpus_per_env_runner if group == ENV_RUNNERS else algorithm.num_gpus_per_learner
    on_gpu = gpus > 0 and (group != DRIVER or learns)
    overhead = _GPU_CONTEXT if on_gpu else _PROCESS
    if not learns and not samples:
        return ProcessMemory(group, False, 0, overhead=_PROCESS)
    trained = trained_parameters(shape, config.policy, config.env.window)
    prompts, rows = _sampled_at_once(config)
    keeps_copy = learns and config.policy.lora is None
    # A driver that has only one of the two roles holds one module for it, like the one that has both.
    return ProcessMemory(
        group,
        on_gpu,
        weights=_FLOAT * shape.parameters,
        gradients=_FLOAT * trained if learns else 0,
        optimizer=_FLOAT * _ADAM_MOMENTS * trained if learns else 0,
        reference=_FLOAT * shape.parameters if keeps_copy else 0,
        kv_cache=_kv_cache(config, shape, prompts, rows) if samples else 0,
        activations=max(
            _update(config, shape) if learns else 0,
            _decoding(config, shape, prompts, rows) if samples else 0,
        ),
        overhead=overhead,
    )


def prompt_tokens(config: RunConfig) -> int:
    """Tokens of the longest prompt."""
    policy = config.policy
    return policy.max_seeker_tokens + _PROMPT_FRAME + config.env.window * (policy.max_sentence_tokens + _SENTENCE_FRAME)


def _sampled_at_once(config: RunConfig) -> tuple[int, int]:
    """Prompts and rows that one sampler has in memory together.

    A group's samples share their prompt up to the first edit; after it each has a prompt of its own.
    """
    algorithm = config.algorithm
    each = algorithm.groups_per_iteration // max(1, algorithm.num_env_runners)
    groups = min(each, algorithm.groups_per_chunk or each)
    rows = groups * algorithm.samples_per_group
    return rows if config.env.max_edits > 1 else groups, rows


def _kv_cache(config: RunConfig, shape: ModelShape, prompts: int, rows: int) -> int:
    """Keys and values of the prompts and of the rows that are decoded from them, in float32 whatever computes them."""
    tokens = prompts * prompt_tokens(config) + rows * config.policy.max_new_tokens
    return tokens * shape.layers * 2 * shape.key_value_width * _FLOAT


def _decoding(config: RunConfig, shape: ModelShape, prompts: int, rows: int) -> int:
    """The larger of a decoding step's rows over the vocabulary and of one layer of the prompts."""
    layer = prompts * prompt_tokens(config) * (shape.linear_width // shape.layers) * _compute_bytes(config)
    return max(rows * shape.vocabulary * _FLOAT * _DECODING_COPIES, layer)


def _update(config: RunConfig, shape: ModelShape) -> int:
    """One forward and backward pass over a micro-batch of packed groups."""
    prompt = prompt_tokens(config)
    actions = config.algorithm.samples_per_group * config.policy.max_new_tokens
    # A group that is larger than the budget goes alone.
    tokens = max(config.algorithm.micro_batch_tokens, prompt + actions)
    width = _compute_bytes(config)
    # Explicit masks are stored entry by entry.
    mask = 0 if config.policy.attention == "flex" else tokens * (prompt + actions) * _FLOAT
    # Logits of the action columns: themselves, a scaled copy and their gradient, all in float32.
    logits = tokens * actions // (prompt + actions) * shape.vocabulary * 3 * _FLOAT
    # Autocast keeps a cast copy of every weight for the backward pass.
    casts = shape.parameters * width if width < _FLOAT else 0
    return tokens * shape.linear_width * _KEPT_BYTES[config.policy.dtype] + mask + logits + casts


def _compute_bytes(config: RunConfig) -> int:
    return 2 if config.policy.dtype == "bfloat16" else _FLOAT


def _reward_process(component: str, config: RunConfig, shapes: Shapes) -> ProcessMemory | None:
    """A reward actor: its models in float32 and one forward pass."""
    section = getattr(config.rewards, component)
    models = _models_of(component, config)
    is_lm = _reads_with_lm(component, config)
    shape = shapes.get(REWARD_LM if is_lm else ENCODER)
    if shape is None:
        return None
    # Here, because torch takes seconds to import.
    from rewards.language_model import TOKENS_PER_PASS

    on_gpu = section.num_gpus > 0
    logits = 2 * 256 * shape.vocabulary * _FLOAT if is_lm else 0
    layer = TOKENS_PER_PASS * (shape.linear_width // shape.layers) * _FLOAT
    return ProcessMemory(
        reward_group_name(component),
        on_gpu,
        weights=models * _FLOAT * shape.parameters,
        activations=layer + logits,
        overhead=_GPU_CONTEXT if on_gpu else _PROCESS,
    )


def _reads_with_lm(component: str, config: RunConfig) -> bool:
    """Whether the component's scorer is a language model; else it is an encoder."""
    if component == "listener":
        return config.rewards.listener.scorer == "backward"
    return component in ("fluency", "mutual_information")


def _models_of(component: str, config: RunConfig) -> int:
    """Models that a reward actor loads; of mutual information those that differ and have a share."""
    if component == "empathy":
        # Two encoders a member, of which only the bound reads more than the first.
        bounded = config.rewards.empathy.score == "conservative"
        return 2 * (config.reward_training.empathy_members if bounded else 1)
    if component != "mutual_information":
        return 1
    section = config.rewards.mutual_information
    forward = {section.forward_checkpoint or REWARD_LM} if section.lambda_mi > 0 else set()
    return len(forward | ({section.backward_checkpoint or REWARD_LM} if section.lambda_mi < 1 else set()))


def supervised_memory(
    group: str, shape: ModelShape, trained: int, tokens: int, *, on_gpu: bool, models: int = 1, has_head: bool = True
) -> ProcessMemory:
    """A process that trains a model on examples: the warm start, a reward model or a baseline.

    Args:
        group: Its name.
        shape: The model.
        trained: Numbers that are trained.
        tokens: Padded tokens of a forward and backward pass.
        on_gpu: Whether it trains on a GPU.
        models: Copies of the model that it trains together.
        has_head: Whether each token is compared with the whole vocabulary.
    """
    logits = 3 * tokens * shape.vocabulary * _FLOAT if has_head else 0
    return ProcessMemory(
        group,
        on_gpu,
        weights=models * _FLOAT * shape.parameters,
        gradients=_FLOAT * trained,
        optimizer=_FLOAT * _ADAM_MOMENTS * trained,
        activations=models * tokens * shape.linear_width * _KEPT_BYTES["float32"] + logits,
        overhead=_GPU_CONTEXT if on_gpu else _PROCESS,
    )


def checkpoint_bytes(shape: ModelShape, settings: PolicyConfig, window: int) -> int:
    """A training state on the disk: trained weights and AdamW's moments, in float32."""
    return _FLOAT * (1 + _ADAM_MOMENTS) * trained_parameters(shape, settings, window)


def export_bytes(shape: ModelShape, window: int) -> int:
    """A policy in the Hugging Face format, with the rows of the position tokens."""
    return _FLOAT * (shape.parameters + num_positions(window) * shape.hidden * (1 if shape.is_tied else 2))


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
