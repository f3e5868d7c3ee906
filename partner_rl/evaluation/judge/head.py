"""The judge's trained part: one multinomial logistic regression a mechanism, on standardised features.

Classes are not balanced: the probabilities then agree with the shares of the levels, which is what an expected level
needs.

Shapes: `_N` pair, `_F` feature, `_M` mechanism, `_L` level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from partner_rl.types import MECHANISMS, NUM_LEVELS

_NEVER: Final = -30.0
"""Logit of a level that training has not shown."""
_ITERATIONS: Final = 500
_MIN_SCALE: Final = 1e-6

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class JudgeHead:
    """The regressions of the three mechanisms.

    Attributes:
        weight_MLF: What a standardised feature says for each level.
        bias_ML: What the levels' shares say.
    """

    mean_F: FloatArray
    scale_F: FloatArray
    weight_MLF: FloatArray
    bias_ML: FloatArray

    def probabilities(self, features_NF: FloatArray) -> FloatArray:
        """Probability of each level, `[N, M, L]`."""
        standard_NF = (features_NF - self.mean_F) / self.scale_F
        logits_NML = np.einsum("nf,mlf->nml", standard_NF, self.weight_MLF) + self.bias_ML
        result: FloatArray = softmax(logits_NML, axis=-1)
        return result


def expected_levels(probabilities_NML: FloatArray) -> FloatArray:
    """Expected level of each mechanism, 0…2, `[N, M]`."""
    levels: FloatArray = probabilities_NML @ np.arange(NUM_LEVELS, dtype=np.float64)
    return levels


def fit_head(features_NF: FloatArray, levels_NM: IntArray, penalties: Sequence[float]) -> JudgeHead:
    """Fits the regressions.

    `penalties` are the `C` of each mechanism's regression; smaller is smoother.
    """
    mean_F, scale_F = features_NF.mean(axis=0), features_NF.std(axis=0)
    scale_F = np.where(scale_F > _MIN_SCALE, scale_F, 1.0)
    standard_NF = (features_NF - mean_F) / scale_F
    weight_MLF = np.zeros((len(MECHANISMS), NUM_LEVELS, features_NF.shape[1]))
    bias_ML = np.full((len(MECHANISMS), NUM_LEVELS), _NEVER)
    for m, penalty in enumerate(penalties):
        seen, coefficients_LF, intercepts_L = _regression(standard_NF, levels_NM[:, m], penalty)
        weight_MLF[m, seen], bias_ML[m, seen] = coefficients_LF, intercepts_L
    return JudgeHead(mean_F, scale_F, weight_MLF, bias_ML)


def log_loss(probabilities_NML: FloatArray, levels_NM: IntArray) -> FloatArray:
    """Mean negative log-probability of each mechanism's true level, `[M]`, in nats."""
    true_NM = np.take_along_axis(probabilities_NML, levels_NM[:, :, None], axis=-1)[:, :, 0]
    losses: FloatArray = -np.log(np.maximum(true_NM, np.finfo(np.float64).tiny)).mean(axis=0)
    return losses


def _regression(standard_NF: FloatArray, levels_N: IntArray, penalty: float) -> tuple[IntArray, FloatArray, FloatArray]:
    """The levels that occur, their coefficients and intercepts."""
    seen = np.unique(levels_N)
    if len(seen) == 1:
        return seen, np.zeros((1, standard_NF.shape[1])), np.zeros(1)
    model = LogisticRegression(C=penalty, max_iter=_ITERATIONS).fit(standard_NF, levels_N)
    if len(seen) > 2:
        return seen, model.coef_, model.intercept_
    # Of two classes scikit-learn keeps the second one's log-odds only.
    halves = np.array([-0.5, 0.5])
    return seen, halves[:, None] * model.coef_, halves * model.intercept_
