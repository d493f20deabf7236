"""From a circuit to a plan: layers of one-wire matrices and signed permutations, with every table precomputed."""

from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch

from ketune.circuits._apart import apart
from ketune.circuits._costs import current_rates, device_times, native_is_available
from ketune.circuits._device_costs import triton_is_faster, triton_setting
from ketune.circuits._gate_matrices import angle_tables, most_rotations, turned_products
from ketune.circuits._layers import draft_layers, permutation, slot_terms, split_phases
from ketune.circuits._light_cone import reaching_steps
from ketune.circuits._triton_tables import TritonTables, fits_triton, make_triton_tables
from ketune.circuits.circuit import Circuit
from ketune.circuits.observables import (
    READOUTS,
    basis_change,
    count_readouts,
    measurement_groups,
    pauli_z_words,
    word_signs,
)

if TYPE_CHECKING:
    from ketune.circuits._native import NativePlan

CHUNK_BYTES = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Bytes of the states that are worked on at a time: a few such buffers fit the L2 cache (benchmarks/circuits.py)."""


@dataclass
class Tables:
    """The constant tensors of a plan on one device, in one floating-point type."""

    angle_index: torch.Tensor  # (rotations * slots,) which angle, slots fastest
    half: torch.Tensor  # (rotations, slots) factor on the angle, 0 where a slot lacks a rotation
    terms: torch.Tensor  # (slots, 2 ** rotations, 8 or 4) the 2 x 2 matrices, real and imaginary parts interleaved
    turned: torch.Tensor  # (2 ** rotations, rotations * 2 ** rotations) derivative of the trigonometric products
    pair: torch.Tensor  # (2, 4) the real 2 x 2 block of a complex number
    gathers: list[tuple[torch.Tensor, ...] | None]  # per layer: rows to read, and rows to read on the way back
    signs: list[tuple[torch.Tensor, ...] | None]  # per layer: signs after each of those two reads
    readout: torch.Tensor | None  # (k + 1, components * 2 ** n_wires) eigenvalues, last row ones; None: no sign matrix
    readout_order: torch.Tensor | None  # (2 ** n_wires,) basis state that ends as each probability
    rows: torch.Tensor | None  # (components * 2 ** n_wires, k) the cotangents that pick amplitudes


@dataclass
class Layer:
    """One layer of a plan. Layers with a complex matrix and layers with real ones are stored in separate stacks."""

    is_complex: bool
    is_diagonal: bool  # turns only phases; such a layer is complex
    position: int  # in its stack
    permutes: list[tuple[str, tuple[int, ...]]]


class Plan:
    """How one circuit is run for one encoding and one diagonal readout.

    The state of a chunk of C samples is a real tensor (H, c, W, C): H counts the basis states of the first half of the
    wires, W those of the other half, and c is 1 for a real state, 2 for real and imaginary parts. One layer is one
    product with a matrix on H and one with a matrix on W, or a multiplication by phases, and then one reading of rows
    in another order.

    Args:
        circuit: the circuit.
        encoding: "amplitude" or "angle".
        readout: "pauli_z", "probabilities", "amplitudes" or a tuple of Pauli words of I and Z.
        n_outputs: number of values per sample.
        n_features: length of the feature vector.
        matmul_precision: how float32 matrices are multiplied, see `ketune.circuits._precision`.
    """

    def __init__(
        self,
        circuit: Circuit,
        encoding: str,
        readout: str | tuple[str, ...],
        n_outputs: int,
        n_features: int,
        matmul_precision: str = "highest",
    ) -> None:
        self.n_wires = n_wires = circuit.n_wires
        self.matmul_precision = matmul_precision
        self.encoding, self.readout = encoding, readout
        self.n_outputs, self.n_features, self.n_angles = n_outputs, n_features, circuit.n_angles
        self.dim = 2**n_wires
        self.n_high = (n_wires + 1) // 2
        self.height, self.width = 2**self.n_high, 2 ** (n_wires - self.n_high)
        self.n_amplitudes = n_features if encoding == "amplitude" else self.dim
        self.first_rows = -(-self.n_amplitudes // self.width)

        whole = draft_layers(n_wires, reaching_steps(circuit, readout))
        self._whole, self._native = whole, None
        self._forms: dict[tuple[int, str], str] = {}
        self.forced: str | None = None  # a form to run in, for measuring it
        drafts = [part for i, draft in enumerate(whole) for part in split_phases(draft, i == 0)]
        self.n_rotations = most_rotations([slot for d in drafts for slot in d.slots])
        terms = [torch.stack([slot_terms(slot, self.n_rotations) for slot in d.slots]) for d in drafts]
        complex_layers = [d.is_diagonal or bool(term.imag.abs().max() > 0) for d, term in zip(drafts, terms)]
        self.n_complex = sum(complex_layers)
        self.n_layers = len(drafts)
        # The stack of complex layers comes first in all tables; layer by layer the order does not matter there.
        order = sorted(range(len(drafts)), key=lambda index: not complex_layers[index])
        position = {index: place for place, index in enumerate(order)}
        self.layers = [
            Layer(
                is_complex=is_complex,
                is_diagonal=drafts[i].is_diagonal,
                position=position[i] if is_complex else position[i] - self.n_complex,
                permutes=drafts[i].permutes,
            )
            for i, is_complex in enumerate(complex_layers)
        ]
        self.components = 2 if self.n_complex else 1
        self._terms = torch.stack([terms[index] for index in order]).flatten(0, 1)  # (slots, 2 ** rotations, 2, 2)
        slots = [slot for index in order for slot in drafts[index].slots]
        self._angle_index, self._half = angle_tables(slots, self.n_rotations)
        self._tables: dict[tuple[torch.device, torch.dtype], Tables] = {}
        self._triton_tables: dict[torch.device, TritonTables] = {}

    def native(self) -> "NativePlan | None":
        """The compiled simulator for this plan, made on first use; None where it cannot run."""
        if self.readout == "amplitudes" or self.matmul_precision != "highest" or not native_is_available():
            return None
        if self._native is None:
            from ketune.circuits._native import NativePlan

            make = partial(NativePlan, self._whole, self.n_wires, self.n_angles, self.readout, self.n_amplitudes)
            self._native = apart(make)
        return self._native

    def form(self, n_samples: int, device_type: str) -> str:
        """The cost model: how to run a batch.

        Returns:
            "native" for compiled code on blocks of samples, "matrix" to build the circuit's matrix once and multiply by
            it, "layers" for one product per layer and half of the wires, "triton" for the kernels for GPUs.
        """
        if self.forced is not None:
            return self.forced
        key = (n_samples, device_type)
        if key not in self._forms:
            if len(self._forms) > 64:
                self._forms.clear()
            self._forms[key] = self._cheapest_form(n_samples, device_type)
        return self._forms[key]

    def _cheapest_form(self, n_samples: int, device_type: str) -> str:
        if device_type == "cuda":
            return "triton" if self._takes_triton(n_samples) else self.product_form(n_samples)
        native = self.native() if device_type == "cpu" else None
        if native is None:
            return self.product_form(n_samples)
        rates = current_rates()
        vectors = self.components * self.dim / 16
        passes = rates.turn_ns * native.n_turns + rates.row_ns
        by_native = n_samples * vectors * passes
        # Squares, readout and their adjoints cost about 1300 multiplications a number of the state, and products reach
        # six tenths of the full rate; building the matrix takes 2.6 times what its multiplications say.
        products = n_samples * self.components * self.dim * (6.4 * self.n_amplitudes + 1300)
        products += 10 * self.dim * self.n_amplitudes * self._layer_products()
        return "matrix" if products * rates.product_ns < by_native else "native"

    def _takes_triton(self, n_samples: int) -> bool:
        setting = triton_setting()
        if setting == "0" or not fits_triton(self):
            return False
        if setting == "1":
            return True
        times = device_times(torch.cuda.get_device_name()) if torch.cuda.is_available() else ()
        return triton_is_faster(times, self.n_wires, self.components, self.matmul_precision, n_samples)

    def product_form(self, n_samples: int) -> str:
        """The better one of the forms that are matrix products, which run everywhere."""
        return "matrix" if self.builds_matrix(n_samples) else "layers"

    @property
    def is_real(self) -> bool:
        """True when states stay real."""
        return self.n_complex == 0

    def place(self, layer: Layer) -> int:
        """Where the matrices of a layer stand in the stacks that hold those of all layers, the complex ones first."""
        return layer.position if layer.is_complex else self.n_complex + layer.position

    def tables(self, device: torch.device, dtype: torch.dtype) -> Tables:
        """The constants on a device, made on first use and kept."""
        key = (device, dtype)
        if key not in self._tables:
            self._tables[key] = apart(lambda: self._make_tables(device, dtype))
        return self._tables[key]

    def triton_tables(self, device: torch.device) -> TritonTables:
        """The constants that the Triton kernels need beside, made on first use and kept."""
        if device not in self._triton_tables:
            self._triton_tables[device] = apart(lambda: make_triton_tables(self, device))
        return self._triton_tables[device]

    def _make_tables(self, device: torch.device, dtype: torch.dtype) -> Tables:
        def to(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype).contiguous()

        terms = torch.view_as_real(self._terms.contiguous()) if self.components == 2 else self._terms.real
        gathers: list[tuple[torch.Tensor, ...] | None] = []
        signs: list[tuple[torch.Tensor, ...] | None] = []
        components, basis = 1, torch.arange(self.dim)
        goes_to = basis
        for number, layer in enumerate(self.layers):
            components = 2 if layer.is_complex else components
            goes_to, sign = permutation(layer.permutes, self.n_wires)
            comes_from = torch.argsort(goes_to)
            # Before a readout of probabilities the last permutation only renames basis states.
            skipped = number == self.n_layers - 1 and self.readout != "amplitudes"
            if skipped or torch.equal(goes_to, basis):
                gathers.append(None)
            else:
                gathers.append(tuple(self._rows(source, components).to(device) for source in (comes_from, goes_to)))
            if skipped or bool((sign > 0).all()):
                signs.append(None)
            else:
                signs.append(tuple(to(self._spread(s, components)[:, None]) for s in (sign[comes_from], sign)))
        readout = readout_order = rows = None
        if self.readout == "probabilities":
            readout_order = torch.argsort(goes_to).to(device)
        elif self.readout == "amplitudes":
            wanted = basis[: self.n_outputs]
            rows = torch.zeros(self.dim * components, self.n_outputs)
            rows[self._rows(wanted, components, real_only=True), wanted] = 1
            rows = to(rows)
        else:
            words = pauli_z_words(self.n_wires) if self.readout == "pauli_z" else self.readout
            values = torch.cat((word_signs(words, goes_to), torch.ones(self.dim, 1, dtype=torch.float64)), 1)
            readout = to(torch.stack([self._spread(column, components) for column in values.T]))
        return Tables(
            angle_index=self._angle_index.to(device),
            half=to(self._half),
            terms=to(terms.reshape(len(terms), 2**self.n_rotations, -1)),
            turned=to(turned_products(self.n_rotations)),
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

    def chunk(self, device_type: str, element_size: int) -> int:
        """Number of samples to work on at a time."""
        budget = CHUNK_BYTES.get(device_type, CHUNK_BYTES["cuda"])
        return max(16, budget // (element_size * self.components * self.dim))

    def builds_matrix(self, n_samples: int) -> bool:
        """The cost model: True to build the matrix of the circuit once and multiply by it, False to run the layers.

        Counts the multiplications per amplitude of the final state, each divided by the share of the machine's rate
        that products of that size reach (fitted to `benchmarks/circuits.py --forms`).
        """
        if self.readout == "amplitudes":
            return True
        per_sample = self._layer_products()
        by_matrix = self.components * self.n_amplitudes / 0.85
        return n_samples * by_matrix + self.n_amplitudes * per_sample < n_samples * per_sample

    def operations(self, n_samples: int, form: str) -> float:
        """Floating-point operations (two for a multiply-add) that a form needs, forward and backward to all arguments.

        Readouts of words are counted as two multiply-adds a number of the state; gathers and sums over words as none.

        Args:
            n_samples: size of the batch.
            form: "native", "matrix", "layers" or "triton", see `form`.
        """
        size = self.components * self.dim
        if form == "native":
            native = self.native()
            assert native is not None
            phases = 6.0 * native.components + 1  # twice forward, once back on the state and on its cotangent
            turns = sum(phases + sum(6 if t.measures_x else 5 for t in stage.turns) for stage in native.passes.stages)
            return 2 * n_samples * native.components * self.dim * (turns + 4)
        products, components = 0.0, 1
        for layer in self.layers:
            if layer.is_diagonal:
                products += 8 * self.dim
            elif layer.is_complex:
                products += self.dim * (2 * components * self.width + 4 * self.height)
            else:
                products += self.dim * components * (self.width + self.height)
            components = 2 if layer.is_complex else components
        # Forward twice, back to the states and to the matrices; then the readout.
        by_layers = 2 * (4 * products + 4 * size)
        if form == "layers":
            return n_samples * by_layers
        if form == "triton":  # takes the states back once more, in place of keeping them
            return n_samples * (by_layers + 2 * products)
        return n_samples * 2 * size * (4 * self.n_amplitudes + 4) + self.n_amplitudes * by_layers

    def _layer_products(self) -> float:
        """Multiplications per amplitude that the layers take, each divided by the share of the full rate it reaches."""
        per_sample, components = 0.0, 1
        for layer in self.layers:
            components = 2 if layer.is_complex else components
            if layer.is_diagonal:
                per_sample += 16 * components  # a pass over memory, about as long as this many multiplications
                continue
            inner = (2 if layer.is_complex else 1) * (self.height + self.width)
            per_sample += components * inner / min(0.8, 0.35 * (inner / 32) ** 0.55)
        return per_sample


@dataclass(frozen=True)
class Program:
    """One or more plans that together give all readouts; `columns` says which outputs each plan makes."""

    plans: tuple[Plan, ...]
    columns: tuple[tuple[int, ...], ...]
    n_outputs: int
    _columns_on: dict[torch.device, tuple[torch.Tensor, ...]] = field(default_factory=dict, compare=False)

    def columns_on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """`columns` as tensors on a device, made on first use and kept."""
        if device not in self._columns_on:
            self._columns_on[device] = apart(lambda: tuple(torch.tensor(c, device=device) for c in self.columns))
        return self._columns_on[device]


def describe(
    circuit_text: str,
    encoding: str,
    readout: str | tuple[str, ...],
    n_readouts: int | None,
    n_features: int,
    matmul_precision: str = "highest",
) -> str:
    """Everything a program depends on, as one string: the key under which operators find it in any process.

    Plain string operations only, so that torch.compile evaluates it while tracing.
    """
    words = readout if isinstance(readout, str) else ",".join(readout)
    return f"{encoding}|{words}|{n_readouts or 0}|{n_features}|{matmul_precision}|{circuit_text}"


@lru_cache(maxsize=256)
def program(description: str) -> Program:
    """The program of a description, compiled on first use."""
    return apart(lambda: _make_program(description))


def _make_program(description: str) -> Program:
    encoding, words, n_readouts, n_features, precision, circuit_text = description.split("|", 5)
    circuit = Circuit.from_text(circuit_text)
    if words in READOUTS:
        n_outputs = count_readouts(circuit.n_wires, words, int(n_readouts) or None)
        plan = Plan(circuit, encoding, words, n_outputs, int(n_features), precision)
        return Program((plan,), (tuple(range(n_outputs)),), n_outputs)
    readout = words.split(",")
    plans, columns = [], []
    for basis, members in measurement_groups(readout):
        rotated = Circuit(circuit.n_wires, circuit.gates + basis_change(basis))
        members_words = tuple(readout[m] for m in members)
        plans.append(Plan(rotated, encoding, members_words, len(members), int(n_features), precision))
        columns.append(tuple(members))
    return Program(tuple(plans), tuple(columns), len(readout))
