"""Tensor trains: a tensor as a chain of small cores, one per mode, and its decomposition by singular values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def contract_train(cores: Sequence[Tensor]) -> Tensor:
    """The tensor that a train stands for: `T[i_1, ..., i_d] = G_1[:, i_1, :] G_2[:, i_2, :] ... G_d[:, i_d, :]`.

    Args:
        cores: core k of shape (R_k, n_k, R_{k+1}); the first R and the last are 1.

    Returns:
        (n_1, ..., n_d).

    Raises:
        ValueError: for cores whose ranks do not meet.
    """
    ranks = [core.shape[0] for core in cores] + [cores[-1].shape[2]] if cores else []
    meet = all(left.shape[2] == right.shape[0] for left, right in pairwise(cores))
    if not cores or ranks[0] != 1 or ranks[-1] != 1 or not meet:
        shapes = [tuple(core.shape) for core in cores]
        raise ValueError(f"cores of shapes {shapes} are no train: each is (R_k, n_k, R_k+1), the outer ranks are 1")
    whole = cores[0].reshape(-1, cores[0].shape[2])
    for core in cores[1:]:
        whole = (whole @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[2])
    return whole.reshape([core.shape[1] for core in cores])


def decompose_tensor(
    tensor: Tensor, max_ranks: int | Sequence[int] | None = None, tolerance: float = 0.0
) -> list[Tensor]:
    """The train of a tensor by successive singular value decompositions (TT-SVD).

    Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33, 2295 (2011), algorithm 1. Without `max_ranks` the
    relative error in the Frobenius norm is at most `tolerance`; with it, at most sqrt(d - 1) times that of the best
    train of these ranks.

    Args:
        tensor: (n_1, ..., n_d), d at least 1, of a floating type; computed in float32 or better.
        max_ranks: largest rank of all d - 1 inner bonds, or one for each; None: no limit.
        tolerance: relative error that may be left; 0 keeps everything but singular values at the level of rounding.

    Returns:
        Cores (R_k, n_k, R_{k+1}), outer ranks 1.

    Raises:
        ValueError: for a tensor without dimensions, ranks below 1 or not one for each bond, or a negative tolerance.

    Example:
        >>> import torch
        >>> ones = torch.ones(2, 3, 4)
        >>> [tuple(core.shape) for core in decompose_tensor(ones)]  # all entries equal: rank 1
        [(1, 2, 1), (1, 3, 1), (1, 4, 1)]
    """
    n_bonds = tensor.ndim - 1
    if tensor.ndim < 1 or tolerance < 0:
        raise ValueError(f"tensor of shape {tuple(tensor.shape)}, tolerance={tolerance}: at least 1 dimension, and 0")
    limits = [max_ranks] * n_bonds if max_ranks is None or isinstance(max_ranks, int) else list(max_ranks)
    if len(limits) != n_bonds or any(limit is not None and limit < 1 for limit in limits):
        raise ValueError(f"max_ranks={max_ranks}: one number of at least 1, or {n_bonds} of them, one for each bond")
    rest = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    # Each of the d - 1 truncations may cost its share of the squared error.
    rounding = torch.finfo(rest.dtype).eps * math.sqrt(max(1, rest.numel()))
    allowed = max(tolerance, rounding) * float(rest.norm()) / math.sqrt(max(1, n_bonds))
    cores: list[Tensor] = []
    rank = 1
    for size, limit in zip(tensor.shape[:-1], limits):
        u, s, vh = torch.linalg.svd(rest.reshape(rank * size, -1), full_matrices=False)
        kept = _kept_rank(s, allowed, limit)
        cores.append(u[:, :kept].reshape(rank, size, kept))
        rest, rank = s[:kept, None] * vh[:kept], kept
    return [*cores, rest.reshape(rank, tensor.shape[-1], 1)]


def _kept_rank(singular_values: Tensor, allowed: float, limit: int | None) -> int:
    """The smallest rank whose dropped singular values have a norm of at most `allowed`; at least 1, at most `limit`."""
    dropped = singular_values.square().flip(0).cumsum(0).sqrt().flip(0)  # entry k: norm of those from k on
    kept = max(1, int((dropped > allowed).sum()))
    return kept if limit is None else min(kept, limit)
