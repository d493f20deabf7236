"""From a circuit to a plan: layers of one-wire matrices and signed permutations, with every table precomputed."""

import json
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from ketune.circuits._gates import GATES, Matrix, elementary_steps
from ketune.circuits.circuit import Circuit
from ketune.circuits.observables import (
    basis_change,
    count_readouts,
    measurement_groups,
    pauli_z_words,
    word_signs,
)

MAX_ROTATIONS = 3
"""Most rotations that share one 2 x 2 matrix; its table holds 2 ** rotations terms."""

CHUNK_BYTES = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Bytes of the states that are worked on at a time: a few such buffers fit the L2 cache (benchmarks/circuits.py)."""


@dataclass
class _Draft:
    """A layer while it is being filled: on each wire a product of gates, then gates that permute basis states."""

    slots: list[list[tuple[str, int | None, float]]]
    permutes: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)


def _draft_layers(circuit: Circuit) -> list[_Draft]:
    """Puts every gate into the first layer that keeps the order of the gates on each wire."""
    drafts = [_Draft([[] for _ in range(circuit.n_wires)])]
    last = [0] * circuit.n_wires  # layer of the last gate on each wire
    growing = [0] * circuit.n_wires  # layer whose one-wire product on this wire may still grow

    def draft(index: int) -> _Draft:
        while len(drafts) <= index:
            drafts.append(_Draft([[] for _ in range(circuit.n_wires)]))
        return drafts[index]

    for gate in circuit.gates:
        for name, positions, factor in elementary_steps(gate.name):
            wires = tuple(gate.wires[position] for position in positions)
            if GATES[name].permute is not None:
                index = max(last[wire] for wire in wires)
                draft(index).permutes.append((name, wires))
                for wire in wires:
                    last[wire], growing[wire] = index, index + 1
                continue
            (wire,) = wires
            slot = draft(growing[wire]).slots[wire]
            if factor and sum(angle is not None for _, angle, _ in slot) == MAX_ROTATIONS:
                growing[wire] += 1
                slot = draft(growing[wire]).slots[wire]
            slot.append((name, gate.angle if factor else None, factor))
            last[wire] = growing[wire]
    return drafts


def _matrix(rows: Matrix) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.complex128)


def _slot_terms(slot: list[tuple[str, int | None, float]], n_rotations: int) -> torch.Tensor:
    """A product of one-wire gates as a table of 2 x 2 matrices, (2 ** n_rotations, 2, 2).

    Each rotation is `cos(t/2) C + sin(t/2) S`, so the product is linear in the products of one cosine or sine per
    rotation; entry `b` belongs to the choice given by the bits of `b`, the first rotation most significant. Rotations
    that the slot lacks count as angle zero.
    """
    terms = torch.eye(2, dtype=torch.complex128)[None]
    missing = n_rotations
    for name, angle, _ in slot:
        spec = GATES[name]
        if angle is None:
            assert spec.matrix is not None
            terms = _matrix(spec.matrix) @ terms
        else:
            assert spec.cosine is not None and spec.sine is not None
            both = torch.stack((_matrix(spec.cosine), _matrix(spec.sine)))
            terms = (both[None] @ terms[:, None]).flatten(0, 1)
            missing -= 1
    padded = terms.new_zeros(len(terms), 2**missing, 2, 2)
    padded[:, 0] = terms
    return padded.flatten(0, 1)


def _permutation(permutes: list[tuple[str, tuple[int, ...]]], n_wires: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each basis state goes, (2 ** n_wires,) int64, and its sign, float64."""
    index = torch.arange(2**n_wires)
    sign = torch.ones(2**n_wires, dtype=torch.float64)
    for name, wires in permutes:
        permute = GATES[name].permute
        assert permute is not None
        index, factor = permute(index, n_wires - 1 - wires[0], n_wires - 1 - wires[1])
        if factor is not None:
            sign = sign * factor
    return index, sign


@dataclass
class Tables:
    """The constant tensors of a plan on one device, in one floating-point type."""

    angle_index: torch.Tensor  # (rotations * slots,) which angle, slots fastest
    half: (
        torch.Tensor
    )  # (rotations, slots) factor on the angle: half the gate's factor, 0 where a slot lacks a rotation
    terms: torch.Tensor  # (slots, 2 ** rotations, 8 or 4) the 2 x 2 matrices, real and imaginary parts interleaved
    turned: torch.Tensor  # (2 ** rotations, rotations * 2 ** rotations) derivative of the trigonometric products
    pair: torch.Tensor  # (2, 4) the real 2 x 2 block of a complex number
    gathers: list[tuple[torch.Tensor, torch.Tensor] | None]  # per layer: rows to read, and rows to read on the way back
    signs: list[tuple[torch.Tensor, torch.Tensor] | None]  # per layer: signs after each of those two reads
    readout: torch.Tensor | None  # (k + 1, components * 2 ** n_wires) eigenvalues, last row ones; None: no sign matrix
    readout_order: torch.Tensor | None  # (2 ** n_wires,) basis state that ends as each probability
    rows: torch.Tensor | None  # (components * 2 ** n_wires, k) the cotangents that pick amplitudes


