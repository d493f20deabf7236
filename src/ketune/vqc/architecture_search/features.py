"""Amplitudes of low rank: each row as a tensor train of bounded rank, which a device could load by a shallow circuit.

CL-QAS (arXiv 2601.06392) takes every row as a tensor of modes (4, 16, 4), keeps rank 3 by TT-SVD, builds the row again,
normalises it and takes it as amplitudes. Rank 4 is exact, and rank 3 keeps 168 numbers of 256. Nothing is fitted: each
row is cut by itself, so test rows may be treated like all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ketune.tensor_networks import balanced_modes
from ketune.vqc.architecture_search.space import SearchError
from ketune.vqc.problems.base import LabelledData, Rows


class TrainFeatures(NamedTuple):
    """Rows after TT-SVD.

    Attributes:
        values: (..., n_features) rows of norm 1; rows of zeros stay zeros.
        fidelity: (...) |<x|x_r>|^2 of each row with what is left of it, both normalised; 1 for rows of zeros.
    """

    values: Tensor
    fidelity: Tensor


def train_features(x: Tensor, modes: Sequence[int], max_rank: int) -> TrainFeatures:
    """Cuts every row to a tensor train of bounded rank: TT-SVD of each row, contracted again and normalised.

    Args:
        x: (..., n_features) rows of any floating type.
        modes: sizes whose product is `n_features`, or more: then a row is padded with zeros, and the padding is
            dropped again at the end. A row is read in their order, the last one running fastest.
        max_rank: largest rank of every bond.

    Raises:
        SearchError: for modes that do not make the row, or a rank below 1.

    Example:
        >>> import torch
        >>> rows = torch.randn(5, 256)
        >>> float(train_features(rows, (4, 16, 4), 4).fidelity.min()) > 1 - 1e-5
        True
    """
    n = x.shape[-1] if x.ndim else 0
    if not modes or min(modes) < 1 or math.prod(modes) < n:
        raise SearchError(f"modes {tuple(modes)} for rows of {n} features: their product must be {n} or more")
    if max_rank < 1:
        raise SearchError(f"max_rank={max_rank}: must be at least 1")
    rows = x.reshape(-1, n).to(torch.promote_types(x.dtype, torch.float32))
    norms = rows.norm(dim=-1, keepdim=True)
    rows = torch.nn.functional.pad(rows / torch.where(norms > 0, norms, 1.0), (0, math.prod(modes) - n))
    # Each cut is an orthogonal projection of all that follows, so the rows can be built up while they are cut down:
    # `left` holds the cores so far as orthonormal columns, `rest` what is still to be cut.
    left = torch.ones(len(rows), 1, 1, dtype=rows.dtype, device=rows.device)
    rest = rows[:, None, :]
    for size in modes[:-1]:
        rank = rest.shape[1]
        u, s, vh = torch.linalg.svd(rest.reshape(len(rows), rank * size, -1), full_matrices=False)
        kept = min(max_rank, s.shape[-1])
        core = u[..., :kept].reshape(len(rows), rank, size * kept)
        left = (left @ core).reshape(len(rows), -1, kept)
        rest = s[:, :kept, None] * vh[:, :kept]
    cut = (left @ rest).reshape(len(rows), -1)[:, :n]
    rows = rows[:, :n]
    squared = cut.square().sum(-1, keepdim=True)
    fidelity = torch.where(norms > 0, (rows * cut).sum(-1, keepdim=True).square() / squared.clamp_min(1e-30), 1.0)
    values = cut / squared.clamp_min(1e-30).sqrt()
    return TrainFeatures(values.to(x.dtype).reshape(x.shape), fidelity[:, 0].to(x.dtype).reshape(x.shape[:-1]))


def train_size(modes: Sequence[int], max_rank: int) -> int:
    """How many numbers the train of one row has: the sum of r_k n_k r_(k+1).

    Example:
        >>> train_size((4, 16, 4), 3), train_size((4, 16, 4), 4)
        (168, 288)
    """
    ranks = [1]
    for k, size in enumerate(modes):
        ranks.append(min(max_rank, ranks[-1] * size, math.prod(modes[k + 1 :])))
    return sum(a * size * b for a, size, b in zip(ranks, modes, ranks[1:]))


def default_modes(n_features: int) -> tuple[int, ...]:
    """The modes of CL-QAS for 256 features, three nearly equal ones for other numbers."""
    return (4, 16, 4) if n_features == 256 else tuple(balanced_modes(n_features, 3))


@dataclass(frozen=True, eq=False)
class EncodedData:
    """Labelled rows as amplitudes.

    Args:
        data: the rows after `train_features`.
        fidelity: mean fidelity of the training rows.
    """

    data: LabelledData
    fidelity: float


def encode(data: LabelledData, max_rank: int | None = 3, modes: Sequence[int] | None = None) -> EncodedData:
    """All rows of a data set as amplitudes of bounded rank, or as they are for `max_rank=None`."""
    if max_rank is None:
        return EncodedData(data, 1.0)
    chosen = tuple(modes) if modes is not None else default_modes(data.n_features)
    parts: dict[str, Rows] = {}
    fidelity = 1.0
    for name in ("train", "validation", "test"):
        rows: Rows = getattr(data, name)
        cut = train_features(rows.x, chosen, max_rank)
        parts[name] = Rows(cut.values, rows.y)
        if name == "train" and len(rows):
            fidelity = float(cut.fidelity.mean())
    return EncodedData(replace(data, **parts), fidelity)
