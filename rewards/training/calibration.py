"""Calibration of class probabilities: temperature scaling and its error (Guo et al., ICML 2017).

Shapes: `_N` row, `_L` class.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS: Final = 15
"""Bins of confidence, of equal width."""
LOG_RANGE: Final = (-1.5, 2.0)
"""Range of the temperature's logarithm: a few held-out rows must not flatten or sharpen everything."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def fit_temperature(logits_NL: FloatArray, labels_N: IntArray) -> tuple[float, float]:
    """The temperature that makes held-out labels likeliest.

    Returns:
        The temperature, and the mean negative log-likelihood with it, in nats.
    """

    def loss(log_temperature: float) -> float:
        logprobs_NL = log_softmax(logits_NL / np.exp(log_temperature), axis=-1)
        return float(-logprobs_NL[np.arange(len(labels_N)), labels_N].mean())

    found = minimize_scalar(loss, bounds=LOG_RANGE, method="bounded")
    return float(np.exp(found.x)), float(found.fun)


def expected_calibration_error(probabilities_NL: FloatArray, labels_N: IntArray) -> float:
    """Mean distance between confidence and accuracy over bins of confidence, weighted by their rows; 0…1."""
    confidence_N = probabilities_NL.max(axis=-1)
    right_N = probabilities_NL.argmax(axis=-1) == labels_N
    bin_N = np.minimum((confidence_N * BINS).astype(np.int64), BINS - 1)
    distances = [
        abs(float(confidence_N[bin_N == b].mean()) - float(right_N[bin_N == b].mean())) * float((bin_N == b).mean())
        for b in np.unique(bin_N)
    ]
    return float(sum(distances))
