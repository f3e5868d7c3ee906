"""The update: one pass over each group's shared prompt, gradients accumulated over micro-batches."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from partner_rl import metric_names as names
from partner_rl.algorithm.batch import EPISODES, GROUPS, TrainingGroup, micro_batches
from partner_rl.algorithm.losses import (
    Surrogate,
    kl_estimate,
    kl_penalty,
    policy_gradient_loss,
    rounding_weights,
    surrogate_loss,
)
from partner_rl.algorithm.rllib_internals import WholeStepLearner
from partner_rl.algorithm.update_metrics import GAP_LIMITS, LogprobGap, StepMetrics
from partner_rl.config.schema import AlgorithmConfigSection, RunConfig
from partner_rl.policy.logprobs import PackedBatch, action_logits, logprobs_of, pack_groups
from partner_rl.policy.module import (
    DIVERGENCE,
    LOGPROBS,
    MASK,
    PACKED,
    POSITION_ENTROPY,
    REFERENCE_LOGITS,
    RewriteModule,
)
from partner_rl.seeds import generator_of
from partner_rl.types import PartnerError

MEASURED_PART = 4
"""Without a KL penalty the divergence is measured on one in this many groups: a look at the reference takes time."""


class RewriteLearner(WholeStepLearner):
    """Policy gradient with a names.POLICY_KL penalty towards the policy that training started from."""

    # What the last optimizer step measured.
    step_metrics: StepMetrics
    _gaps: list[torch.Tensor]

    def build(self) -> None:
        """Builds module and optimizer and keeps the reference policy."""
        super().build()
        self._kl_coeff = self._run.algorithm.kl_coeff
        self._surrogate = surrogate_of(self._run.algorithm)
        module = self._rewrite_module
        # With adapters the reference is the same model with the adapters off. Without a penalty it is for the metrics.
        needs_copy = module.policy.settings.lora is None
        self._reference = copy.deepcopy(module.policy.model).requires_grad_(False) if needs_copy else None

    @property
    def _run(self) -> RunConfig:
        return cast(RunConfig, cast(Any, self.config).run)

    @property
    def _rewrite_module(self) -> RewriteModule:
        return cast(RewriteModule, self.module[DEFAULT_MODULE_ID].unwrapped())

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return cast(torch.optim.Optimizer, self.get_optimizer(DEFAULT_MODULE_ID))

    def set_kl_coeff(self, coefficient: float) -> None:
        """Sets the weight of the names.POLICY_KL penalty from the next update on."""
        self._kl_coeff = coefficient

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW over the trained parameters."""
        parameters = list(self._rewrite_module.trainable_parameters().values())
        decay = self._run.algorithm.weight_decay
        optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=decay, fused=True)
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=config.lr
        )

    def optimizer_step(self, columns: Mapping[str, Any]) -> float:
        """One optimizer step, its gradients accumulated over micro-batches; leaves `step_metrics` and returns the loss.

        Raises:
            PartnerError: The gradient is not finite.
        """
        groups: list[TrainingGroup] = list(columns[GROUPS])
        counts = _Counts(episodes=int(columns[EPISODES][0]), prompts=len(groups))
        # With several learners it is wrapped for data parallelism, which adds `no_sync`.
        module: Any = self.module[DEFAULT_MODULE_ID]
        self._optimizer.zero_grad(set_to_none=True)
        self.step_metrics, self._gaps = StepMetrics(), []
        parts = micro_batches(groups, self._run.algorithm.micro_batch_tokens)
        for index, part in enumerate(parts):
            # Learners exchange gradients once, with the last micro-batch.
            hold = self.config.num_learners > 1 and index < len(parts) - 1
            with module.no_sync() if hold else contextlib.nullcontext():
                inputs = {DEFAULT_MODULE_ID: self._inputs(part, counts)}
                outputs = self.module.forward_train(inputs)
                self.compute_losses(fwd_out=outputs, batch=inputs)[DEFAULT_MODULE_ID].backward()
        if not self._kl_coeff:
            self._measure_sampler_kl(_some_of(groups))
        self._measure_gap()
        self.step_metrics.add(names.TRAIN_GRAD_NORM, self._apply_clipped(), 1)
        loss, _ = self.step_metrics.sums[names.TRAIN_LOSS]
        # The micro-batches' shares add up to the step's loss.
        self.step_metrics.sums[names.TRAIN_LOSS] = (loss, 1)
        return loss

    def _measure_gap(self) -> None:
        gap = LogprobGap.of(self._gaps)
        self.step_metrics.gap = gap
        if not GAP_LIMITS[self._run.policy.dtype].hold(gap):
            # The weights are about to change, and whoever reports the gap must know which ones it was measured with.
            self.step_metrics.weights_digest = self._rewrite_module.weights_digest()

    @torch.no_grad()
    def _measure_sampler_kl(self, groups: list[TrainingGroup]) -> None:
        """Measures how far the policy that sampled some groups is from the reference, by one pass of the reference."""
        for part in micro_batches(groups, self._run.algorithm.micro_batch_tokens):
            packed = self._packed(part)
            reference = self._reference_logprobs(packed, self._reference_logits(packed))
            _, sampled_GKT = _targets(part, reference.mask_GKT)
            self._measure_kl(sampled_GKT, reference)

    def _packed(self, part: list[TrainingGroup]) -> PackedBatch:
        policy = self._rewrite_module.policy
        packed = pack_groups([g.group for g in part], policy.vocabulary, policy.pad_id)
        return packed.to(policy.device)

    def _reference_logprobs(self, packed: PackedBatch, logits: torch.Tensor) -> _Reference:
        policy = self._rewrite_module.policy
        of = partial(logprobs_of, vocabulary=policy.vocabulary, temperature=policy.settings.temperature)
        # The reference gives every word a probability, also where the sampler left out some.
        whole = of(logits, replace(packed, kept_GCW=None))
        kept_GKT = None if packed.kept_GCW is None else of(logits, packed).logprobs_GKT
        return _Reference(whole.logprobs_GKT, whole.mask_GKT, kept_GKT)

    def _inputs(self, part: list[TrainingGroup], counts: _Counts) -> dict[str, Any]:
        """A micro-batch as the module and the loss read it; with the reference where there is a penalty."""
        packed = self._packed(part)
        inputs = {PACKED: packed, "groups": part, "counts": counts}
        if not self._kl_coeff:
            return inputs
        logits = self._reference_logits(packed)
        is_exact = self._run.algorithm.kl_gradient == "exact"
        reference = self._reference_logprobs(packed, logits)
        return inputs | {"reference": reference, REFERENCE_LOGITS: logits if is_exact else None}

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """The micro-batch's share of the loss: policy gradient − position entropy + β · KL to the reference."""
        counts: _Counts = batch["counts"]
        advantages_GK, sampled_GKT = _targets(batch["groups"], fwd_out[MASK])
        loss = self._policy_loss(fwd_out, sampled_GKT, advantages_GK) / counts.episodes
        entropy = fwd_out[POSITION_ENTROPY].sum()
        self.step_metrics.add(names.POLICY_POSITION_ENTROPY, entropy, len(fwd_out[POSITION_ENTROPY]))
        settings = self._run.algorithm
        if settings.position_entropy_coeff:
            loss = loss - settings.position_entropy_coeff * entropy / counts.prompts
        if self._kl_coeff:
            # Where ratios are used, the policy may have moved since it sampled.
            earlier_GKT = None if self._surrogate is None else sampled_GKT
            self._measure_kl(fwd_out[LOGPROBS], batch["reference"], earlier_GKT)
            penalty = kl_penalty(
                fwd_out[LOGPROBS],
                batch["reference"].logprobs_GKT,
                fwd_out[MASK],
                settings.kl_gradient,
                exact_GKT=fwd_out[DIVERGENCE],
                sampled_GKT=earlier_GKT,
            )
            loss = loss + self._kl_coeff * penalty / counts.episodes
        self.step_metrics.add(names.TRAIN_LOSS, loss, 1)
        self._gaps.append((fwd_out[LOGPROBS].detach() - sampled_GKT)[fwd_out[MASK]])
        return loss

    @torch.no_grad()
    def _measure_kl(
        self, logprobs_GKT: torch.Tensor, reference: _Reference, sampled_GKT: torch.Tensor | None = None
    ) -> None:
        mask_GKT, kept_GKT = reference.mask_GKT, reference.kept_GKT
        kl = kl_estimate(logprobs_GKT, reference.logprobs_GKT, mask_GKT, kept_GKT, sampled_GKT).item()
        self.step_metrics.add(names.POLICY_KL, kl, int(mask_GKT.sum()))
        self.step_metrics.add(names.POLICY_KL_SENTENCE, kl, int(mask_GKT[:, :, 0].sum()))

    def _policy_loss(
        self, fwd_out: dict[str, Any], sampled_GKT: torch.Tensor, advantages_GK: torch.Tensor
    ) -> torch.Tensor:
        """The policy gradient, summed over samples; through importance ratios where the policy may have moved."""
        surrogate, logprobs_GKT, mask_GKT = self._surrogate, fwd_out[LOGPROBS], fwd_out[MASK]
        tokens, actions = int(mask_GKT.sum()), int(mask_GKT[:, :, 0].sum())
        if surrogate is not None:
            terms = surrogate_loss(logprobs_GKT, sampled_GKT, mask_GKT, advantages_GK, surrogate)
            units = tokens if surrogate.ratio == "token" else actions
            self.step_metrics.add(names.TRAIN_RATIO, terms.ratio, units)
            self.step_metrics.add(names.TRAIN_CLIP_FRACTION, terms.clipped, units)
            self.step_metrics.add(names.TRAIN_SAMPLER_KL, terms.sampler_kl, tokens)
            return terms.loss
        weights_GKT = None
        if self._run.policy.dtype == "bfloat16":
            weights_GKT, cut_off = rounding_weights(logprobs_GKT, sampled_GKT, mask_GKT)
            self.step_metrics.add(names.TRAIN_TRUNCATED_WEIGHTS, cut_off, tokens)
        return policy_gradient_loss(logprobs_GKT, mask_GKT, advantages_GK, weights_GKT)

    @torch.no_grad()
    def _reference_logits(self, packed: PackedBatch) -> torch.Tensor:
        policy = self._rewrite_module.policy
        model = policy.model if self._reference is None else self._reference
        off = policy.adapters_off() if self._reference is None else contextlib.nullcontext()
        with off, policy.autocast():
            return action_logits(model, packed, flex=policy.uses_flex_attention)

    def _apply_clipped(self) -> float:
        parameters = list(self._rewrite_module.trainable_parameters().values())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._run.algorithm.grad_clip))
        if not np.isfinite(norm):
            raise PartnerError(
                f"the gradient norm is {norm}: lower algorithm.learning_rate, "
                "or look for extreme rewards in metrics.jsonl"
            )
        self._optimizer.step()
        return norm

    def trained_numbers(self) -> int:
        """How many numbers the trained parameters have."""
        return sum(parameter.numel() for parameter in self._rewrite_module.trainable_parameters().values())

    def training_state(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The trained parameters and the optimizer's state, by name, on the CPU."""
        parameters = self._rewrite_module.trainable_parameters()
        optimizer_state = {
            f"{name}/{key}": value.detach().cpu().clone()
            for name, parameter in parameters.items()
            for key, value in self._optimizer.state[parameter].items()
        }
        return {name: p.detach().cpu().clone() for name, p in parameters.items()}, optimizer_state

    @torch.no_grad()
    def set_training_state(self, weights: dict[str, torch.Tensor], optimizer_state: dict[str, torch.Tensor]) -> None:
        """Takes back what `training_state` returned.

        Raises:
            ValueError: The names are not those of this learner's parameters.
        """
        module = self._rewrite_module
        module.set_state({name: tensor.numpy() for name, tensor in weights.items()})
        states: dict[str, dict[str, torch.Tensor]] = {}
        for path, value in optimizer_state.items():
            name, key = path.rsplit("/", 1)
            # A copy: fused AdamW writes to all of it, the step count included, in place.
            states.setdefault(name, {})[key] = value.to(module.policy.device, copy=True)
        for name, parameter in module.trainable_parameters().items():
            if name in states:
                self._optimizer.state[parameter] = states[name]


def surrogate_of(settings: AlgorithmConfigSection) -> Surrogate | None:
    """How the update treats what it was not sampled by; None where every sample is of the policy that is updated."""
    if settings.clip_range is None and settings.steps_per_iteration == 1:
        return None
    high = settings.clip_range if settings.clip_range_high is None else settings.clip_range_high
    return Surrogate(settings.importance_ratio, settings.clip_range, high)


@dataclass(frozen=True, slots=True)
class _Reference:
    """Log-probabilities of actions under the reference; `kept_GKT` are those among the words that truncation left."""

    logprobs_GKT: torch.Tensor
    mask_GKT: torch.Tensor
    kept_GKT: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the terms of the loss are divided by."""

    episodes: int
    prompts: int


def _some_of(groups: list[TrainingGroup]) -> list[TrainingGroup]:
    """A quarter of the groups, drawn by what they hold, so that a resumed run draws the same."""
    words = (token for item in groups for action in item.group.actions for token in action.tokens)
    chosen = generator_of("measured groups", *words).permutation(len(groups))[: -(-len(groups) // MEASURED_PART)]
    return [groups[index] for index in sorted(chosen.tolist())]


def _targets(part: list[TrainingGroup], mask_GKT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages `[G, K]` and sampling-time log-probabilities `[G, K, T]`, shaped like the forward pass's result."""
    advantages_GK = torch.zeros(mask_GKT.shape[:2])
    sampled_GKT = torch.zeros(mask_GKT.shape)
    for g, item in enumerate(part):
        advantages_GK[g, : len(item.advantages)] = torch.tensor(item.advantages)
        for k, values in enumerate(item.logprobs):
            sampled_GKT[g, k, : len(values)] = torch.tensor(values)
    return advantages_GK.to(mask_GKT.device), sampled_GKT.to(mask_GKT.device)
