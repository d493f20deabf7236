"""Readouts: what is computed from the final state, and how measurements are grouped."""

from collections.abc import Sequence

import torch

from ketune.circuits.circuit import Gate

READOUTS = ("pauli_z", "probabilities", "amplitudes")
"""Named readouts; a sequence of Pauli words such as `["ZZI", "XII"]` is the other choice."""

ENCODINGS = ("amplitude", "angle")
"""Names of the ways to turn features into a state."""

Readout = str | Sequence[str]


def check_readout(readout: Readout, n_wires: int) -> str | tuple[str, ...]:
    """The readout as a name or a tuple of Pauli words.

    Args:
        readout: "pauli_z", "probabilities", "amplitudes", or Pauli words with one letter of IXYZ per wire.
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
    words = tuple(readout)
    if not words:
        raise ValueError("readout=[]: pass at least one Pauli word")
    for word in words:
        if not isinstance(word, str) or len(word) != n_wires or set(word) - set("IXYZ"):
            raise ValueError(f"readout has the Pauli word {word!r}: write {n_wires} letters of IXYZ, one per wire")
    return words


def count_readouts(n_wires: int, readout: Readout, n_readouts: int | None = None) -> int:
    """Number of values a readout gives per state.

    `n_wires` for "pauli_z", `2 ** n_wires` for "probabilities", the number of words for Pauli words, and `n_readouts`
    (default `2 ** n_wires`) for "amplitudes".

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
    return len(readout)


def pauli_z_words(n_wires: int) -> tuple[str, ...]:
    """The words of readout "pauli_z": Z on each wire in turn."""
    return tuple("I" * wire + "Z" + "I" * (n_wires - wire - 1) for wire in range(n_wires))


def measurement_groups(words: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Groups Pauli words that one basis change makes diagonal together (qubit-wise commuting, first fit).

    Returns:
        pairs of a basis (one letter of IXYZ per wire) and the positions of its words in `words`.
    """
    groups: list[tuple[str, list[int]]] = []
    for position, word in enumerate(words):
        for index, (basis, members) in enumerate(groups):
            if all(a == b or "I" in (a, b) for a, b in zip(basis, word)):
                merged = "".join(b if a == "I" else a for a, b in zip(basis, word))
                groups[index] = (merged, [*members, position])
                break
        else:
            groups.append((word, [position]))
    return groups


def basis_change(basis: str) -> tuple[Gate, ...]:
    """Gates that turn the letters X and Y of a basis into Z: H for X, S† then H for Y."""
    gates: list[Gate] = []
    for wire, letter in enumerate(basis):
        if letter == "Y":
            gates.append(Gate("SDG", (wire,)))
        if letter in "XY":
            gates.append(Gate("H", (wire,)))
    return tuple(gates)


def word_signs(words: Sequence[str], index: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of Pauli words, every letter but I read as Z.

    Args:
        words: k words of n letters.
        index: (m,) int64 basis indices; wire 0 is the most significant of the n bits.

    Returns:
        (m, k) float64 of +1 and -1.
    """
    n_wires = len(words[0])
    bits = (index[:, None] >> torch.arange(n_wires - 1, -1, -1)) & 1
    mask = torch.tensor([[letter != "I" for letter in word] for word in words], dtype=torch.int64)
    return 1.0 - 2.0 * ((bits @ mask.T) % 2).double()