@dataclass
class Layer:
    """One layer of a plan. Layers with a complex matrix and layers with real ones are stored in separate stacks."""

    is_complex: bool
    position: int  # in its stack
    permutes: list[tuple[str, tuple[int, ...]]]


class Plan:
    """How one circuit is run for one encoding and one diagonal readout.

    The state of a chunk of C samples is a real tensor (H, c, W, C): H counts the basis states of the first half of the
    wires, W those of the other half, and c is 1 for a real state, 2 for real and imaginary parts. One layer is one
    product with a matrix on H, one with a matrix on W, and one reading of rows in another order.

    Args:
        circuit: the circuit.
        encoding: "amplitude" or "angle".
        readout: "pauli_z", "probabilities", "amplitudes" or a tuple of Pauli words of I and Z.
        n_outputs: number of values per sample.
        n_features: length of the feature vector.
    """

    def __init__(
        self, circuit: Circuit, encoding: str, readout: str | tuple[str, ...], n_outputs: int, n_features: int
    ) -> None:
        self.n_wires = n_wires = circuit.n_wires
        self.encoding, self.readout = encoding, readout
        self.n_outputs, self.n_features, self.n_angles = n_outputs, n_features, circuit.n_angles
        self.dim = 2**n_wires
        self.n_high = (n_wires + 1) // 2
        self.height, self.width = 2**self.n_high, 2 ** (n_wires - self.n_high)
        self.n_amplitudes = n_features if encoding == "amplitude" else self.dim
        self.first_rows = -(-self.n_amplitudes // self.width)

        drafts = _draft_layers(circuit)
        self.n_rotations = max(sum(angle is not None for _, angle, _ in slot) for d in drafts for slot in d.slots)
        terms = [torch.stack([_slot_terms(slot, self.n_rotations) for slot in d.slots]) for d in drafts]
        complex_layers = [bool(term.imag.abs().max() > 0) for term in terms]
        self.n_complex = sum(complex_layers)
        self.n_layers = len(drafts)
        # The stack of complex layers comes first in all tables; layer by layer the order does not matter there.
        order = sorted(range(len(drafts)), key=lambda index: not complex_layers[index])
        position = {index: place for place, index in enumerate(order)}
        self.layers = [
            Layer(is_complex, position[i] if is_complex else position[i] - self.n_complex, drafts[i].permutes)
            for i, is_complex in enumerate(complex_layers)
        ]
        self.components = 2 if self.n_complex else 1
        self._terms = torch.stack([terms[index] for index in order]).flatten(0, 1)  # (slots, 2 ** rotations, 2, 2)
        self._angle_index, self._half = self._angle_tables([slot for index in order for slot in drafts[index].slots])
        self._tables: dict[tuple[torch.device, torch.dtype], Tables] = {}

    def _angle_tables(self, slots: list[list[tuple[str, int | None, float]]]) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.zeros(self.n_rotations, len(slots), dtype=torch.int64)
        half = torch.zeros(self.n_rotations, len(slots), dtype=torch.float64)
        for column, slot in enumerate(slots):
            rotations = [(angle, factor) for _, angle, factor in slot if angle is not None]
            for row, (angle, factor) in enumerate(rotations):
                index[row, column], half[row, column] = angle, factor / 2
        return index.flatten(), half

    @property
    def is_real(self) -> bool:
        """True when states stay real."""
        return self.n_complex == 0

    def tables(self, device: torch.device, dtype: torch.dtype) -> Tables:
        """The constants on a device, made on first use and kept."""
        key = (device, dtype)
        if key not in self._tables:
            # Tables outlive the mode they are made in: an inference tensor could not be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                self._tables[key] = self._make_tables(device, dtype)
        return self._tables[key]

    def _make_tables(self, device: torch.device, dtype: torch.dtype) -> Tables:
        def to(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype).contiguous()

        terms = torch.view_as_real(self._terms.contiguous()) if self.components == 2 else self._terms.real
        gathers: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        signs: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        components = 1
        for number, layer in enumerate(self.layers):
            components = 2 if layer.is_complex else components
            goes_to, sign = _permutation(layer.permutes, self.n_wires)
            comes_from = torch.argsort(goes_to)
            # Before a readout of probabilities the last permutation only renames basis states.
            skipped = not layer.permutes or (number == self.n_layers - 1 and self.readout != "amplitudes")
            gathers.append(
                None
                if skipped
                else (self._rows(comes_from, components).to(device), self._rows(goes_to, components).to(device))
            )
            if skipped or bool((sign > 0).all()):
                signs.append(None)
            else:
                both = (sign[comes_from], sign)
                signs.append(tuple(to(self._spread(s, components)[:, None]) for s in both))  # type: ignore[arg-type]
        goes_to, _ = _permutation(self.layers[-1].permutes, self.n_wires)
        readout = readout_order = rows = None
        if self.readout == "probabilities":
            readout_order = torch.argsort(goes_to).to(device)
        elif self.readout == "amplitudes":
            rows = torch.zeros(self.dim * components, self.n_outputs)
            rows[
                self._rows(torch.arange(self.dim), components, real_only=True)[: self.n_outputs],
                torch.arange(self.n_outputs),
            ] = 1
            rows = to(rows)
        else:
            words = pauli_z_words(self.n_wires) if self.readout == "pauli_z" else self.readout
            values = torch.cat((word_signs(words, goes_to), torch.ones(self.dim, 1, dtype=torch.float64)), 1)
            readout = to(torch.stack([self._spread(column, components) for column in values.T]))
        return Tables(
            angle_index=self._angle_index.to(device),
            half=to(self._half),
            terms=to(terms.reshape(len(terms), 2**self.n_rotations, -1)),
            turned=to(self._turned()),
            pair=to(torch.tensor([[1.0, 0, 0, 1], [0, -1, 1, 0]])),
            gathers=gathers,
            signs=signs,
            readout=readout,
            readout_order=readout_order,
            rows=rows,
        )

    def _rows(self, basis: torch.Tensor, components: int, real_only: bool = False) -> torch.Tensor:
        """Rows of the state tensor (H, c, W) that hold the given basis states, listed in the order (H, c, W)."""
        high, low = basis // self.width, basis % self.width
        rows = high * components * self.width + low
        if real_only or components == 1:
            return rows
        return torch.stack((rows, rows + self.width)).view(2, -1, self.width).transpose(0, 1).flatten()

    def _spread(self, values: torch.Tensor, components: int) -> torch.Tensor:
        """Values by basis state, repeated for real and imaginary parts, in the order (H, c, W)."""
        return values.view(-1, 1, self.width).expand(-1, components, -1).flatten()

    def _turned(self) -> torch.Tensor:
        """`f @ turned` is, rotation by rotation, the products f with (cos, sin) of that rotation replaced by (-sin, cos)."""
        size = 2**self.n_rotations
        turned = torch.zeros(size, self.n_rotations, size, dtype=torch.float64)
        for rotation in range(self.n_rotations):
            bit = 1 << (self.n_rotations - 1 - rotation)
            for term in range(size):
                turned[term, rotation, term ^ bit] = -1.0 if term & bit else 1.0
        return turned.flatten(1)

    def chunk(self, device_type: str, element_size: int) -> int:
        """Number of samples to work on at a time."""
        budget = CHUNK_BYTES.get(device_type, CHUNK_BYTES["cuda"])
        return max(16, budget // (element_size * self.components * self.dim))

    def builds_matrix(self, n_samples: int) -> bool:
        """The cost model: True to build the matrix of the circuit once and multiply by it, False to run the layers.

        Counts the multiplications of forward and backward, each weighed with the fraction of the machine's rate that
        products of that size reach (benchmarks/circuits.py measures both ways).
        """
        if self.readout == "amplitudes":
            return True
        inner = self.components * (self.height + self.width)
        per_sample = 8 * self.components * self.dim * inner * self.n_layers / min(0.8, 0.35 * (inner / 32) ** 0.55)
        by_matrix = 8 * self.components * self.dim * self.n_amplitudes / 0.85
        return n_samples * by_matrix + self.n_amplitudes * per_sample < n_samples * per_sample


@dataclass(frozen=True)
class Program:
    """One or more plans that together give all readouts; `columns` says which outputs each plan makes."""

    plans: tuple[Plan, ...]
    columns: tuple[tuple[int, ...], ...]
    n_outputs: int


def describe(
    circuit_text: str, encoding: str, readout: str | tuple[str, ...], n_readouts: int | None, n_features: int
) -> str:
    """Everything a program depends on, as one string: the key under which operators find it in any process."""
    words = readout if isinstance(readout, str) else list(readout)
    return f'[{circuit_text},"{encoding}",{json.dumps(words)},{json.dumps(n_readouts)},{n_features}]'


@lru_cache(maxsize=256)
def program(description: str) -> Program:
    """The program of a description, compiled on first use."""
    circuit_text, encoding, readout, n_readouts, n_features = json.loads(description)
    circuit = Circuit.from_text(json.dumps(circuit_text))
    if isinstance(readout, str):
        n_outputs = count_readouts(circuit.n_wires, readout, n_readouts)
        plan = Plan(circuit, encoding, readout, n_outputs, n_features)
        return Program((plan,), (tuple(range(n_outputs)),), n_outputs)
    plans, columns = [], []
    for basis, members in measurement_groups(readout):
        rotated = Circuit(circuit.n_wires, circuit.gates + basis_change(basis))
        words = tuple(readout[member] for member in members)
        plans.append(Plan(rotated, encoding, words, len(words), n_features))
        columns.append(tuple(members))
    return Program(tuple(plans), tuple(columns), len(readout))
