"""Ground energies by exact diagonalisation: of a whole Hamiltonian, or within a sector such as a fixed filling."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
import torch

from ketune.circuits import Hamiltonian
from ketune.circuits._optional import library

MAX_DENSE = 1024
"""Largest number of basis states for which a dense matrix is diagonalised (10 wires)."""

MAX_EXACT_WIRES = 20
"""Largest Hamiltonian that `ground_energy` takes."""


def ground_energy(hamiltonian: Hamiltonian, basis_states: np.ndarray | None = None) -> float:
    """The lowest eigenvalue, to about 1e-10 of the largest.

    Dense up to 1,024 basis states; beyond, SciPy's Lanczos iteration (`eigsh`), on the Hamiltonian's own action for the
    whole space and on a sparse matrix within a sector.

    Args:
        hamiltonian: at most 20 wires.
        basis_states: (n,) indices of the basis states that span a sector, such as `filling_sector`; all when None.

    Raises:
        ValueError: for more wires, or basis states that the Hamiltonian leads out of.
        MissingLibraryError: without SciPy, for more than 1,024 basis states.

    Example:
        >>> from ketune.circuits import heisenberg
        >>> round(ground_energy(heisenberg(4)), 6)
        -6.464102
    """
    n_wires = hamiltonian.n_wires
    if n_wires > MAX_EXACT_WIRES:
        raise ValueError(f"ground_energy: {n_wires} wires; exact diagonalisation takes at most {MAX_EXACT_WIRES}")
    if basis_states is not None:
        return _sector_energy(hamiltonian, np.unique(np.asarray(basis_states, dtype=np.int64)))
    if hamiltonian.is_diagonal:
        return float(hamiltonian.diagonal().min())
    real = _is_real(hamiltonian)
    if 2**n_wires <= MAX_DENSE:
        matrix = hamiltonian.matrix()
        return float(torch.linalg.eigvalsh(matrix.real if real else matrix)[0])
    size = 2**n_wires
    dtype = np.dtype(np.float64 if real else np.complex128)

    def multiply(vector: np.ndarray) -> np.ndarray:
        return hamiltonian.apply(torch.from_numpy(np.ascontiguousarray(vector, dtype=dtype).reshape(size))).numpy()

    return _lanczos(library("scipy.sparse.linalg").LinearOperator((size, size), matvec=multiply, dtype=dtype), size)


def filling_sector(n_wires: int, *fillings: tuple[Iterable[int], int]) -> np.ndarray:
    """Basis states with given numbers of ones on given wires; free on all other wires.

    Args:
        n_wires: number of wires.
        fillings: pairs of wires and the number of ones among them.

    Returns:
        (n,) basis indices in rising order, int64.

    Example:
        >>> filling_sector(4, ((0, 1), 1), ((2, 3), 1)).tolist()  # 0101, 0110, 1001, 1010
        [5, 6, 9, 10]
    """
    named: set[int] = set()
    states = np.zeros(1, dtype=np.int64)
    for wires, number in fillings:
        wires = tuple(wires)
        if named & set(wires) or not all(0 <= wire < n_wires for wire in wires) or not 0 <= number <= len(wires):
            raise ValueError(f"filling_sector({n_wires}, {fillings}): name different wires and at most all of each set")
        named |= set(wires)
        places = [sum(1 << (n_wires - 1 - wire) for wire in chosen) for chosen in combinations(wires, number)]
        states = (states[:, None] + np.array(places, dtype=np.int64)).reshape(-1)
    for wire in set(range(n_wires)) - named:
        states = (states[:, None] + np.array([0, 1 << (n_wires - 1 - wire)], dtype=np.int64)).reshape(-1)
    return np.sort(states)


def _sector_energy(hamiltonian: Hamiltonian, states: np.ndarray) -> float:
    size, n_wires = len(states), hamiltonian.n_wires
    if not size or states[0] < 0 or states[-1] >= 2**n_wires:
        raise ValueError(f"ground_energy: pass basis states of 0..{2**n_wires - 1}, at least one")
    largest = max(abs(coefficient) for coefficient in hamiltonian.coefficients)
    by_flip: dict[int, np.ndarray] = {}
    for word, coefficient in zip(hamiltonian.words, hamiltonian.coefficients):
        flip, sign = _mask(word, "XY"), _mask(word, "YZ")
        odd = np.bitwise_count(states & sign) % 2
        values = coefficient * 1j ** word.count("Y") * (1.0 - 2.0 * odd)
        by_flip[flip] = by_flip.get(flip, 0) + values
    columns = np.arange(size)
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for flip, values in by_flip.items():
        moves = abs(values) > 1e-9 * largest
        targets = states[moves] ^ flip
        rows = np.searchsorted(states, targets).clip(max=size - 1)
        if (states[rows] != targets).any():
            source = states[moves][states[rows] != targets][0]
            raise ValueError(f"ground_energy: the Hamiltonian leads from basis state {source} out of the sector")
        entries.append((values[moves], rows, columns[moves]))
    data, rows, columns = (np.concatenate(parts) for parts in zip(*entries))
    if _is_real(hamiltonian):
        data = np.real(data)
    if size <= MAX_DENSE:
        dense = np.zeros((size, size), dtype=data.dtype)
        np.add.at(dense, (rows, columns), data)
        return float(np.linalg.eigvalsh(dense)[0])
    return _lanczos(library("scipy.sparse").csr_matrix((data, (rows, columns)), shape=(size, size)), size)


def _lanczos(operator: Any, size: int) -> float:
    start = np.random.default_rng(0).standard_normal(size).astype(operator.dtype)  # the same result every time
    values = library("scipy.sparse.linalg").eigsh(operator, k=1, which="SA", v0=start, return_eigenvectors=False)
    return float(values[0])


def _is_real(hamiltonian: Hamiltonian) -> bool:
    return all(word.count("Y") % 2 == 0 for word in hamiltonian.words)


def _mask(word: str, letters: str) -> int:
    return int("".join("1" if letter in letters else "0" for letter in word), 2)
