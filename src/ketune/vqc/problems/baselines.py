"""Classical baselines of labelled data: logistic regression on features that training rows alone have fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ketune.circuits._optional import library
from ketune.vqc.problems.base import LabelledData, Rows
from ketune.vqc.problems.quantum_dots import SIDE, fft_features, moments

BASELINES = ("raw", "pca", "moments", "fft")
"""Names of the features."""


STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Inverse penalties that `logistic_accuracy` tries."""


def logistic_accuracy(data: LabelledData, features: str = "raw", part: str = "test") -> float:
    """The accuracy of logistic regression on simple features of the rows.

    Features are standardised, and principal components found, on training rows only; the penalty is the one of
    `STRENGTHS` that does best on validation rows.

    Args:
        data: the rows.
        features: "raw" (the rows as they are), "pca" (8 principal components), "moments" (mean, deviation, third
            moment of a row) or "fft" (`fft_features`, for 50 x 50 images).
        part: "validation" or "test".

    Returns:
        share of right rows.

    Raises:
        ValueError: for unknown features or parts, or "fft" for other than 50 x 50 images.
        MissingLibraryError: without scikit-learn.
    """
    if features not in BASELINES:
        raise ValueError(f"features={features!r}: choose one of {', '.join(map(repr, BASELINES))}")
    if features == "fft" and data.shape != (SIDE, SIDE):
        raise ValueError(f"{data.name}: features='fft' are of images of {SIDE} x {SIDE}, not of shape {data.shape}")
    if part not in ("validation", "test"):
        raise ValueError(f"part={part!r}: choose 'validation' or 'test'")
    make: Callable[[Tensor], Tensor] = {"fft": fft_features, "moments": moments}.get(features, lambda x: x)
    front = [library("sklearn.preprocessing").StandardScaler()]
    if features == "pca":
        front.append(library("sklearn.decomposition").PCA(8, random_state=0))
    first = library("sklearn.pipeline").make_pipeline(*front)
    train = first.fit_transform(make(data.train.x).double().numpy())
    linear = library("sklearn.linear_model")
    models = [linear.LogisticRegression(C=c, max_iter=2000).fit(train, data.train.y.numpy()) for c in STRENGTHS]

    def accuracy(model: Any, rows: Rows) -> float:
        return float(model.score(first.transform(make(rows.x).double().numpy()), rows.y.numpy()))

    best = max(models, key=lambda model: accuracy(model, data.validation))
    return accuracy(best, getattr(data, part))
