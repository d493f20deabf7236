"""Pauli words: their action on states, what can be measured together, and the gates that make them diagonal.

A word has one letter of IXYZ per wire. With the bit masks x (wires with X or Y) and z (wires with Z or Y) it maps basis
state j to `i^(number of Y) (-1)^|j & z|` times basis state `j ^ x`: one permutation and one vector of phases. Words
with the same x share the permutation, so their phases add up to one table; of a diagonal operator nothing else is left.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ketune.circuits.circuit import Gate

_CACHED_ENTRIES = 1 << 21  # larger phase tables (16 bytes an entry) are made anew for each use
_ALL_PAIRS = 2048  # words up to which conflicts are counted pair by pair


def check_word(word: object, n_wires: int, where: str) -> None:
    """Refuses what is not a Pauli word of `n_wires` letters; `where` begins the message.

    Raises:
        ValueError: for another type, length or letter.
    """
    if not isinstance(word, str) or len(word) != n_wires or set(word) - set("IXYZ"):
        raise ValueError(f"{where} has the Pauli word {word!r}: write {n_wires} letters of IXYZ, one per wire")


def masks(word: str) -> tuple[int, int]:
    """The bit masks x (letters X and Y) and z (letters Z and Y); wire 0 is the most significant bit."""
    x, z = (word.translate(str.maketrans("IXYZ", bits)) for bits in ("0110", "0011"))
    return int(x, 2), int(z, 2)


def pauli_z_words(n_wires: int) -> tuple[str, ...]:
    """The words of readout "pauli_z": Z on each wire in turn."""
    return tuple("I" * wire + "Z" + "I" * (n_wires - wire - 1) for wire in range(n_wires))


def measurement_groups(words: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Groups Pauli words that one basis change makes diagonal together (qubit-wise commuting).

    The fewest groups of three greedy colourings of the conflict graph: words as they come, heaviest words first, and
    (up to 2048 words) words with most conflicts first (Verteletskyi, Yen, Izmaylov, arXiv 1907.03358, section II C).

    Returns:
        pairs of a basis (one letter of IXYZ per wire) and the rising positions of its words in `words`; groups in the
        order of their first words.
    """
    x, z = zip(*map(masks, words)) if words else ((), ())
    positions = range(len(words))
    orders = [list(positions), sorted(positions, key=lambda k: -(x[k] | z[k]).bit_count())]
    if len(words) <= _ALL_PAIRS and words and len(words[0]) < 63:
        xs, zs = torch.tensor(x), torch.tensor(z)
        support = xs | zs
        n_conflicts = [
            int(torch.count_nonzero(((xs ^ xs[k]) | (zs ^ zs[k])) & support & support[k])) for k in positions
        ]
        orders.append(sorted(positions, key=lambda k: -n_conflicts[k]))
    members = min((_first_fit(x, z, order) for order in orders), key=len)
    groups = sorted(sorted(group) for group in members)
    return [(_merge([words[member] for member in group]), group) for group in groups]


def _first_fit(x: Sequence[int], z: Sequence[int], order: Sequence[int]) -> list[list[int]]:
    """Puts each word into the first group whose basis it fits."""
    bases: list[tuple[int, int]] = []
    groups: list[list[int]] = []
    for k in order:
        for number, (bx, bz) in enumerate(bases):
            if not ((bx ^ x[k]) | (bz ^ z[k])) & (bx | bz) & (x[k] | z[k]):
                bases[number] = (bx | x[k], bz | z[k])
                groups[number].append(k)
                break
        else:
            bases.append((x[k], z[k]))
            groups.append([k])
    return groups


def _merge(words: Sequence[str]) -> str:
    return "".join(max(letters) for letters in zip(*words))  # I sorts before X, Y and Z; of those one occurs


def basis_change(basis: str) -> tuple[Gate, ...]:
    """Gates that turn the letters X and Y of a basis into Z: H for X, S† then H for Y."""
    gates: list[Gate] = []
    for wire, letter in enumerate(basis):
        if letter == "Y":
            gates.append(Gate("SDG", (wire,)))
        if letter in "XY":
            gates.append(Gate("H", (wire,)))
    return tuple(gates)


def word_signs(words: Sequence[str], index: Tensor) -> Tensor:
    """Eigenvalues of Pauli words, every letter but I read as Z.

    Args:
        words: k words of n letters.
        index: (...) int64 basis indices; wire 0 is the most significant of the n bits.

    Returns:
        (..., k) float64 of +1 and -1.
    """
    n_wires = len(words[0])
    bits = (index[..., None] >> torch.arange(n_wires - 1, -1, -1, device=index.device)) & 1
    mask = torch.tensor([[letter != "I" for letter in word] for word in words], dtype=torch.float64)
    return 1.0 - 2.0 * ((bits.double() @ mask.T.to(index.device)) % 2)


