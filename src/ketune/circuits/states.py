"""What can be asked of states: parts of them, entropies, purities, fidelities, entanglement.

Pure states are (..., 2 ** n_wires), wire 0 the most significant bit; density matrices are (..., N, N) and announced by
`mixed=True`, because a batch of N states has the same shape. States are taken as normalised.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Wires = int | Sequence[int]


def _n_wires(states: Tensor, mixed: bool) -> int:
    size = states.shape[-1] if states.ndim else 0
    if size < 2 or size & (size - 1):
        raise ValueError(f"states of shape {tuple(states.shape)}: the last dimension must be 2 ** n_wires")
    if mixed and (states.ndim < 2 or states.shape[-2] != size):
        raise ValueError(f"density matrices of shape {tuple(states.shape)}: the last two dimensions must be equal")
    return size.bit_length() - 1


def _check_wires(wires: Wires, n_wires: int) -> list[int]:
    chosen = [wires] if isinstance(wires, int) else list(wires)
    if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= wire < n_wires for wire in chosen):
        raise ValueError(f"wires={wires}: choose different wires of 0..{n_wires - 1}, at least one")
    return chosen


def _bipartite(states: Tensor, wires: list[int], n_wires: int) -> Tensor:
    """States as matrices (..., 2 ** k, 2 ** (n - k)): rows are the given wires in their order."""
    split = states.unflatten(-1, (2,) * n_wires)
    front = split.movedim([wire - n_wires for wire in wires], list(range(-n_wires, len(wires) - n_wires)))
    return front.flatten(-n_wires).unflatten(-1, (2 ** len(wires), -1))


def reduced_state(states: Tensor, wires: Wires, *, mixed: bool = False) -> Tensor:
    """The density matrix of some wires, the others traced out.

    Args:
        states: (..., 2 ** n_wires), or (..., N, N) with `mixed`.
        wires: the wires to keep; the first is the most significant bit of the result. All of them give the whole
            density matrix.
        mixed: True for density matrices.

    Returns:
        (..., 2 ** k, 2 ** k) for k wires.

    Raises:
        ValueError: for other shapes or wires.

    Example:
        >>> import torch
        >>> from ketune.circuits import reduced_state
        >>> bell = torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5
        >>> reduced_state(bell, 0)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    n_wires = _n_wires(states, mixed)
    chosen = _check_wires(wires, n_wires)
    if not mixed:
        matrix = _bipartite(states, chosen, n_wires)
        return matrix @ matrix.mH
    split = _bipartite(_bipartite(states, chosen, n_wires).movedim(-3, -1), chosen, n_wires)
    return split.diagonal(dim1=-1, dim2=-3).sum(-1).mT  # (..., column, rest, row, rest) before the trace


def _small_side(states: Tensor, wires: Wires, mixed: bool) -> Tensor:
    """The reduced state of the wires, or of the others where those are fewer: both have the same spectrum."""
    n_wires = _n_wires(states, mixed)
    chosen = _check_wires(wires, n_wires)
    others = [wire for wire in range(n_wires) if wire not in chosen]
    if mixed or not others or len(chosen) <= len(others):
        if not mixed and not others:
            return (states.conj() * states).sum(-1)[..., None, None]
        return reduced_state(states, chosen, mixed=mixed)
    return reduced_state(states, others)


def purity(states: Tensor, wires: Wires, *, mixed: bool = False) -> Tensor:
    """tr(rho ** 2) of the reduced state of some wires: 1 without entanglement, 1 / 2 ** k at least.

    Arguments and errors as `reduced_state`. Differentiable any number of times.

    Returns:
        (...) real.

    Example:
        >>> import torch
        >>> purity(torch.tensor([0.6, 0.0, 0.0, 0.8]), 0)
        tensor(0.5392)
    """
    rho = _small_side(states, wires, mixed)
    return (rho.conj() * rho).sum((-2, -1)).real


def entropy(states: Tensor, wires: Wires, *, order: float = 1, base: float = math.e, mixed: bool = False) -> Tensor:
    """Entropy of the reduced state of some wires: their entanglement with the others, where the whole is pure.

    Von Neumann's `-tr(rho log rho)` for order 1, else Renyi's `log tr(rho ** order) / (1 - order)`.

    Order 2 needs no eigenvalues and can be differentiated any number of times. Other orders have right first
    derivatives also where eigenvalues coincide or vanish; their second derivatives hold for different eigenvalues only.

    Args:
        states: (..., 2 ** n_wires), or (..., N, N) with `mixed`.
        wires: the wires.
        order: order of the entropy, positive.
        base: of the logarithm; 2 gives bits.
        mixed: True for density matrices.

    Returns:
        (...) real.

    Raises:
        ValueError: for other shapes, wires, orders or bases.

    Example:
        >>> import torch
        >>> from ketune.circuits import entropy
        >>> round(float(entropy(torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5, 0, base=2)), 4)
        1.0
    """
    if order <= 0 or base <= 0 or base == 1:
        raise ValueError(f"order={order}, base={base}: both must be positive and the base not 1")
    if order == 2:
        return -purity(states, wires, mixed=mixed).log() / math.log(base)
    rho = _small_side(states, wires, mixed)
    values = torch.linalg.eigvalsh(rho)
    # Rounding may leave values just below zero, and the logarithm's slope at zero is infinite; the state's own is not.
    positive = values.clamp_min(torch.finfo(values.dtype).tiny)
    if order == 1:
        return -(values * positive.log()).sum(-1) / math.log(base)
    return (positive**order).sum(-1).log() / (1 - order) / math.log(base)


