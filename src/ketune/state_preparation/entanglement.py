"""How far states are from product states: AQER's measure, the infidelities that it allows, and the product state."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ketune.state_preparation.errors import LoadingError


def wire_entropies(states: Tensor) -> Tensor:
    """Renyi-2 entropy of each wire's reduced state in bits: `-log2 tr(rho_i ** 2)`, from 0 to 1.

    Differentiable any number of times, also where wires are not entangled.

    Args:
        states: (..., 2 ** n_wires) unit vectors, real or complex.

    Returns:
        (..., n_wires) real.

    Raises:
        LoadingError: for another shape.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import wire_entropies
        >>> wire_entropies(torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5)
        tensor([1., 1.])
    """
    squares = bloch_vectors(states).square().sum(-1)
    return 1 - torch.log1p(squares) / math.log(2)


def entanglement(states: Tensor) -> Tensor:
    """AQER's measure: the sum of `wire_entropies`, from 0 for product states to n_wires.

    As a term of a loss it makes activations loadable, since `infidelity_bounds` fall with it.

    Args:
        states: (..., 2 ** n_wires) unit vectors.

    Returns:
        (...) real, differentiable.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import entanglement
        >>> round(float(entanglement(torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5)), 6)
        2.0
    """
    return wire_entropies(states).sum(-1)


def bloch_vectors(states: Tensor) -> Tensor:
    """<X>, <Y>, <Z> of every wire.

    Args:
        states: (..., 2 ** n_wires) unit vectors.

    Returns:
        (..., n_wires, 3) real.

    Raises:
        LoadingError: for another shape.
    """
    vectors = []
    for wire in range(count_wires(states)):
        zero, one = states.unflatten(-1, (2**wire, 2, -1)).unbind(-2)
        coherence = 2 * (zero.conj() * one).sum((-2, -1))
        weights = [(part.conj() * part).sum((-2, -1)).real for part in (zero, one)]
        imaginary = coherence.imag if coherence.is_complex() else torch.zeros_like(coherence)
        vectors.append(torch.stack((coherence.real, imaginary, weights[0] - weights[1]), -1))
    return torch.stack(vectors, -2)


def product_angles(bloch: Tensor) -> Tensor:
    """Angles of RY and RZ that turn |0> into the top eigenvector of each wire's reduced state.

    The product of these states is AQER's second step, in closed form. Where a wire has no direction (a Bloch vector of
    zero) the angles are zero.

    Args:
        bloch: (..., 3) Bloch vectors, of any length.

    Returns:
        (..., 2) angles of RY, then RZ, in radians.
    """
    x, y, z = bloch.unbind(-1)
    return torch.stack((torch.atan2(torch.hypot(x, y), z), torch.atan2(y, x)), -1)


def infidelity_bounds(entanglement: Tensor, n_wires: int) -> tuple[Tensor, Tensor]:
    """What the measure says about the best product state: its infidelity lies between the two.

    Theorem 3.1 of Zhang et al., arXiv 2602.02165, with g(s) the smaller eigenvalue of a wire whose entropy is s: no
    product state has an infidelity below g(S / n), and that of the top eigenvectors (`product_angles`) is at most
    floor(S) / 2 + g(S - floor(S)), which says nothing from S = 2 on.

    Args:
        entanglement: (...) values of `entanglement`.
        n_wires: number of wires.

    Returns:
        lower and upper bound, (...) each; the upper one is at most 1.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import infidelity_bounds
        >>> [round(float(bound), 4) for bound in infidelity_bounds(torch.tensor(0.5), 4)]
        [0.0434, 0.1782]
    """
    measure = entanglement.clamp(0, n_wires)
    whole = measure.floor()
    upper = whole / 2 + _smaller_eigenvalue(measure - whole)
    return _smaller_eigenvalue(measure / n_wires), upper.clamp_max(1)


def _smaller_eigenvalue(entropy: Tensor) -> Tensor:
    return (1 - (torch.exp2(1 - entropy) - 1).clamp_min(0).sqrt()) / 2


@dataclass(frozen=True, eq=False)
class Loadability:
    """How loadable vectors are, before any circuit is built.

    Args:
        entropies: (..., n_wires) `wire_entropies`.
        entanglement: (...) their sums.
        lower: (...) no product state has an infidelity below it.
        upper: (...) the product state of `product_angles` has at most this infidelity.
        product: (...) the infidelity that it has.
    """

    entropies: Tensor
    entanglement: Tensor
    lower: Tensor
    upper: Tensor
    product: Tensor

    def __str__(self) -> str:
        n_wires = self.entropies.shape[-1]
        rows = [
            ("entanglement S", self.entanglement, f"of {n_wires}"),
            ("infidelity of the product state", self.product, ""),
            ("  at least, for any product state", self.lower, ""),
            ("  at most", self.upper, ""),
        ]
        return "\n".join(f"{title:36}{float(value.mean()):.4f} {unit}".rstrip() for title, value, unit in rows)


def loadability(vectors: Tensor) -> Loadability:
    """The measure of vectors, its bounds, and what the product state of their wires reaches.

    Args:
        vectors: (..., n_features) real or complex, of any length and norm; padded with zeros to a power of two.

    Raises:
        LoadingError: for vectors without a direction.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import loadability
        >>> round(float(loadability(torch.tensor([3.0, 0.0, 0.0, 4.0])).product), 4)
        0.36
    """
    states = as_states(vectors)
    n_wires = count_wires(states)
    entropies = wire_entropies(states)
    measure = entropies.sum(-1)
    wires = wire_states(product_angles(bloch_vectors(states)))
    overlap = states
    for wire in range(n_wires):
        overlap = (wires[..., wire, :, None].conj() * overlap.unflatten(-1, (2, -1))).sum(-2)
    product = 1 - (overlap[..., 0].conj() * overlap[..., 0]).real
    return Loadability(entropies, measure, *infidelity_bounds(measure, n_wires), product)


def wire_states(angles: Tensor) -> Tensor:
    """(..., 2) angles of RY and RZ to the (..., 2) complex amplitudes that they make of |0>."""
    half = angles / 2
    phase = torch.exp(1j * half[..., 1])
    return torch.stack((half[..., 0].cos() * phase.conj(), half[..., 0].sin() * phase), -1)


def as_states(vectors: Tensor) -> Tensor:
    """Vectors as unit vectors in complex128, padded with zeros on the right to a power of two, at least 2.

    Raises:
        LoadingError: for vectors that are empty, not finite, or zero.
    """
    if vectors.ndim == 0 or vectors.shape[-1] == 0:
        raise LoadingError(f"vectors of shape {tuple(vectors.shape)}: the last dimension holds the entries of each")
    vectors = vectors.to(torch.complex128)
    if not bool(torch.isfinite(torch.view_as_real(vectors)).all()):
        raise LoadingError("the vectors contain entries that are not finite; a state has finite amplitudes")
    size = max(2, 1 << (vectors.shape[-1] - 1).bit_length())
    largest = vectors.abs().amax(-1, keepdim=True)
    if not bool((largest > 0).all()):
        raise LoadingError("a vector of zeros has no direction, so no state stands for it; leave it out")
    vectors = vectors / largest  # so that squares neither overflow nor vanish
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.nn.functional.pad(vectors, (0, size - vectors.shape[-1]))


def count_wires(states: Tensor) -> int:
    """Number of wires of (..., 2 ** n_wires) states.

    Raises:
        LoadingError: for another length.
    """
    size = states.shape[-1] if states.ndim else 0
    if size < 2 or size & (size - 1):
        raise LoadingError(f"states of shape {tuple(states.shape)}: the last dimension must be 2 ** n_wires")
    return size.bit_length() - 1


def is_real(states: Tensor) -> bool:
    """True when no entry has an imaginary part beyond rounding."""
    return not states.is_complex() or float(states.imag.abs().max()) < 1e-14
