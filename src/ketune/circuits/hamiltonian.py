"""`Hamiltonian`: a real linear combination of Pauli words, and the standard ones."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ketune.circuits._pauli import ApplyWords, cached_flips, check_word, flips, measurement_groups

MAX_MATRIX_WIRES = 12
"""Largest Hamiltonian whose dense matrix `Hamiltonian.matrix` builds (256 MiB)."""


@dataclass(frozen=True)
class Hamiltonian:
    """An observable: the sum of real coefficients times Pauli words.

    Words are sorted, equal ones merged and terms of coefficient zero dropped, so that Hamiltonians of the same terms
    are equal and hash alike; the zero operator keeps one term, 0 times the identity. Wire 0 is the first letter.

    Args:
        coefficients: one real number per word.
        words: Pauli words, one letter of IXYZ per wire, all of the same length.

    Attributes:
        n_wires: number of wires.
        is_diagonal: True when only I and Z occur.

    Raises:
        ValueError: without words, for words of other letters or different lengths, for another number of coefficients,
            or for coefficients that are complex or not finite.

    Example:
        >>> from ketune.circuits import Hamiltonian
        >>> energy = Hamiltonian((1.0, 0.5, 0.5), ("ZZ", "XI", "XI"))
        >>> energy
        Hamiltonian(coefficients=(1.0, 1.0), words=('XI', 'ZZ'))
        >>> energy + 2 * Hamiltonian.from_dict({"ZZ": -0.5, "YY": 1.0})
        Hamiltonian(coefficients=(1.0, 2.0), words=('XI', 'YY'))
    """

    coefficients: tuple[float, ...]
    words: tuple[str, ...]
    n_wires: int = field(init=False, repr=False, compare=False)
    is_diagonal: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        words, coefficients = tuple(self.words), tuple(self.coefficients)
        if not words or not words[0]:
            raise ValueError("Hamiltonian(words=()): pass at least one Pauli word of at least one letter")
        if len(coefficients) != len(words):
            raise ValueError(f"Hamiltonian: {len(coefficients)} coefficients for {len(words)} words; pass one per word")
        sums: dict[str, float] = {}
        for word, coefficient in zip(words, coefficients):
            check_word(word, len(words[0]), "Hamiltonian")
            sums[word] = sums.get(word, 0.0) + _real(coefficient, word)
        kept = sorted(word for word in sums if sums[word]) or ["I" * len(words[0])]
        object.__setattr__(self, "words", tuple(kept))
        object.__setattr__(self, "coefficients", tuple(sums.get(word, 0.0) for word in kept))
        object.__setattr__(self, "n_wires", len(words[0]))
        object.__setattr__(self, "is_diagonal", all(set(word) <= set("IZ") for word in kept))

    @classmethod
    def from_dict(cls, terms: Mapping[str, float]) -> "Hamiltonian":
        """From a mapping of Pauli words to coefficients, `{"ZZ": 1.0, "XI": 0.5}`."""
        return cls(tuple(terms.values()), tuple(terms))

    @classmethod
    def from_pennylane(cls, operator: Any, n_wires: int | None = None) -> "Hamiltonian":
        """From any PennyLane operator that is a sum of Pauli words (one with a `pauli_rep`).

        Args:
            operator: the operator, on wires labelled 0, 1, ....
            n_wires: number of wires; one more than the largest label when None.

        Raises:
            ValueError: for an operator without Pauli words, labels that are no wires, or complex coefficients.
        """
        sentence = getattr(operator, "pauli_rep", None)
        if sentence is None:
            raise ValueError(
                f"{operator!r} is no sum of Pauli words; qml.pauli_decompose(matrix) makes one of a matrix"
            )
        labels = list(sentence.wires)
        if not all(isinstance(label, int) and label >= 0 for label in labels):
            raise ValueError(f"the operator has the wires {labels}; number them 0, 1, ... with qml.map_wires")
        size = max(labels, default=0) + 1 if n_wires is None else n_wires
        if max(labels, default=0) >= size:
            raise ValueError(f"n_wires={n_wires}: the operator has wire {max(labels)}; pass at least {max(labels) + 1}")
        words = tuple("".join(word.get(wire, "I") for wire in range(size)) for word in sentence)
        return cls(tuple(sentence.values()) or (0.0,), words or ("I" * size,))

    @classmethod
    def from_qiskit(cls, operator: Any) -> "Hamiltonian":
        """From a Qiskit `SparsePauliOp`; qubit q is wire `n_wires - 1 - q`, as in `to_qiskit`.

        Raises:
            ValueError: for complex coefficients.
        """
        return cls(tuple(operator.coeffs.tolist()), tuple(operator.paulis.to_labels(array=False)))

    def __add__(self, other: "Hamiltonian") -> "Hamiltonian":
        if not isinstance(other, Hamiltonian):
            return NotImplemented
        if other.n_wires != self.n_wires:
            raise ValueError(f"cannot add Hamiltonians on {self.n_wires} and {other.n_wires} wires; pad words with I")
        return Hamiltonian(self.coefficients + other.coefficients, self.words + other.words)

    def __sub__(self, other: "Hamiltonian") -> "Hamiltonian":
        return self + -1.0 * other if isinstance(other, Hamiltonian) else NotImplemented

    def __mul__(self, factor: float) -> "Hamiltonian":
        if not isinstance(factor, (int, float)):
            return NotImplemented
        return Hamiltonian(tuple(factor * coefficient for coefficient in self.coefficients), self.words)

    __rmul__ = __mul__

    def __neg__(self) -> "Hamiltonian":
        return -1.0 * self

    def groups(self) -> list[tuple[str, "Hamiltonian"]]:
        """Parts that one measurement gives together: pairs of a basis (one letter of IXYZ per wire) and the part.

        Words in a part agree with its basis on every wire (they commute qubit by qubit); few parts, found greedily.

        Example:
            >>> [basis for basis, _ in transverse_ising(4).groups()]
            ['XXXX', 'ZZZZ']
        """
        return [
            (basis, Hamiltonian(tuple(self.coefficients[m] for m in part), tuple(self.words[m] for m in part)))
            for basis, part in measurement_groups(self.words)
        ]

    def diagonal(self) -> Tensor:
        """The diagonal of a diagonal Hamiltonian: its energies by basis state, (2 ** n_wires,) in float64.

        Raises:
            ValueError: when a word has X or Y.
        """
        if not self.is_diagonal:
            word = next(word for word in self.words if set(word) - set("IZ"))
            raise ValueError(
                f"the Hamiltonian is not diagonal: it has the word {word!r}; use matrix() or expectation()"
            )
        (part,) = flips(self.words, self.coefficients)
        return part.phases.expand(part.shape).flatten()

    def matrix(self) -> Tensor:
        """The dense matrix, (2 ** n_wires, 2 ** n_wires) in complex128.

        Raises:
            ValueError: for more than 12 wires.
        """
        if self.n_wires > MAX_MATRIX_WIRES:
            raise ValueError(f"a matrix of {self.n_wires} wires: at most {MAX_MATRIX_WIRES}; use apply()")
        return self.apply(torch.eye(2**self.n_wires, dtype=torch.complex128)).T.contiguous()

    def apply(self, states: Tensor) -> Tensor:
        """The Hamiltonian times each state, without a matrix: one pass per set of words that flip the same wires.

        Differentiable any number of times, in forward mode and under vmap too.

        Args:
            states: (..., 2 ** n_wires) real or complex.

        Returns:
            (..., 2 ** n_wires); complex when the states are, or when a word has an odd number of Y.

        Raises:
            ValueError: for states of another length.
        """
        self._check(states)
        if not states.is_complex() and any(word.count("Y") % 2 for word in self.words):
            states = states.to(states.dtype.to_complex())
        return _applied(self.words, self.coefficients, states)

    def expectation(self, states: Tensor) -> Tensor:
        """<psi|H|psi> of each state, without a matrix. States are taken as they are, normalised or not.

        A diagonal Hamiltonian is one weighted sum of probabilities, whatever its number of words; otherwise the cost is
        one pass over the states per set of words that flip the same wires. Words with an odd number of Y vanish on real
        states. The backward pass keeps two states. Differentiable any number of times.

        Args:
            states: (..., 2 ** n_wires) real or complex.

        Returns:
            (...) real.

        Raises:
            ValueError: for states of another length.

        Example:
            >>> import torch
            >>> from ketune.circuits import Hamiltonian
            >>> bell = torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5
            >>> energy = Hamiltonian.from_dict({"ZZ": 1.0, "XX": 0.5, "ZI": 3.0})
            >>> round(float(energy.expectation(bell)), 4)
            1.5
        """
        self._check(states)
        if self.is_diagonal:
            return probabilities(states) @ self._diagonal(states)
        terms = [*zip(self.words, self.coefficients)]
        if not states.is_complex():
            terms = [(word, coefficient) for word, coefficient in terms if word.count("Y") % 2 == 0]
        if not terms:
            return (states * 0).sum(-1)
        words, coefficients = zip(*terms)
        moved = _applied(words, coefficients, states)
        if not states.is_complex():
            return (states * moved).sum(-1)
        return (torch.view_as_real(states.resolve_conj()) * torch.view_as_real(moved)).sum((-2, -1))

    def _diagonal(self, states: Tensor) -> Tensor:
        (part,) = cached_flips(self.words, self.coefficients, states.device, states.real.dtype)
        return part.phases.expand(part.shape).flatten()

    def _check(self, states: Tensor) -> None:
        if states.ndim == 0 or states.shape[-1] != 2**self.n_wires:
            length = states.shape[-1] if states.ndim else "no dimension"
            raise ValueError(f"states of length {length}; {self.n_wires} wires need {2**self.n_wires}")


def probabilities(states: Tensor) -> Tensor:
    """|psi_j|^2, from products rather than `abs`, whose second derivatives are wrong at zero."""
    return states.real.square() + states.imag.square() if states.is_complex() else states.square()


def _applied(words: tuple[str, ...], coefficients: tuple[float, ...], states: Tensor) -> Tensor:
    result = ApplyWords.apply(words, coefficients, states)
    assert isinstance(result, Tensor)
    return result


def _real(coefficient: Any, word: str) -> float:
    value = complex(coefficient)
    if value.imag or not math.isfinite(value.real):
        raise ValueError(f"Hamiltonian has the coefficient {coefficient} for {word!r}: it must be real and finite")
    return value.real


def _bonds(n_wires: int, periodic: bool) -> list[tuple[int, int]]:
    if n_wires < 2:
        raise ValueError(f"n_wires={n_wires}: a chain needs at least 2 wires")
    closing = [(n_wires - 1, 0)] if periodic and n_wires > 2 else []
    return [(wire, wire + 1) for wire in range(n_wires - 1)] + closing


def _word(n_wires: int, letter: str, wires: Iterable[int]) -> str:
    return "".join(letter if wire in wires else "I" for wire in range(n_wires))


def transverse_ising(n_wires: int, coupling: float = 1.0, field: float = 1.0, periodic: bool = False) -> Hamiltonian:
    """The Ising chain in a transverse field, `-coupling sum Z_i Z_(i+1) - field sum X_i`.

    Args:
        n_wires: number of spins, at least 2.
        coupling: J; ferromagnetic when positive.
        field: h; the phase transition lies at `field = coupling`.
        periodic: closes the chain to a ring (from 3 wires).

    Raises:
        ValueError: for fewer than two wires.

    Example:
        >>> transverse_ising(2, field=0.5)
        Hamiltonian(coefficients=(-0.5, -0.5, -1.0), words=('IX', 'XI', 'ZZ'))
    """
    terms = {_word(n_wires, "Z", bond): -coupling for bond in _bonds(n_wires, periodic)}
    terms |= {_word(n_wires, "X", (wire,)): -field for wire in range(n_wires)}
    return Hamiltonian.from_dict(terms)


def heisenberg(
    n_wires: int, coupling: tuple[float, float, float] = (1.0, 1.0, 1.0), periodic: bool = False
) -> Hamiltonian:
    """The Heisenberg chain, `sum Jx X_i X_(i+1) + Jy Y_i Y_(i+1) + Jz Z_i Z_(i+1)` in Pauli matrices.

    Args:
        n_wires: number of spins, at least 2.
        coupling: (Jx, Jy, Jz); antiferromagnetic when positive.
        periodic: closes the chain to a ring (from 3 wires).

    Raises:
        ValueError: for fewer than two wires.

    Example:
        >>> heisenberg(2).words
        ('XX', 'YY', 'ZZ')
    """
    bonds = _bonds(n_wires, periodic)
    return Hamiltonian.from_dict(
        {_word(n_wires, letter, bond): strength for letter, strength in zip("XYZ", coupling) for bond in bonds}
    )


def max_cut(n_wires: int, edges: Iterable[tuple[int, int] | tuple[int, int, float]]) -> Hamiltonian:
    """MaxCut, `sum over edges of weight (Z_i Z_j - 1) / 2`: minus the weight that a bit string cuts.

    Farhi, Goldstone, Gutmann, arXiv 1411.4028, section II, with the sign turned so that the ground state is the best
    cut.

    Args:
        n_wires: number of vertices.
        edges: pairs of vertices, with a weight as third entry where it is not 1.

    Raises:
        ValueError: without edges, for an edge from a vertex to itself, or to a vertex outside 0..n_wires-1.

    Example:
        >>> max_cut(3, [(0, 1), (1, 2)]).diagonal()
        tensor([ 0., -1., -2., -1., -1., -2., -1.,  0.], dtype=torch.float64)
    """
    coefficients: list[float] = []
    words: list[str] = []
    for first, second, *weight in edges:
        if first == second or not (0 <= first < n_wires and 0 <= second < n_wires):
            raise ValueError(f"edge {(first, second)}: join two different vertices of 0..{n_wires - 1}")
        half = (weight[0] if weight else 1.0) / 2
        coefficients += [half, -half]
        words += [_word(n_wires, "Z", (first, second)), "I" * n_wires]
    if not words:
        raise ValueError("max_cut(edges=[]): pass at least one edge")
    return Hamiltonian(tuple(coefficients), tuple(words))
