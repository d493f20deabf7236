"""The block on two wires that leaves them least entangled: what AQER chooses in each step.

A gate on wires j and k changes the entropies of these two only, so all that a search needs is their reduced state: two
Bloch vectors a, b and the correlations C. Rotations in front of an RZZ choose an axis on each wire, n and m; RZZ by an
angle t then makes of the Bloch vectors

    a' = (a.n) n + cos(t) (a - (a.n) n) + sin(t) n x (C m)
    b' = (b.m) m + cos(t) (b - (b.m) m) + sin(t) m x (C^T n)

in the frame that the rotations came from, and nothing after it changes their lengths.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ketune.circuits._optional import library
from ketune.state_preparation._batched_bfgs import minimise_batch
from ketune.state_preparation.errors import LoadingError

_FIRST_ITERATIONS = 12  # of all starts; then the best one of each pair goes on alone


def axes(angles: Tensor) -> Tensor:
    """Unit vectors that RZ(second) RY(first) turn Z into: (..., 2) angles to (..., 3)."""
    polar, azimuth = angles.unbind(-1)
    return torch.stack((polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()), -1)


def pair_entropies(block: str, angles: Tensor, first: Tensor, second: Tensor, correlations: Tensor) -> Tensor:
    """Sum of both wires' Renyi-2 entropies, in bits, once a block is undone.

    Args:
        block: "rzz" or "cz".
        angles: (..., d) angles of the block in the order of its gates: of "rzz" 5, of "cz" 4.
        first: (..., 3) Bloch vector a.
        second: (..., 3) Bloch vector b.
        correlations: (..., 3, 3) C.

    Returns:
        (...) from 0 to 2.
    """
    if block == "rzz":
        turn, angles = -angles[..., 0], angles[..., 1:]
        cosine, sine = turn.cos()[..., None], turn.sin()[..., None]
    else:
        cosine, sine = angles.new_zeros(1), -angles.new_ones(1)
    n, m = axes(angles[..., :2]), axes(angles[..., 2:])
    squares = _turned(first, n, (correlations @ m[..., None])[..., 0], cosine, sine)
    others = _turned(second, m, (correlations.mT @ n[..., None])[..., 0], cosine, sine)
    return 2 - (torch.log1p(squares) + torch.log1p(others)) / math.log(2)


def _turned(bloch: Tensor, axis: Tensor, partner: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Square of the Bloch vector's new length."""
    along = (bloch * axis).sum(-1, keepdim=True) * axis
    new = along + cosine * (bloch - along) + sine * torch.linalg.cross(axis, partner)
    return new.square().sum(-1)


def best_blocks(
    block: str,
    first: Tensor,
    second: Tensor,
    correlations: Tensor,
    *,
    n_starts: int = 8,
    generator: torch.Generator | None = None,
    search: str = "gradient",
) -> tuple[Tensor, Tensor]:
    """Angles of the block that leaves least entropy, for many pairs of wires at once. A local optimum.

    Args:
        block: "rzz" or "cz".
        first: (M, 3) Bloch vectors a.
        second: (M, 3) Bloch vectors b.
        correlations: (M, 3, 3) C.
        n_starts: random starts for each pair besides the one at zero.
        generator: source of the starts, on the CPU.
        search: "gradient": BFGS from all starts, batched; "nelder-mead": from zero, one pair after another, to 1e-4 as
            in the paper (needs scipy).

    Returns:
        (M, d) angles in the order of the block's gates, and (M,) the sums of entropies.

    Raises:
        LoadingError: for another search.
    """
    n_angles = {"rzz": 5, "cz": 4}[block]
    if search == "nelder-mead":
        return _nelder_mead(block, n_angles, first, second, correlations)
    if search != "gradient":
        raise LoadingError(f"search={search!r}: choose 'gradient' or 'nelder-mead'")
    n_pairs = len(first)
    starts = 2 * math.pi * torch.rand(n_starts + 1, n_pairs, n_angles, generator=generator, dtype=torch.float64)
    starts[0] = 0
    repeated = [each.repeat(n_starts + 1, *(1,) * (each.ndim - 1)) for each in (first, second, correlations)]

    def objective(points: Tensor, live: Tensor) -> Tensor:
        return pair_entropies(block, points, *(each[live] for each in repeated))

    found, values = minimise_batch(objective, starts.flatten(0, 1).to(first.device), _FIRST_ITERATIONS)
    best = values.view(n_starts + 1, n_pairs).argmin(0)
    return minimise_batch(objective, found.view(n_starts + 1, n_pairs, -1)[best, torch.arange(n_pairs)])


def _nelder_mead(
    block: str, n_angles: int, first: Tensor, second: Tensor, correlations: Tensor
) -> tuple[Tensor, Tensor]:
    optimize = library("scipy.optimize")
    angles, values = [], []
    for parts in zip(first, second, correlations):

        def objective(x: object, parts: tuple[Tensor, ...] = parts) -> float:
            return float(pair_entropies(block, torch.as_tensor(x, dtype=torch.float64, device=first.device), *parts))

        found = optimize.minimize(objective, [0.0] * n_angles, method="Nelder-Mead", tol=1e-4)
        angles.append(found.x)
        values.append(found.fun)
    options = {"dtype": torch.float64, "device": first.device}
    return torch.stack([torch.as_tensor(x, **options) for x in angles]), torch.tensor(values, **options)


def eigenbasis_blocks(first: Tensor, second: Tensor, correlations: Tensor, real: bool = False) -> tuple[Tensor, Tensor]:
    """The unitaries that turn the reduced state's eigenvectors into |00>, |01>, |10>, |11>, eigenvalues falling.

    No other gate on the two wires makes the sum of their largest eigenvalues larger.

    Args:
        first: (M, 3) Bloch vectors a.
        second: (M, 3) Bloch vectors b.
        correlations: (M, 3, 3) C.
        real: take real unitaries of determinant 1, for states that are real.

    Returns:
        (M, 4, 4) unitaries and (M,) the sums of both wires' Renyi-2 entropies behind them, in bits.
    """
    matrices = density_matrices(first, second, correlations)
    values, vectors = torch.linalg.eigh(matrices.real if real else matrices)
    values, vectors = values.flip(-1), vectors.flip(-1)
    if real:
        vectors = torch.cat((torch.linalg.det(vectors).sign()[:, None, None] * vectors[..., :1], vectors[..., 1:]), -1)
    large = torch.stack((values[:, 0] + values[:, 1], values[:, 0] + values[:, 2]), -1)
    entropies = -torch.log2(large.square() + (1 - large).square())
    return vectors.mH, entropies.sum(-1)


def density_matrices(first: Tensor, second: Tensor, correlations: Tensor) -> Tensor:
    """Reduced states of two wires: (M, 4, 4) complex."""
    paulis = torch.tensor(
        [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]],
        dtype=torch.complex128,
        device=first.device,
    )
    words = torch.einsum("pij,qkl->pqikjl", paulis, paulis).reshape(4, 4, 4, 4)
    table = correlations.new_ones(len(first), 4, 4)
    table[:, 1:, 0], table[:, 0, 1:], table[:, 1:, 1:] = first, second, correlations
    return torch.einsum("mpq,pqij->mij", table.to(words.dtype), words) / 4
