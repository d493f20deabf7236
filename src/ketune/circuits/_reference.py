"""What `run` computes, in plain differentiable torch operations that torch differentiates and maps as often as asked.

A circuit is a sequence of layers, each a 2 x 2 matrix on every wire and then one signed permutation. The matrices of up
to four neighbouring wires are multiplied out, so that a layer is two or three matrix products per sample.
"""

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from ketune.circuits._apart import apart
from ketune.circuits._dtypes import SMALLEST_SQUARED_NORM, compute_dtype
from ketune.circuits._gate_matrices import angle_tables, most_rotations
from ketune.circuits._gates import elementary_steps
from ketune.circuits._layers import draft_layers, permutation, slot_terms
from ketune.circuits._precision import without_autocast
from ketune.circuits.circuit import Circuit
from ketune.circuits.observables import READOUTS, count_readouts, pauli_z_words

_GROUP = 4  # wires whose matrices are multiplied out; 3 and 5 are slower at 10 and 12 wires

Move = tuple[Tensor, Tensor | None]
"""A signed permutation: the basis states to read, and signs."""


class Reference:
    """One circuit with encoding and readout as a function of features and angles, from plain torch operations.

    Args:
        circuit: the circuit.
        encoding: "amplitude", "angle", or "iqp:r" for IQP encoding with r repeats.
        readout: "pauli_z", "probabilities", "amplitudes" or Pauli words.
        n_outputs: number of values per sample.
    """

    def __init__(self, circuit: Circuit, encoding: str, readout: str | tuple[str, ...], n_outputs: int) -> None:
        self.n_wires, self.n_angles, self.n_outputs = circuit.n_wires, circuit.n_angles, n_outputs
        self.encoding, _, repeats = encoding.partition(":")
        self.n_repeats = int(repeats or 1)
        self.readout = readout
        drafts = draft_layers(circuit.n_wires, [step for gate in circuit.gates for step in elementary_steps(gate)])
        self.n_layers = len(drafts)
        slots = [slot for draft in drafts for slot in draft.slots]
        self._used = [[bool(slot) for slot in draft.slots] for draft in drafts]
        index, self._half = angle_tables(slots, most_rotations(slots))
        self._index = index.view(self._half.shape)
        terms = torch.stack([slot_terms(slot, len(self._half)) for slot in slots])  # (slots, 2 ** rotations, 2, 2)
        self.is_real = self.encoding != "iqp" and not terms.imag.any()
        self._terms = (terms.real if self.is_real else terms).flatten(2)
        self._moves = [_move(draft.permutes, self.n_wires) for draft in drafts]
        self._kept: dict[tuple[torch.device, torch.dtype], _Constants] = {}

    def constants(self, device: torch.device, dtype: torch.dtype) -> "_Constants":
        """The constant tensors, made on first use and kept."""
        key = (device, dtype)
        if key not in self._kept:
            self._kept[key] = apart(lambda: _Constants(self, device, dtype))
        return self._kept[key]

    def __call__(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Readouts (A, S, k) and squared norms (A, S) of (A or 1, S, n_features) features, (A, n_angles) angles."""
        dtype = compute_dtype(x, angles)
        constants = self.constants(x.device, dtype)
        with without_autocast(x.device.type):
            states = self._encode(x.to(dtype), constants)
            states = self._run_layers(states, angles.to(dtype), constants)
            return self._read(states, constants)

    def bytes_per_sample(self, itemsize: int, n_samples: int) -> int:
        """About what one sample keeps until its derivative is taken, `n_samples` of which share their angles."""
        groups = wire_groups(self.n_wires)
        states = 2**self.n_wires * (self.n_layers * (len(groups) + 2) + 6)
        matrices = self.n_layers * sum(4 ** len(group) for group in groups) * 2
        return itemsize * (1 if self.is_real else 2) * (states + matrices // max(n_samples, 1))

    def _encode(self, x: Tensor, constants: "_Constants") -> Tensor:
        """Initial states (A or 1, 2 ** n_wires, S)."""
        size = 2**self.n_wires
        if self.encoding == "amplitude":
            states = pad(x, (0, size - x.shape[-1])).mT
            return states if self.is_real else torch.complex(states, torch.zeros_like(states))
        if self.encoding == "angle":
            half = x.movedim(-1, 0) / 2
            wires = [torch.stack((each.cos(), each.sin()), 1) for each in half]  # (A, 2, S) each
            states = wires[0]
            for wire in wires[1:]:
                states = (states[:, :, None] * wire[:, None]).flatten(1, 2)
            missing = size // states.shape[1]
            if missing > 1:
                states = pad(states[:, :, None], (0, 0, 0, missing - 1)).flatten(1, 2)
            return states if self.is_real else torch.complex(states, torch.zeros_like(states))
        # RZ(x_i) and ZZ(x_i x_j) of all pairs turn by sum x_i z_i / 2 + sum x_i x_j z_i z_j / 2; the second sum is
        # half of (sum x_i z_i)^2 - |x|^2.
        sums = (x @ constants.wire_signs[: x.shape[-1]]).mT
        turn = sums / 2 + (sums.square() - x.square().sum(-1)[:, None]) / 4
        phases = torch.complex(turn.cos(), -turn.sin())
        states = phases / math.sqrt(size)
        for _ in range(self.n_repeats - 1):
            states = phases * _apply_groups(states, [m[None] for m in constants.hadamards])
        return states

    def _run_layers(self, states: Tensor, angles: Tensor, constants: "_Constants") -> Tensor:
        half = angles[:, constants.index] * constants.half  # (A, rotations, slots)
        trig = torch.ones_like(half[:, :1, :] if len(self._half) else angles.new_ones(len(angles), 1, 1)).mT
        for rotation in range(len(self._half)):
            each = torch.stack((half[:, rotation].cos(), half[:, rotation].sin()), -1)
            trig = (trig[..., None] * each[..., None, :]).flatten(2)
        trig = trig.expand(-1, len(constants.terms), -1).to(constants.terms.dtype)
        gates = torch.matmul(trig.transpose(0, 1), constants.terms).unflatten(-1, (2, 2))  # (slots, A, 2, 2)
        slots = gates.unbind()  # not one by one: the derivative of an indexing is a tensor as large as all
        for layer, (used, move) in enumerate(zip(self._used, constants.moves)):
            first = layer * self.n_wires
            matrices = [
                _kron([slots[first + wire] for wire in group]) if any(used[wire] for wire in group) else None
                for group in wire_groups(self.n_wires)
            ]
            states = _apply_groups(states, matrices)
            if move is not None:
                source, sign = move
                states = states.index_select(1, source)
                states = states if sign is None else states * sign[:, None]
        return states if states.shape[0] == len(angles) else states.expand(len(angles), -1, -1)

    def _read(self, states: Tensor, constants: "_Constants") -> tuple[Tensor, Tensor]:
        squares = states.square() if self.is_real else states.real.square() + states.imag.square()
        norms = squares.sum(1)
        if self.readout == "amplitudes":
            wanted = states[:, : self.n_outputs]
            return (wanted if self.is_real else wanted.real).mT, torch.ones_like(norms)
        norms = norms.clamp_min(SMALLEST_SQUARED_NORM)
        if self.readout == "probabilities":
            return (squares / norms[:, None]).mT, norms
        columns = []
        for flipped, real, imaginary in constants.words:
            if flipped is None:
                values = real @ squares
            elif self.is_real:
                values = real @ (states * states.index_select(1, flipped))
            else:
                other = states.index_select(1, flipped)
                values = real @ (states.real * other.real + states.imag * other.imag)
                values = values + imaginary @ (states.real * other.imag - states.imag * other.real)
            columns.append(values)
        values = torch.cat(columns, 1).index_select(1, constants.word_order)
        return (values / norms[:, None]).mT, norms


class _Constants:
    """The constant tensors of a reference on one device, in one floating-point type."""

    def __init__(self, reference: Reference, device: torch.device, dtype: torch.dtype) -> None:
        n_wires, readout = reference.n_wires, reference.readout

        def to(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype)

        self.index = reference._index.to(device)
        self.half = to(reference._half)
        self.terms = reference._terms.to(device, dtype if reference.is_real else dtype.to_complex())
        self.moves: list[Move | None] = [
            None if move is None else (move[0].to(device), None if move[1] is None else to(move[1]))
            for move in reference._moves
        ]
        bits = (torch.arange(2**n_wires) >> torch.arange(n_wires - 1, -1, -1)[:, None]) & 1
        self.wire_signs = to(1.0 - 2.0 * bits)  # (n_wires, 2 ** n_wires)
        hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
        self.hadamards = [
            _kron([hadamard[None]] * len(group))[0].to(device, dtype.to_complex()) for group in wire_groups(n_wires)
        ]
        words = pauli_z_words(n_wires) if readout == "pauli_z" else () if isinstance(readout, str) else readout
        groups, order = _word_tables(words, n_wires)
        self.words = [(None if f is None else f.to(device), to(real), to(imaginary)) for f, real, imaginary in groups]
        self.word_order = order.to(device)


def wire_groups(n_wires: int) -> list[range]:
    """Neighbouring wires in groups of nearly equal size, at most four each."""
    count = -(-n_wires // _GROUP)
    bounds = [n_wires * k // count for k in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def _move(permutes: list[tuple[str, tuple[int, ...]]], n_wires: int) -> Move | None:
    goes_to, sign = permutation(permutes, n_wires)
    comes_from = torch.argsort(goes_to)
    signs = None if bool((sign > 0).all()) else sign[comes_from]
    if signs is None and torch.equal(goes_to, torch.arange(2**n_wires)):
        return None
    return comes_from, signs


def _word_tables(words: tuple[str, ...], n_wires: int) -> tuple[list[tuple[Tensor | None, Tensor, Tensor]], Tensor]:
    """Pauli words grouped by the wires they flip.

    A word maps the basis state j to `j ^ x` with the phase i^(number of Y) (-1)^(parity of j on its Y and Z), so its
    expectation is the sum of phase(j) conj(psi[j ^ x]) psi[j].

    Returns:
        for each group the indices j ^ x (None: flips nothing) and the real and imaginary parts of the phases of its
        words, (words, 2 ** n_wires) each, such that the expectation is real @ Re(conj(psi) psi[flipped]) +
        imaginary @ Im(conj(psi) psi[flipped]); and where to find each word in the groups one after another.
    """
    index = torch.arange(2**n_wires)
    shifts = torch.arange(n_wires - 1, -1, -1)
    bits = ((index[:, None] >> shifts) & 1).double()
    masks = [sum(1 << (n_wires - 1 - w) for w, letter in enumerate(word) if letter in "XY") for word in words]
    groups, places = [], []
    for mask in dict.fromkeys(masks):
        members = [k for k, m in enumerate(masks) if m == mask]
        places += members
        turned = torch.tensor([[letter in "YZ" for letter in words[k]] for k in members], dtype=torch.float64)
        signs = 1.0 - 2.0 * ((turned @ bits.T) % 2)
        powers = [words[k].count("Y") % 4 for k in members]
        real = signs * torch.tensor([(1.0, 0.0, -1.0, 0.0)[p] for p in powers], dtype=torch.float64)[:, None]
        imaginary = signs * torch.tensor([(0.0, 1.0, 0.0, -1.0)[p] for p in powers], dtype=torch.float64)[:, None]
        groups.append((index ^ mask if mask else None, real, imaginary))
    return groups, torch.argsort(torch.tensor(places, dtype=torch.int64))


def _kron(matrices: list[Tensor]) -> Tensor:
    """Kronecker product of (A, 2, 2) matrices."""
    product = matrices[0]
    for matrix in matrices[1:]:
        size = product.shape[-1]
        outer = product.flatten(1)[:, :, None] @ matrix.flatten(1)[:, None]  # a product, whose derivatives are products
        product = outer.unflatten(2, (2, 2)).unflatten(1, (size, size)).transpose(2, 3).reshape(-1, 2 * size, 2 * size)
    return product


def _apply_groups(states: Tensor, matrices: list[Tensor | None]) -> Tensor:
    """One matrix (A or 1, g, g) on each group of wires of (A or 1, 2 ** n_wires, S) states; None leaves a group."""
    n_samples, size, outer = states.shape[-1], states.shape[1], 1
    n_wires = size.bit_length() - 1
    for matrix, group in zip(matrices, wire_groups(n_wires)):
        wide = 2 ** len(group)
        if matrix is not None:
            inner = size // outer // wide * n_samples
            if inner == 1:
                states = states.unflatten(1, (outer, wide))[..., 0] @ matrix.mT
            else:
                states = matrix[:, None] @ states.reshape(states.shape[0], outer, wide, inner)
            states = states.reshape(states.shape[0], size, n_samples)
        outer *= wide
    return states


@lru_cache(maxsize=256)
def reference(description: str) -> Reference:
    """The reference of a description as `ketune.circuits._plan.describe` writes it."""
    encoding, words, n_readouts, _, _, circuit_text = description.split("|", 5)
    circuit = Circuit.from_text(circuit_text)
    readout = words if words in READOUTS else tuple(words.split(","))
    return Reference(circuit, encoding, readout, count_readouts(circuit.n_wires, readout, int(n_readouts) or None))
