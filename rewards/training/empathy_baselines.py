"""What any empathy classifier must beat: the commonest level, and logistic regression on word n-grams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from partner_rl.types import MECHANISMS, NUM_LEVELS, Example
from rewards.ngrams import TOKEN_PATTERN
from rewards.training.empathy_targets import level_matrix

IntArray = npt.NDArray[np.int64]


def majority_levels(examples_train: Sequence[Example], examples: Sequence[Example]) -> IntArray:
    """Each mechanism's commonest training level for every pair, `[N, M]`."""
    levels_NM = level_matrix(examples_train)
    commonest = [int(np.bincount(levels_NM[:, m], minlength=NUM_LEVELS).argmax()) for m in range(len(MECHANISMS))]
    return np.tile(np.array(commonest, dtype=np.int64), (len(examples), 1))


def ngram_levels(examples_train: Sequence[Example], examples: Sequence[Example]) -> IntArray:
    """Levels by logistic regression with balanced classes on TF-IDF of the response's 1- to 3-grams, `[N, M]`."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 3), token_pattern=TOKEN_PATTERN, min_df=2, sublinear_tf=True)
    train = vectorizer.fit_transform([example.response_post for example in examples_train])
    features = vectorizer.transform([example.response_post for example in examples])
    levels_NM = level_matrix(examples_train)
    columns = []
    for m in range(len(MECHANISMS)):
        if len(np.unique(levels_NM[:, m])) == 1:
            columns.append(np.full(len(examples), levels_NM[0, m]))
            continue
        model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(train, levels_NM[:, m])
        columns.append(model.predict(features))
    return np.stack(columns, axis=1).astype(np.int64)
