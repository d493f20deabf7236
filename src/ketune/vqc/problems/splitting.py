"""Splitting rows into training, validation and test, and scales that only training rows decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ketune.vqc.problems.base import LabelledData, Rows

SCALES = ("columns", "whole", "robust", "none")
"""Names of the scales."""


def stratified_parts(y: Tensor, shares: Sequence[float], numbers: np.random.Generator) -> tuple[Tensor, ...]:
    """Random parts of the rows with the classes in equal proportion in each, as far as whole rows allow.

    Args:
        y: (n,) classes.
        shares: share of each part, positive, with the sum 1.
        numbers: source of randomness.

    Returns:
        for each part the indices of its rows, shuffled.

    Raises:
        ValueError: for other shares.
    """
    if not shares or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares={tuple(shares)}: give positive shares whose sum is 1")
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for number in np.unique(y.numpy()):
        rows = numbers.permutation(np.flatnonzero(y.numpy() == number))
        cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for part, chosen in zip(parts, np.split(rows, cuts)):
            part.append(chosen)
    return tuple(torch.from_numpy(numbers.permutation(np.concatenate(part))) for part in parts)


def scale_of(x: Tensor, scale: str) -> tuple[Tensor, Tensor]:
    """Centre and width of training rows, by which all rows are shifted and divided.

    Args:
        x: (n, n_features) training rows.
        scale: "columns" (mean and standard deviation of each feature), "whole" (of all entries together, for images),
            "robust" (median of each feature and 1.4826 times its median absolute deviation) or "none".

    Returns:
        centre and width, that broadcast with rows; the width of a feature that never changes is 1.

    Raises:
        ValueError: for an unknown scale.
    """
    if scale == "columns":
        centre, width = x.mean(0), x.std(0, correction=0)
    elif scale == "whole":
        centre, width = x.mean(), x.std(correction=0)
    elif scale == "robust":
        centre = x.median(0).values
        width = 1.4826 * (x - centre).abs().median(0).values
    elif scale == "none":
        centre, width = torch.zeros((), dtype=x.dtype), torch.ones((), dtype=x.dtype)
    else:
        raise ValueError(f"scale={scale!r}: choose one of {', '.join(map(repr, SCALES))}")
    return centre, torch.where(width > 0, width, 1.0)


def labelled(
    name: str,
    x: Tensor,
    y: Tensor,
    parts: tuple[Tensor, Tensor, Tensor],
    n_classes: int,
    shape: tuple[int, ...],
    scale: str,
) -> LabelledData:
    """Rows as training, validation and test rows, scaled by what the training rows say.

    Args:
        name: name of the data.
        x: (n, n_features) features.
        y: (n,) classes.
        parts: indices of the rows of each part.
        n_classes: number of classes.
        shape: shape of a row.
        scale: see `scale_of`; "robust" ends in a tanh, which keeps outliers in [-1, 1].

    Raises:
        ValueError: for an empty part, a class that the training rows lack, or an unknown scale.
    """
    train = parts[0]
    if not all(len(part) for part in parts):
        raise ValueError(f"{name}: {len(y)} rows leave a part of the split empty; make more rows")
    if len(y[train].unique()) < n_classes:
        raise ValueError(f"{name}: the {len(train)} training rows lack a class; make more rows")
    centre, width = scale_of(x[train], scale)
    scaled = (x - centre) / width
    if scale == "robust":
        scaled = scaled.tanh()
    rows = [Rows(scaled[part].float(), y[part]) for part in parts]
    return LabelledData(name, rows[0], rows[1], rows[2], n_classes, shape)
