"""Levels from words and short phrases: the wide half of the empathy classifier.

Logistic regression on TF-IDF of a response's 1- to 3-grams knows the set phrases of each mechanism, and a question mark
from a full stop, better than a small encoder does; the encoder knows what was never said in these words. Their errors
differ, so that the mean of their logits is better than either (Wide & Deep, Cheng et al., 2016). N-grams are hashed:
the model keeps numbers, no words of the posts that it was trained on.

Shapes: `_N` text, `_F` hashed n-gram, `_M` mechanism, `_L` level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from partner_rl.types import MECHANISMS, NUM_LEVELS

NUM_FEATURES: Final = 2**17
"""Places for hashed n-grams: some ten thousand occur more than once in a corpus of a few thousand responses."""
TOKEN_PATTERN: Final = r"(?u)\b\w+\b|[?!]"
"""Words of any length, question and exclamation marks: a question mark is half of an exploration."""
MIN_TEXTS: Final = 2
"""N-grams of fewer training texts are ignored."""
INVERSE_PENALTY: Final = 3.0
"""`C` of the regression."""
_NEVER: Final = -10.0
"""Logit of a level that training has not shown."""

_VECTORIZER: Final = HashingVectorizer(
    n_features=NUM_FEATURES, ngram_range=(1, 3), token_pattern=TOKEN_PATTERN, alternate_sign=False, norm=None
)


class NgramLevels(nn.Module):
    """The regression's numbers; buffers, as gradients do not reach them.

    Attributes:
        idf_F: Inverse document frequency of each n-gram; 0 for those that are ignored.
        weight_FML: What an n-gram says for each level.
        bias_ML: What the levels' shares say.
    """

    idf_F: Tensor
    weight_FML: Tensor
    bias_ML: Tensor

    def __init__(self) -> None:
        """Knows nothing: every level is equally likely."""
        super().__init__()
        self.register_buffer("idf_F", torch.zeros(NUM_FEATURES))
        self.register_buffer("weight_FML", torch.zeros(NUM_FEATURES, len(MECHANISMS), NUM_LEVELS))
        self.register_buffer("bias_ML", torch.zeros(len(MECHANISMS), NUM_LEVELS))

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Log-probability of each level of each text, `[N, M, L]`, on the module's device."""
        if not texts:
            return self.bias_ML.new_zeros(0, len(MECHANISMS), NUM_LEVELS)
        features = _weigh(_VECTORIZER.transform(texts), self.idf_F.cpu().numpy())
        weights = self.weight_FML.flatten(1).cpu().numpy()
        logits = torch.from_numpy(np.ascontiguousarray(features @ weights, dtype=np.float32))
        return log_softmax(logits.view(-1, len(MECHANISMS), NUM_LEVELS).to(self.bias_ML.device) + self.bias_ML, dim=-1)

    def fit(self, texts: Sequence[str], levels_NM: Tensor, rows: npt.NDArray[np.int64] | None = None) -> None:
        """Fit the regression, levels balanced; a level that never occurs stays all but impossible.

        `rows` are the texts to fit on, repeats allowed; None for each once.
        """
        counts = _VECTORIZER.transform(texts)
        texts_with_F = np.asarray((counts > 0).sum(axis=0)).ravel()
        used = np.flatnonzero(texts_with_F >= MIN_TEXTS)
        idf_F = np.zeros(NUM_FEATURES, dtype=np.float32)
        idf_F[used] = np.log((1 + len(texts)) / (1 + texts_with_F[used])) + 1
        chosen = slice(None) if rows is None else rows
        features = _weigh(counts, idf_F)[:, used][chosen]
        self.idf_F.copy_(torch.from_numpy(idf_F))
        self.weight_FML.zero_()
        self.bias_ML.fill_(_NEVER)
        for m in range(len(MECHANISMS)):
            levels_N = levels_NM[chosen, m].numpy()
            seen = np.unique(levels_N)
            self.bias_ML[m, seen] = 0.0
            if len(seen) < 2 or len(used) == 0:
                continue
            model = LogisticRegression(class_weight="balanced", C=INVERSE_PENALTY, max_iter=1000)
            model.fit(features, levels_N)
            # Of two classes scikit-learn keeps the second one's log-odds only.
            coefficients, intercepts = model.coef_, model.intercept_
            if len(seen) == 2:
                coefficients = np.concatenate([-coefficients, coefficients]) / 2
                intercepts = np.array([-0.5, 0.5]) * intercepts
            for row, level in enumerate(seen):
                self.weight_FML[used, m, level] = torch.from_numpy(coefficients[row]).float()
                self.bias_ML[m, level] = float(intercepts[row])


def balanced_offsets(levels_NM: Tensor) -> Tensor:
    """What balancing adds to the logit of each level, `[M, L]`: minus the logarithm of its share, 0 without one."""
    columns = []
    for levels_N in levels_NM.T:
        counts_L = torch.bincount(levels_N, minlength=NUM_LEVELS).float()
        columns.append(torch.where(counts_L > 0, -(counts_L.clamp(min=1.0) / counts_L.sum()).log(), torch.zeros(())))
    return torch.stack(columns)


def _weigh(counts: csr_matrix, idf_F: np.ndarray[tuple[int], np.dtype[np.float32]]) -> csr_matrix:
    """TF-IDF with logarithmic term frequency, rows of unit length."""
    features = csr_matrix(counts, dtype=np.float32, copy=True)
    features.data = (1.0 + np.log(features.data)) * idf_F[features.indices]
    return normalize(features, copy=False)
