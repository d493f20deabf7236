"""Loaders by a Schmidt decomposition: the wires in two halves, their singular values, an isometry on each half.

I. F. Araujo et al., "Low-rank quantum state preparation", arXiv 2111.03132. Few singular values take few CNOTs, and the
infidelity is known before anything is built: it is the weight of those that are dropped.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ketune.circuits._optional import library
from ketune.state_preparation.entanglement import as_states, count_wires
from ketune.state_preparation.errors import LoadingError
from ketune.state_preparation.exact import Loaded, compiled, isometry

_ALL_HALVES = 8  # up to so many wires every way to halve them is tried


def schmidt_weights(vector: Tensor, wires: tuple[int, ...] | None = None) -> Tensor:
    """Squares of the singular values between some wires and the others, falling, with a sum of 1.

    Args:
        vector: (n_features,) real or complex, padded with zeros to a power of two.
        wires: the wires of one side; None: the first half of them.

    Returns:
        (2 ** the smaller number of wires,) float64.

    Raises:
        LoadingError: for a vector without a direction, or sides that are no sides.
    """
    state = as_states(vector.detach().cpu())
    return torch.linalg.svdvals(_split(state, _side(state, wires))).square()


def low_rank(vector: Tensor, rank: int) -> tuple[*Loaded, float]:
    """A circuit of the `rank` largest Schmidt coefficients.

    Up to eight wires all ways to halve them are compared, beyond that the first half is split from the second; the
    split that drops least is taken.

    Args:
        vector: (n_features,) real or complex, padded with zeros to a power of two.
        rank: how many coefficients are kept; more than there are count as all, which is exact.

    Returns:
        the circuit, in CNOTs and one-wire gates, its angles, and the infidelity.

    Raises:
        LoadingError: for a rank below 1, or a vector without a direction.
        MissingLibraryError: without Qiskit.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import low_rank
        >>> circuit, angles, infidelity = low_rank(torch.tensor([0.8, 0.0, 0.0, 0.6]), 1)
        >>> round(infidelity, 6), circuit.n_two_wire_gates
        (0.36, 0)
    """
    if rank < 1:
        raise LoadingError(f"rank={rank}: take at least 1")
    state = as_states(vector.detach().cpu())
    n_wires = count_wires(state)
    if n_wires == 1:
        return *isometry(state), 0.0
    kept, side = max((float(schmidt_weights(state, side)[:rank].sum()), side) for side in _sides(n_wires))
    others = tuple(wire for wire in range(n_wires) if wire not in side)
    left, values, right = torch.linalg.svd(_split(state, side), full_matrices=False)
    rank = min(rank, int((values > 1e-14).sum()))
    n_shared = (rank - 1).bit_length()
    columns = 2**n_shared
    values = values[:columns] * (torch.arange(columns) < rank)
    circuit = library("qiskit").QuantumCircuit(n_wires)
    # Our wires as Qiskit's qubits, the least significant first, as its isometries want them.
    qubits = [[n_wires - 1 - wire for wire in reversed(wires)] for wires in (side, others)]
    if n_shared:
        circuit.append(_state_preparation(values.to(torch.complex128)), qubits[0][:n_shared])
        for first, second in zip(qubits[0][:n_shared], qubits[1]):
            circuit.cx(first, second)
    for part, where in ((left[:, :columns], qubits[0]), (right[:columns].T, qubits[1])):
        circuit.append(_map(part, n_shared), where)
    return *compiled(circuit), max(0.0, 1 - kept)


def _map(columns: Tensor, n_shared: int) -> object:
    """The gate that maps |k> of the shared wires to the columns."""
    matrix = columns.resolve_conj().numpy()
    if n_shared == 0:
        return _state_preparation(columns[:, 0])
    if 2 * matrix.shape[1] >= matrix.shape[0]:  # with so many columns, a whole unitary takes fewer CNOTs
        whole, _ = np.linalg.qr(np.concatenate((matrix, np.eye(len(matrix))), 1))
        whole[:, : matrix.shape[1]] = matrix
        return library("qiskit.circuit.library").UnitaryGate(whole)
    return library("qiskit.circuit.library").Isometry(matrix, 0, 0)


def _state_preparation(vector: Tensor) -> object:
    vector = vector / torch.linalg.vector_norm(vector)
    return library("qiskit.circuit.library").StatePreparation(vector.resolve_conj().numpy())


def _sides(n_wires: int) -> list[tuple[int, ...]]:
    half = n_wires // 2
    if n_wires > _ALL_HALVES:
        return [tuple(range(half))]
    return [side for side in combinations(range(n_wires), half) if 2 * half < n_wires or 0 in side]


def _side(state: Tensor, wires: tuple[int, ...] | None) -> tuple[int, ...]:
    n_wires = count_wires(state)
    side = tuple(range(n_wires // 2)) if wires is None else tuple(wires)
    if len(set(side)) != len(side) or not all(0 <= wire < n_wires for wire in side) or len(side) == n_wires:
        raise LoadingError(f"wires={wires}: take some of 0..{n_wires - 1}, not all, each once")
    return side


def _split(state: Tensor, side: tuple[int, ...]) -> Tensor:
    """The state as a matrix, rows by the wires of one side."""
    split = state.view((2,) * count_wires(state)).movedim(side, tuple(range(len(side))))
    return split.reshape(2 ** len(side), -1)