class Flip(NamedTuple):
    """Words with the same x, summed: flip the states' dimensions `dims`, then multiply by `phases`.

    `shape` splits the basis index into runs of wires; `phases` has size 1 along runs that no word's z touches.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...]
    phases: Tensor


def flips(words: tuple[str, ...], coefficients: tuple[float, ...]) -> list[Flip]:
    """The sum of coefficients times words as one `Flip` per permutation, the diagonal first.

    Phases are float64 where they are real and complex128 otherwise.
    """
    by_x: dict[int, list[tuple[int, complex]]] = {}
    for word, coefficient in sorted(zip(words, coefficients), key=lambda term: masks(term[0])):
        x, z = masks(word)
        # H psi at index k reads psi at k ^ x with the phase of the word there, which is this one's conjugate.
        by_x.setdefault(x, []).append((z, coefficient * (-1j) ** word.count("Y")))
    n_wires = len(words[0])
    return [_flip(x, terms, n_wires) for x, terms in by_x.items()]


def _flip(x: int, terms: list[tuple[int, complex]], n_wires: int) -> Flip:
    support = 0
    for z, _ in terms:
        support |= z
    runs = [
        (kind, len(list(wires)))
        for kind, wires in groupby(range(n_wires - 1, -1, -1), key=lambda bit: (x >> bit & 1, support >> bit & 1))
    ]
    kept = [bit for bit in range(n_wires - 1, -1, -1) if support >> bit & 1]
    table = torch.zeros(2 ** len(kept), dtype=torch.complex128)
    for z, phase in terms:
        place = sum((z >> bit & 1) << len(kept) - 1 - k for k, bit in enumerate(kept))
        table[place] += phase
    if not bool(table.imag.any()):
        table = table.real.clone()
    for k in range(len(kept)):  # Walsh-Hadamard transform: from coefficients of signs to their sum at each index
        pair = table.view(2**k, 2, -1)
        table = torch.stack((pair[:, 0] + pair[:, 1], pair[:, 0] - pair[:, 1]), 1)
    return Flip(
        shape=tuple(2**length for _, length in runs),
        dims=tuple(run - len(runs) for run, ((flipped, _), _) in enumerate(runs) if flipped),
        phases=table.reshape([2**length if signed else 1 for (_, signed), length in runs]),
    )


def cached_flips(
    words: tuple[str, ...], coefficients: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> list[Flip]:
    """`flips` on a device, kept for the next call while their tables are small."""
    n_permutations = len({masks(word)[0] for word in words})
    make = _kept_flips if n_permutations << len(words[0]) <= _CACHED_ENTRIES else _kept_flips.__wrapped__
    return make(words, coefficients, device, dtype)


@lru_cache(maxsize=64)
def _kept_flips(
    words: tuple[str, ...], coefficients: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> list[Flip]:
    # Tables outlive the mode they are made in: an inference tensor could not be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        return [flip._replace(phases=flip.phases.to(device, dtype)) for flip in flips(words, coefficients)]


def _apply(words: tuple[str, ...], coefficients: tuple[float, ...], states: Tensor) -> Tensor:
    total = torch.zeros_like(states, memory_format=torch.contiguous_format)
    for part in cached_flips(words, coefficients, states.device, states.dtype):
        split = (*states.shape[:-1], *part.shape)
        flipped = states.reshape(split)
        if part.dims:
            flipped = flipped.flip(part.dims)
        total.view(split).addcmul_(part.phases, flipped)
    return total


class ApplyWords(torch.autograd.Function):
    """Sum of coefficients times Pauli words, applied to (..., 2 ** n) states. Hermitian, so it is its own backward.

    Real states need words with even numbers of Y.
    """

    @staticmethod
    def forward(words: tuple[str, ...], coefficients: tuple[float, ...], states: Tensor) -> Tensor:
        return _apply(words, coefficients, states)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.words, ctx.coefficients, _ = inputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ApplyWords.apply(ctx.words, ctx.coefficients, *cotangents)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return ApplyWords.apply(ctx.words, ctx.coefficients, tangents[-1])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], words: Any, coefficients: Any, states: Tensor) -> tuple[Tensor, int]:
        return ApplyWords.apply(words, coefficients, states.movedim(in_dims[-1], 0)), 0