def mutual_information(
    states: Tensor, wires: Wires, others: Wires, *, base: float = math.e, mixed: bool = False
) -> Tensor:
    """S(A) + S(B) - S(A and B) in von Neumann entropies: all correlation between two sets of wires.

    Args:
        states: (..., 2 ** n_wires), or (..., N, N) with `mixed`.
        wires: the first set.
        others: the second set, without wires of the first.
        base: of the logarithm.
        mixed: True for density matrices.

    Returns:
        (...) real, at least 0.

    Raises:
        ValueError: as `entropy`, and for sets that overlap.

    Example:
        >>> import torch
        >>> from ketune.circuits import mutual_information
        >>> round(float(mutual_information(torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5, 0, 1, base=2)), 4)
        2.0
    """
    n_wires = _n_wires(states, mixed)
    first, second = _check_wires(wires, n_wires), _check_wires(others, n_wires)
    parts = [entropy(states, part, base=base, mixed=mixed) for part in (first, second, first + second)]
    return parts[0] + parts[1] - parts[2]


def meyer_wallach(states: Tensor) -> Tensor:
    """Meyer and Wallach's entanglement of pure states, from 0 (product states) to 1.

    `2 (1 - mean over wires of that wire's purity)`, in the form of Brennen (Quant. Inf. Comput. 3, 619, 2003).

    Args:
        states: (..., 2 ** n_wires).

    Returns:
        (...) real. Differentiable any number of times.

    Raises:
        ValueError: for another shape.

    Example:
        >>> import torch
        >>> from ketune.circuits import meyer_wallach
        >>> meyer_wallach(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        tensor(0.)
    """
    n_wires = _n_wires(states, False)
    total = torch.zeros((), dtype=states.real.dtype, device=states.device)
    for wire in range(n_wires):
        zero, one = states.unflatten(-1, (2**wire, 2, -1)).unbind(-2)
        # 1 - purity is twice the determinant of the wire's 2 x 2 density matrix, for normalised states.
        coherence = (zero.conj() * one).sum((-2, -1))
        weights = [(part.conj() * part).sum((-2, -1)).real for part in (zero, one)]
        total = total + weights[0] * weights[1] - (coherence.conj() * coherence).real
    return 4 * total / n_wires


def fidelity(a: Tensor, b: Tensor, *, a_mixed: bool = False, b_mixed: bool = False) -> Tensor:
    """Fidelity of two states, from 0 (orthogonal) to 1 (equal); leading dimensions broadcast.

    |<a|b>|^2 of pure states, <b|rho|b> of a density matrix and a pure state, and of two density matrices Uhlmann's
    `(tr sqrt(sqrt(a) b sqrt(a))) ** 2` (Jozsa, J. Mod. Opt. 41, 2315, 1994), which has first derivatives only, and
    for matrices of lower rank, those within the support.

    Args:
        a: (..., N), or (..., N, N) with `a_mixed`.
        b: (..., N), or (..., N, N) with `b_mixed`.
        a_mixed: True when `a` are density matrices.
        b_mixed: True when `b` are.

    Returns:
        (...) real.

    Raises:
        ValueError: for shapes that are no states or of different size.

    Example:
        >>> import torch
        >>> from ketune.circuits import fidelity
        >>> fidelity(torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8]))
        tensor(0.3600)
        >>> fidelity(torch.eye(2) / 2, torch.tensor([0.6, 0.8]), a_mixed=True)
        tensor(0.5000)
    """
    if _n_wires(a, a_mixed) != _n_wires(b, b_mixed):
        raise ValueError(f"states of sizes {a.shape[-1]} and {b.shape[-1]}: a fidelity needs equal sizes")
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(dtype), b.to(dtype)
    if a_mixed and b_mixed:
        a, b = torch.broadcast_tensors(a, b)
        root = _RootFidelity.apply(a, b)
        assert isinstance(root, Tensor)
        return root.square()
    if a_mixed or b_mixed:
        rho, psi = (a, b) if a_mixed else (b, a)
        return (psi.conj() * (rho @ psi[..., None])[..., 0]).sum(-1).real
    overlap = (a.conj() * b).sum(-1)
    return (overlap.conj() * overlap).real


class _RootFidelity(torch.autograd.Function):
    """tr sqrt(sqrt(a) b sqrt(a)) with the closed form of its gradients, which coinciding eigenvalues don't disturb."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _root(a, b)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        weight = cotangents[0][..., None, None]
        return weight * _root(b, a)[1], weight * _root(a, b)[1]


def _root(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The root fidelity and its gradient with respect to b."""
    left = _factor(a)
    side, roots, _ = torch.linalg.svd(left.mH @ _factor(b))
    small = roots <= roots[..., :1] * (100 * torch.finfo(roots.dtype).eps)
    inverse = torch.where(small, 0.0, 0.5 / torch.where(small, 1.0, roots))
    side = left @ side
    return roots.sum(-1), (side * inverse[..., None, :]) @ side.mH


def _factor(rho: Tensor) -> Tensor:
    """A matrix F with F @ F.mH = rho; eigenvalues that rounding moved off zero are zero."""
    values, vectors = torch.linalg.eigh(rho)
    floor = values[..., -1:] * (10 * torch.finfo(values.dtype).eps)
    return vectors * torch.where(values > floor, values, 0.0).sqrt()[..., None, :]
