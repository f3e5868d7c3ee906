"""Where the driver computes."""

from __future__ import annotations

import torch

from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError


def device_of(config: RunConfig) -> str:
    """The driver's torch device."""
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cuda" and not torch.cuda.is_available():
        raise PartnerError("device=cuda, but torch sees no GPU: set device=auto, or install a CUDA build of torch")
    return config.device
