"""The policy as an RLlib RLModule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any, cast

import numpy as np
import torch
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from partner_rl.config.schema import PolicyConfig
from partner_rl.policy.logprobs import PackedBatch, action_logprobs
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy

PACKED = "packed"
"""Key of the `PackedBatch` in the batch of `forward_train`."""
LOGPROBS = "logprobs_GKT"
MASK = "mask_GKT"
POSITION_ENTROPY = "position_entropy_G"
REFERENCE_LOGITS = "reference_logits"
"""Key of the reference's logits in the batch of `forward_train`, where whole distributions are compared; else None."""
DIVERGENCE = "divergence_GKT"

_ATTRIBUTE = "language_model"
"""Name of the module's attribute that holds the model, and so the first part of every parameter's name."""


class RewriteModule(TorchRLModule):
    """Holds the policy; `forward_train` returns the log-probabilities of the batch's own actions.

    The model config names the policy's `folder`, its `settings` (`PolicyConfig` as a dict), the `window` and the
    `positions`. Sampling does not go through `forward_exploration`: the env runner calls `partner_rl.policy.generate`
    on `self.policy`.
    """

    policy: Policy

    def setup(self) -> None:
        """Loads the model from its folder."""
        model = cast(dict[str, Any], self.model_config)
        settings = PolicyConfig.model_validate(model["settings"])
        policy = load_policy(model["folder"], settings, model["window"])
        self.policy = policy.with_positions(model.get("positions", "all"))
        self.language_model = self.policy.model

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        packed: PackedBatch = batch[PACKED]
        with self.policy.autocast():
            out = action_logprobs(
                self.language_model,
                packed,
                self.policy.vocabulary,
                self.policy.settings.temperature,
                flex=self.policy.uses_flex_attention,
                reference_logits=batch.get(REFERENCE_LOGITS),
            )
        return {
            LOGPROBS: out.logprobs_GKT,
            MASK: out.mask_GKT,
            POSITION_ENTROPY: out.position_entropy_G,
            DIVERGENCE: out.divergence_GKT,
        }

    def weights_digest(self) -> str:
        """A digest of the trained parameters: two modules with the same one hold the same weights."""
        digest = blake2b(digest_size=16)
        for name, parameter in sorted(self.trainable_parameters().items()):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained, by name: all of them, or the adapters and the position tokens' rows."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, np.ndarray]:
        """The trained parameters alone, by name: with adapters, a weight sync sends only these."""
        # One copy: the learner goes on writing to its own memory while the state travels.
        return {name: p.detach().to("cpu", copy=True).numpy() for name, p in self.trainable_parameters().items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Sets the trained parameters.

        Raises:
            ValueError: The names differ from this module's trained parameters.
        """
        _copy_into(self.trainable_parameters(), state)


def load_trained_policy(
    folder: str, settings: PolicyConfig, window: int, weights: Mapping[str, torch.Tensor]
) -> Policy:
    """A policy with the trained parameters of a module that was made from the same folder and settings.

    Raises:
        ValueError: The names are not those of the module's trained parameters.
    """
    policy = load_policy(folder, settings, window)
    parameters = {f"{_ATTRIBUTE}.{name}": p for name, p in policy.model.named_parameters() if p.requires_grad}
    _copy_into(parameters, weights)
    return policy


@torch.no_grad()
def _copy_into(parameters: Mapping[str, torch.nn.Parameter], state: Mapping[str, Any]) -> None:
    if parameters.keys() != state.keys():
        odd = sorted(parameters.keys() ^ state.keys())
        raise ValueError(f"the state is not this module's: {len(odd)} names differ, such as {odd[0]}")
    for name, parameter in parameters.items():
        value = state[name]
        if isinstance(value, torch.Tensor):
            parameter.copy_(value)
        elif parameter.device.type == "cpu":
            # Arrays out of the object store are read-only, which torch does not support and numpy does.
            np.copyto(parameter.detach().numpy(), value)
        else:
            parameter.copy_(torch.from_numpy(np.array(value)))
