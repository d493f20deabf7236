"""Orthogonal matrices from free parameters: skew matrices, the Cayley map, plane rotations, reproducible starts.

Each comes as the *change* it makes where that is what an adapter adds: `Q - I`, never `Q` minus one. A change of 1e-3
then keeps its relative precision in half precision, and no rotation changes exactly nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def skew(values: Tensor, size: int) -> Tensor:
    """Antisymmetric matrices (..., size, size) from their entries below the diagonal, row by row.

    Args:
        values: (..., size (size - 1) / 2).
        size: number of rows.
    """
    lower = values.new_zeros(*values.shape[:-1], size, size)
    rows, columns = torch.tril_indices(size, size, -1, device=values.device)
    lower[..., rows, columns] = values
    return lower - lower.mT


def cayley_change(antisymmetric: Tensor) -> Tensor:
    """`Q - I` for the rotation `Q = (I - S)(I + S)^-1` of antisymmetric matrices S, both (..., n, n).

    Computed as `-2 (I + S)^-1 S`, so that a small S gives a small change with full relative precision, and S = 0 gives
    exactly zero. `I + S` has no singular value below one. In float32 or better.
    """
    s = antisymmetric.to(torch.promote_types(antisymmetric.dtype, torch.float32))
    identity = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    return -2 * torch.linalg.solve(identity + s, s)


def cayley_columns(tilt: Tensor, inner: Tensor | None = None) -> Tensor:
    """The first k columns (..., n, k) of the Cayley rotation of a skew matrix whose other n - k columns hold nothing.

    For `S = [[A, -B^T], [B, 0]]` the columns are `[2 X - I; -2 B X]` with `X = (I + A + B^T B)^-1`: only a k x k matrix
    is inverted, at a cost of O(n k^2), and the columns are orthonormal whatever A and B are.

    Args:
        tilt: B (..., n - k, k).
        inner: A (..., k, k), antisymmetric; None for zero.
    """
    b = tilt.to(torch.promote_types(tilt.dtype, torch.float32))
    identity = torch.eye(b.shape[-1], dtype=b.dtype, device=b.device)
    with torch.autocast(b.device.type, enabled=False):
        gram = identity + b.mT @ b
        x = torch.linalg.inv(gram if inner is None else gram + inner.to(b.dtype))
        return torch.cat((2 * x - identity, -2 * (b @ x)), -2)


def plane_rotation_change(states: Tensor, angles: Tensor) -> Tensor:
    """The change `(G - I) states` that disjoint plane rotations G make.

    Angle p turns the plane of rows p and h + p, h = n // 2, counter-clockwise.

    Args:
        states: (n, ...) rows.
        angles: (m,) with m <= h, radians.
    """
    half = states.shape[0] // 2
    shape = (-1,) + (1,) * (states.ndim - 1)
    sin = angles.sin().to(states.dtype).view(shape)
    less = (-2 * (angles / 2).sin().square()).to(states.dtype).view(shape)  # cos - 1, without a difference
    first, second = states[: len(angles)], states[half : half + len(angles)]
    parts = [less * first - sin * second, sin * first + less * second]
    rest = [half - len(angles), states.shape[0] - half - len(angles)]
    padded = [torch.cat((part, states.new_zeros(n, *states.shape[1:]))) for part, n in zip(parts, rest)]
    return torch.cat(padded)


def givens_rotation(angles: Tensor, size: int) -> Tensor:
    """An orthogonal matrix (size, size), the product of plane rotations by `angles` (n,).

    Rotation t turns the plane of axes t and t + 1 (both modulo `size`, at least 2); all zero gives the identity.
    """
    matrix = torch.eye(size, dtype=angles.dtype, device=angles.device)
    for t, (cos, sin) in enumerate(zip(angles.cos(), angles.sin())):
        i, j = t % size, (t + 1) % size
        rows = list(matrix.unbind(0))
        rows[i], rows[j] = cos * rows[i] - sin * rows[j], sin * rows[i] + cos * rows[j]
        matrix = torch.stack(rows)
    return matrix


def generator(seed: int, part: int = 0) -> torch.Generator:
    """A random generator of its own on the CPU, for the `part`-th start value of an update."""
    return torch.Generator("cpu").manual_seed((seed * 1_000_003 + part) % (1 << 63))


def in_half_precision(values: Tensor) -> Tensor:
    """The values rounded so that bfloat16 and float16 both hold them exactly.

    Start values are rebuilt from a seed when an adapter is loaded. PEFT casts buffers to the base model's dtype on the
    way; after this rounding every dtype gives the same start.
    """
    return values.to(torch.bfloat16).to(torch.float16).to(torch.float32)


def random_normal(seed: int, part: int, shape: tuple[int, ...], std: float) -> Tensor:
    """Normal start values (shape) that every dtype holds exactly, the same for the same seed and part."""
    values = torch.randn(shape, generator=generator(seed, part), device="cpu", dtype=torch.float32)
    return in_half_precision(values * std)


def random_angles(seed: int, part: int, shape: tuple[int, ...]) -> Tensor:
    """Angles uniform in (-pi, pi), on a grid of 1/64 that every dtype holds exactly."""
    values = torch.rand(shape, generator=generator(seed, part), device="cpu", dtype=torch.float32)
    return ((2 * values - 1) * (64 * torch.pi)).trunc() / 64


def random_frame(seed: int, part: int, n: int, k: int) -> Tensor:
    """k <= n random orthonormal columns (n, k), up to the rounding of `in_half_precision`."""
    values = torch.randn((n, k), generator=generator(seed, part), device="cpu", dtype=torch.float64)
    return in_half_precision(torch.linalg.qr(values).Q)
