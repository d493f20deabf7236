"""Matrices cut to a lower rank: singular values, the rank that an error asks for, and the two thin factors."""

from __future__ import annotations

import torch
from torch import Tensor

EXACT = 1e-5
"""Relative error, in the Frobenius norm, below which a product of factors counts as the matrix itself."""

SVD = tuple[Tensor, Tensor, Tensor]
"""U (out, n), singular values (n,), largest first, and V^T (n, in), float64."""


def decompose(matrix: Tensor) -> SVD:
    """The singular value decomposition of a matrix (out, in).

    In float64: in float32 the rounding of a few thousand singular values adds up to about EXACT.
    """
    return torch.linalg.svd(_double(matrix), full_matrices=False)


def decompose_product(up: Tensor, down: Tensor) -> SVD:
    """The same for `up @ down`, (out, k) and (k, in), without building it: O((out + in) k^2)."""
    q_up, r_up = torch.linalg.qr(_double(up))
    q_down, r_down = torch.linalg.qr(_double(down).mT)
    u, s, vt = torch.linalg.svd(r_up @ r_down.mT, full_matrices=False)
    return q_up @ u, s, vt @ q_down.mT


def needed_rank(singular: Tensor, rank: int | float | None) -> int:
    """How many singular values (n,) to keep, at least one.

    Args:
        singular: largest first.
        rank: a number of values; as a float the share of their energy (the sum of squares) to keep; None for what
            leaves a relative error below EXACT.
    """
    if isinstance(rank, int):
        return min(rank, len(singular))
    # Summed from the smallest on, so that what is cut off is not lost beside what is kept.
    energy = singular.square().flip(0).cumsum(0).flip(0)
    allowed = EXACT**2 if rank is None else 1.0 - rank
    left_out = energy > allowed * energy[0]  # by keeping 0, 1, ... values
    return max(1, int(left_out.sum()))


def thin_factors(svd: SVD, rank: int) -> tuple[Tensor, Tensor]:
    """The first `rank` singular triples as B (out, rank) and A (rank, in), with zeros where there are fewer.

    Each takes the root of the singular values: entries of like size stay clear of the range in which float16 loses
    digits, which small singular values in one factor alone do not.
    """
    u, s, vt = svd
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    up, down = u.new_zeros(len(u), rank), vt.new_zeros(rank, vt.shape[1])
    up[:, :kept] = u[:, :kept] * root
    down[:kept] = root[:, None] * vt[:kept]
    return up, down


def squared_error(matrix: Tensor, up: Tensor, down: Tensor) -> tuple[float, float]:
    """`|matrix - up down|_F^2` and `|matrix|_F^2`, summed in float64."""
    matrix = _double(matrix)
    return float((matrix - _double(up) @ _double(down)).square().sum()), float(matrix.square().sum())


def _double(tensor: Tensor) -> Tensor:
    if tensor.device.type == "mps":  # has no float64
        tensor = tensor.cpu()
    return tensor.double()
