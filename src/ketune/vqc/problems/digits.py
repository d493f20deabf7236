"""Handwritten digits of 8 x 8 pixels, those that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ketune.circuits._optional import library
from ketune.vqc.problems.base import LabelledData
from ketune.vqc.problems.splitting import labelled, stratified_parts


def digits(n_rows: int | None = None, classes: Sequence[int] = tuple(range(10)), seed: int = 0) -> LabelledData:
    """Some of the ten digits, split 70 / 15 / 15, each class in equal proportion.

    The 1,797 rows of E. Alpaydin and C. Kaynak (1998, UCI Machine Learning Repository), about 180 of a digit. Pixels
    are scaled by one mean and one standard deviation of all training pixels.

    Args:
        n_rows: how many rows to draw; all of the classes when None.
        classes: digits; class k of the result is the k-th of them.
        seed: decides the rows and the split.

    Returns:
        the data, with rows of 64 pixels, 8 x 8.

    Raises:
        ValueError: for digits that do not exist or repeat, fewer than two, or more rows than there are.
        MissingLibraryError: without scikit-learn.

    Example:
        >>> digits(100, (1, 3)).train.x.shape
        torch.Size([70, 64])
    """
    classes = tuple(int(digit) for digit in classes)
    if len(classes) < 2 or len(set(classes)) != len(classes) or not set(classes) <= set(range(10)):
        raise ValueError(f"digits: classes={classes}; name at least two different digits of 0..9")
    pixels, labels = library("sklearn.datasets").load_digits(return_X_y=True)
    chosen = np.flatnonzero(np.isin(labels, classes))
    numbers = np.random.default_rng(seed)
    if n_rows is not None:
        if not 8 * len(classes) <= n_rows <= len(chosen):
            raise ValueError(
                f"digits: n_rows={n_rows}; these {len(classes)} digits have {len(chosen)} rows, and at least "
                f"{8 * len(classes)} make a split"
            )
        chosen = numbers.permutation(chosen)
        order = np.argsort(_place_in_class(labels[chosen]), kind="stable")  # classes in turn
        chosen = chosen[order][:n_rows]
    place = {digit: number for number, digit in enumerate(classes)}
    y = torch.tensor([place[int(label)] for label in labels[chosen]])
    x = torch.from_numpy(pixels[chosen]).float() / 16
    parts = stratified_parts(y, (0.7, 0.15, 0.15), numbers)
    name = "digits-" + "".join(map(str, classes))
    return labelled(name, x, y, (parts[0], parts[1], parts[2]), len(classes), (8, 8), "whole")


def digits_transfer(
    n_rows: int | None = None, source: Sequence[int] = (2, 4, 6), target: Sequence[int] = (1, 3), seed: int = 0
) -> tuple[LabelledData, LabelledData]:
    """Two tasks without a common digit: one to pre-train on and one to solve, as in Pre+TTN-VQC (arXiv 2306.03741).

    Args:
        n_rows: rows of the target; all when None. The source has all of its own.
        source: digits to pre-train on.
        target: digits to tell apart in the end.
        seed: decides rows and splits.

    Raises:
        ValueError: for tasks that share a digit, or as `digits`.

    Example:
        >>> source, target = digits_transfer()
        >>> source.n_classes, target.n_classes
        (3, 2)
    """
    if shared := sorted(set(source) & set(target)):
        raise ValueError(f"digits_transfer: source and target share {shared}; name different digits")
    return digits(None, source, seed), digits(n_rows, target, seed)


def _place_in_class(labels: np.ndarray) -> np.ndarray:
    """For each row how many of its class come before it."""
    places = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        places[rows] = np.arange(len(rows))
    return places
