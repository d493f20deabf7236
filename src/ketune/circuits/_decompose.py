"""Constant two-wire unitaries as one-wire matrices and signed permutations, exact to rounding.

Complex unitaries go through the canonical (KAK) decomposition: Vatan and Williams, Physical Review A 69, 032315 (2004),
arXiv quant-ph/0308006, with at most three CNOTs. Orthogonal ones go through SO(4) = SU(2) x SU(2): three layers of RY
with a CZ between them, so that a real gate stays real.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = tuple[tuple[complex, ...], ...]
Part = tuple[str, tuple[int, ...], Rows | None]
"""One factor of a unitary: ("U", (wire,), 2 x 2 rows) or (name of a permutation, both wires in order, None)."""

_SAME = 1e-13  # angles and entries closer than this count as equal; the error stays below 1e-12
_I = np.eye(2, dtype=complex)
_X = np.array([[0, 1], [1, 0]], dtype=complex)
_Y = np.array([[0, -1j], [1j, 0]], dtype=complex)
_Z = np.diag([1, -1]).astype(complex)
_H = (_X + _Z) / math.sqrt(2)
_S = np.diag([1, 1j])
_CZ = np.diag([1, 1, 1, -1]).astype(complex)
# In this basis tensor products of SU(2) are the real matrices of SO(4), and XX, YY, ZZ are diagonal.
_MAGIC = np.array([[1, 0, 0, 1j], [0, 1j, 1, 0], [0, 1j, -1, 0], [1, 0, 0, -1j]]) / math.sqrt(2)
_PAIRS = np.stack([np.diag(_MAGIC.conj().T @ np.kron(p, p) @ _MAGIC).real for p in (_X, _Y, _Z)])
# Turns the axes in a cycle: _CYCLE X _CYCLE^-1 = Y, then Y to Z, Z to X.
_CYCLE = (_I - 1j * (_X + _Y + _Z)) / 2
# The two commuting copies of su(2) inside the real antisymmetric matrices (times i), as Y, X, Z of each copy.
_LEFT = [np.kron(_I, _I), np.kron(_Y, _I), np.kron(_X, _Y), np.kron(_Z, _Y)]
_RIGHT = [np.kron(_I, _I), np.kron(_I, _Y), np.kron(_Y, _X), np.kron(_Y, _Z)]


def rows_of(matrix: Array) -> Rows:
    """A matrix as nested tuples, with the dust of rounding taken off and no negative zeros."""
    real = np.where(abs(np.real(matrix)) < 1e-15, 0.0, np.real(matrix))
    imag = np.where(abs(np.imag(matrix)) < 1e-15, 0.0, np.imag(matrix))
    return tuple(tuple(map(complex, a, b)) for a, b in zip(real.tolist(), imag.tolist()))


def nearest_unitary(matrix: Array) -> Array:
    """The unitary factor of the polar decomposition."""
    left, _, right = np.linalg.svd(matrix)
    return left @ right


class _Parts:
    """Collects factors in the order of application; one-wire matrices wait until a permutation needs their wire."""

    def __init__(self) -> None:
        self.done: list[Part] = []
        self._waiting = [_I, _I]

    def local(self, *matrices: Array) -> None:
        """One matrix on each wire."""
        self._waiting = [new @ old for new, old in zip(matrices, self._waiting)]

    def permute(self, name: str, *wires: int) -> None:
        self._flush()
        self.done.append((name, wires or (0, 1), None))

    def finish(self, phase: complex = 1) -> tuple[Part, ...]:
        self._waiting[0] = self._waiting[0] * phase
        self._flush()
        return tuple(self.done)

    def _flush(self) -> None:
        for wire, matrix in enumerate(self._waiting):
            if abs(matrix - _I).max() > 1e-15:
                self.done.append(("U", (wire,), rows_of(matrix)))
        self._waiting = [_I, _I]


def _kron_factors(matrix: Array) -> tuple[Array, Array]:
    """A, B with `kron(A, B) = matrix`, for a matrix that is such a product."""
    split = matrix.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    left, scale, right = np.linalg.svd(split)
    root = math.sqrt(scale[0])
    return nearest_unitary(root * left[:, 0].reshape(2, 2)), nearest_unitary(root * right[0].reshape(2, 2))


def _real_eigenvectors(symmetric: Array) -> NDArray[np.float64]:
    """Real orthogonal P, determinant 1, that diagonalises a symmetric unitary matrix."""
    best, smallest = np.eye(4), math.inf
    # Real and imaginary part commute, and a mixture of them that keeps different eigenvalues apart has eigenvectors of
    # both. No single mixture does so for every matrix.
    for turn in (0.3, 0.9, 1.7, 2.3, 2.9):
        vectors = np.linalg.eigh(math.cos(turn) * np.real(symmetric) + math.sin(turn) * np.imag(symmetric))[1]
        turned = vectors.T @ symmetric @ vectors
        error = abs(turned - np.diag(np.diag(turned))).max()
        if error < smallest:
            best, smallest = vectors, error
    if np.linalg.det(best) < 0:
        best[:, 0] *= -1
    return best


def canonical_parts(matrix: Array) -> tuple[tuple[Array, Array], tuple[float, float, float], tuple[Array, Array]]:
    """A two-wire unitary as one-wire matrices, ISINGXX, ISINGYY, ISINGZZ, one-wire matrices, up to a global phase.

    Args:
        matrix: 4 x 4, unitary to rounding.

    Returns:
        the matrices on both wires in front, the angles of the three gates, the matrices behind.
    """
    _, before, coordinates, after = _kak(matrix)
    x, y, z = (-2 * coordinates).tolist()
    return before, (x, y, z), after


def _kak(matrix: Array) -> tuple[complex, tuple[Array, Array], NDArray[np.float64], tuple[Array, Array]]:
    """phase * kron(after) exp(i (a XX + b YY + c ZZ)) kron(before); a, b, c as an array."""
    phase = np.linalg.det(matrix) ** 0.25
    inside = _MAGIC.conj().T @ (matrix / phase) @ _MAGIC
    vectors = _real_eigenvectors(inside.T @ inside)
    halves = np.angle(np.diag(vectors.T @ inside.T @ inside @ vectors)) / 2
    outer = inside @ vectors * np.exp(-1j * halves)
    if np.linalg.det(outer).real < 0:
        halves[0] += math.pi
        outer[:, 0] *= -1
    # diag(exp(i halves)) = exp(i (mean + a XX + b YY + c ZZ)) in the magic basis
    phase *= np.exp(1j * halves.mean())
    before = _kron_factors(_MAGIC @ vectors.T @ _MAGIC.conj().T)
    return phase, before, _PAIRS @ halves / 4, _kron_factors(_MAGIC @ outer.real @ _MAGIC.conj().T)


def _complex_parts(matrix: Array) -> tuple[Part, ...]:
    phase, before, coordinates, after = _kak(matrix)
    parts = _Parts()
    parts.local(*before)
    phase *= _canonical(parts, coordinates)
    parts.local(*after)
    return parts.finish(phase)


def _canonical(parts: _Parts, coordinates: NDArray[np.float64]) -> complex:
    """Appends exp(i (a XX + b YY + c ZZ)) up to a phase, and returns that phase."""
    quarter = math.pi / 4
    # exp(i pi/2 XX) = i XX is local, so that each coordinate can be moved into (-pi/4, pi/4].
    turns = np.ceil((coordinates - quarter - _SAME) / (2 * quarter)).astype(int)
    coordinates = coordinates - turns * 2 * quarter
    phase = 1j ** int(turns.sum() % 4)
    for pauli, turn in zip((_X, _Y, _Z), turns):
        if turn % 2:
            parts.local(pauli, pauli)
    zero = abs(coordinates) < _SAME
    full = abs(coordinates - quarter) < _SAME
    if zero.all():
        return phase
    if full.sum() >= 2:  # exp(i pi/4 (XX + YY + ZZ)) = exp(i pi/4) SWAP
        parts.permute("SWAP")
        return phase * np.exp(1j * quarter) * _canonical(parts, coordinates - quarter)
    if zero.any():
        # Turn the axes so that the idle one is YY, or the busy one ZZ if it is a single CZ.
        single = zero.sum() == 2 and full.any()
        shift = (2 - int(full.argmax())) % 3 if single else (1 - int(zero.argmax())) % 3
        turn = np.linalg.matrix_power(_CYCLE, shift)
        a, _, c = np.roll(coordinates, shift)
        parts.local(turn, turn)
        if single:
            parts.permute("CZ")
            parts.local(_S.conj(), _S.conj())
            phase *= np.exp(1j * quarter)
        else:
            parts.permute("CNOT")
            parts.local(_exponential(a, _X), _exponential(c, _Z))
            parts.permute("CNOT")
        parts.local(turn.conj().T, turn.conj().T)
        return phase
    a, b, c = coordinates - quarter
    parts.local(_I, _S)
    parts.permute("CNOT")
    parts.local(_exponential(-b, _Y), _I)
    parts.permute("CNOT", 1, 0)
    parts.local(_exponential(a, _Y), _exponential(c, _Z))
    parts.permute("CNOT")
    parts.local(_S.conj(), _I)
    return phase * np.exp(1j * quarter)


def _exponential(angle: float, pauli: Array) -> Array:
    """exp(i angle P)."""
    return math.cos(angle) * _I + 1j * math.sin(angle) * pauli


def orthogonal_parts(matrix: Array) -> tuple[tuple[Array, Array], tuple[float, float], tuple[Array, Array]]:
    """A real two-wire unitary as RY gates, CZ, RY gates, CZ, RY gates: SO(4) = SU(2) x SU(2).

    Args:
        matrix: 4 x 4 real, of determinant 1.

    Returns:
        the matrices on both wires in front, the angles of the RY between the CZ, the matrices behind.
    """
    # matrix = (p0 - i p . LEFT) (q0 - i q . RIGHT); its weights on the products are the outer product of p and q
    weights = np.array([[np.trace(a @ b @ matrix) for b in _RIGHT] for a in _LEFT]) / 4
    turns = np.array([1, 1j, 1j, 1j])
    left, scale, right = np.linalg.svd((weights * turns[:, None] * turns).real)
    first, middle, last = zip(*(_euler(q) for q in (scale[0] * left[:, 0], right[0])))
    # CZ maps Y on one wire to Y there and Z on the other
    return (_ry(last[0]), _ry(last[1])), (middle[1], middle[0]), (_ry(first[0]), _ry(first[1]))


def _real_parts(matrix: Array) -> tuple[Part, ...]:
    parts = _Parts()
    if np.linalg.det(matrix).real < 0:
        parts.permute("CZ")
        matrix = matrix @ _CZ
    before, middle, after = orthogonal_parts(matrix)
    parts.local(*before)
    if max(map(abs, middle)) > _SAME:
        parts.permute("CZ")
        parts.local(*map(_ry, middle))
        parts.permute("CZ")
    parts.local(*after)
    return parts.finish()


def _euler(quaternion: NDArray[np.float64]) -> tuple[float, float, float]:
    """r, s, t with RY(r) RZ(s) RY(t) = w - i (y Y + x X + z Z)."""
    w, y, x, z = quaternion
    total, difference = math.atan2(y, w), math.atan2(x, z)
    return total + difference, 2 * math.atan2(math.hypot(x, z), math.hypot(w, y)), total - difference


def _ry(angle: float) -> Array:
    return np.array([[math.cos(angle / 2), -math.sin(angle / 2)], [math.sin(angle / 2), math.cos(angle / 2)]], complex)


@lru_cache(maxsize=4096)
def unitary_parts(rows: Rows) -> tuple[Part, ...]:
    """A constant unitary as factors on wires 0 and 1, in the order of application; their product is exact.

    Args:
        rows: 2 x 2 or 4 x 4, unitary to rounding; of two wires the first is the more significant.

    Returns:
        one-wire matrices, CNOT, CZ and SWAP. Real when the unitary is real.
    """
    if len(rows) == 2:
        return (("U", (0,), rows),)
    matrix: Array = np.array(rows, dtype=complex)
    return _complex_parts(matrix) if np.imag(matrix).any() else _real_parts(matrix)
