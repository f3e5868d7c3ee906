"""Checks that a scorer's device exists where the scorer is built."""

from __future__ import annotations

import torch

from partner_rl.types import PartnerError


def check_device(device: str, component: str) -> None:
    """Fail early and by name when a scorer is to run on a GPU that its process cannot see.

    Raises:
        PartnerError: The device is `cuda` and there is none.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise PartnerError(
            f"scorer {component!r} was given a GPU (rewards.{component}.num_gpus), but its process sees none: "
            "set num_gpus to 0, or run it on a machine with a GPU and a CUDA build of torch"
        )
