"""Readouts: what is computed from the final state, and how measurements are grouped."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ketune.circuits._pauli import basis_change, check_word, measurement_groups, pauli_z_words, word_signs
from ketune.circuits.hamiltonian import Hamiltonian

__all__ = [
    "ENCODINGS",
    "READOUTS",
    "Readout",
    "basis_change",
    "check_readout",
    "count_readouts",
    "measurement_groups",
    "pauli_z_words",
    "split_readout",
    "word_signs",
]

READOUTS = ("pauli_z", "probabilities", "amplitudes")
"""Named readouts; Pauli words such as `["ZZI", "XII"]` and Hamiltonians are the other choices."""

ENCODINGS = ("amplitude", "angle", "basis", "iqp")
"""Names of the ways to turn features into a state."""

Readout = str | Sequence[str] | Hamiltonian | Sequence[Hamiltonian]


def check_readout(readout: Readout, n_wires: int) -> str | tuple[str, ...]:
    """The readout as a name or a tuple of Pauli words; of Hamiltonians, the words to measure.

    Args:
        readout: "pauli_z", "probabilities", "amplitudes", Pauli words with one letter of IXYZ per wire, a Hamiltonian,
            or a sequence of Hamiltonians.
        n_wires: number of wires.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(readout, str):
        if readout in READOUTS:
            return readout
        raise ValueError(
            f"readout={readout!r}: unknown readout; choose one of {', '.join(map(repr, READOUTS))} "
            f"or pass Pauli words such as {['X' * min(n_wires, 2) + 'I' * max(n_wires - 2, 0)]}"
        )
    return _words(readout, n_wires)[0]


def split_readout(readout: Readout, n_wires: int) -> tuple[str | tuple[str, ...], Tensor | None]:
    """What to measure, and how Hamiltonians are combined from it.

    Args:
        readout: as `check_readout`.
        n_wires: number of wires.

    Returns:
        the readout as a name or a tuple of different Pauli words, and for Hamiltonians their coefficients,
        (n_words, n_hamiltonians) in float64: the expectations of the words times this matrix are the energies. None for
        other readouts.

    Raises:
        ValueError: as `check_readout`.

    Example:
        >>> from ketune.circuits import transverse_ising
        >>> words, weights = split_readout(transverse_ising(2), 2)
        >>> words, weights.flatten().tolist()
        (('IX', 'XI', 'ZZ'), [-1.0, -1.0, -1.0])
    """
    if isinstance(readout, str):
        return check_readout(readout, n_wires), None
    words, hamiltonians = _words(readout, n_wires)
    if not hamiltonians:
        return words, None
    weights = torch.zeros(len(words), len(hamiltonians), dtype=torch.float64)
    place = {word: row for row, word in enumerate(words)}
    for column, hamiltonian in enumerate(hamiltonians):
        for word, coefficient in zip(hamiltonian.words, hamiltonian.coefficients):
            weights[place[word], column] = coefficient
    return words, weights


def _words(
    readout: Sequence[str] | Hamiltonian | Sequence[Hamiltonian], n_wires: int
) -> tuple[tuple[str, ...], list[Hamiltonian]]:
    """The Pauli words of a readout that is no name, and its Hamiltonians, if any."""
    entries = [readout] if isinstance(readout, Hamiltonian) else list(readout)
    hamiltonians = [entry for entry in entries if isinstance(entry, Hamiltonian)]
    if hamiltonians and len(hamiltonians) < len(entries):
        raise ValueError("readout mixes Hamiltonians and Pauli words; make each word a Hamiltonian((1.0,), (word,))")
    for hamiltonian in hamiltonians:
        if hamiltonian.n_wires != n_wires:
            raise ValueError(f"readout has a Hamiltonian on {hamiltonian.n_wires} wires; the circuit has {n_wires}")
    if hamiltonians:
        return tuple(dict.fromkeys(word for hamiltonian in hamiltonians for word in hamiltonian.words)), hamiltonians
    words = tuple(entry for entry in entries if not isinstance(entry, Hamiltonian))
    if not words:
        raise ValueError("readout=[]: pass at least one Pauli word")
    for word in words:
        check_word(word, n_wires, "readout")
    return words, []


def count_readouts(n_wires: int, readout: Readout, n_readouts: int | None = None) -> int:
    """Number of values a readout gives per state.

    `n_wires` for "pauli_z", `2 ** n_wires` for "probabilities", the number of words or of Hamiltonians (1 for a single
    one), and `n_readouts` (default `2 ** n_wires`) for "amplitudes".

    Raises:
        ValueError: when `n_readouts` is given for another readout, or is outside 1..2 ** n_wires.
    """
    if n_readouts is not None:
        if readout != "amplitudes":
            raise ValueError(f"n_readouts={n_readouts}: only readout='amplitudes' takes it, not {readout!r}")
        if not 1 <= n_readouts <= 2**n_wires:
            raise ValueError(f"n_readouts={n_readouts}: choose 1 to {2**n_wires} amplitudes of {n_wires} wires")
        return n_readouts
    if isinstance(readout, str):
        return n_wires if readout == "pauli_z" else 2**n_wires
    return 1 if isinstance(readout, Hamiltonian) else len(readout)
