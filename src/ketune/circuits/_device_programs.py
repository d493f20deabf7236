"""From what `run` takes to programs for a device: features as gates or states, and an angle for each gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from ketune.circuits._device import DeviceError, Program
from ketune.circuits._sets_plan import encoding_gates
from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.observables import (
    Readout,
    basis_change,
    measurement_groups,
    pauli_z_words,
    split_readout,
    word_signs,
)

_SMALLEST_NORM = 1e-15  # as in `run`: what is smaller counts as zero


@dataclass(frozen=True)
class LoadedCircuit:
    """A circuit behind the gates that load its features, in which every gate with an angle has one of its own.

    Attributes:
        circuit: the gates.
        n_loading: how many of them load features.
        sources: for each angle its place among the encoded features and the circuit's angles behind them.
        n_encoded: how many encoded features there are.
    """

    circuit: Circuit
    n_loading: int
    sources: tuple[int, ...]
    n_encoded: int

    def gate_names(self) -> list[str]:
        """For each angle the name of its gate."""
        return [gate.name for gate in self.circuit.gates if gate.angle is not None]


@lru_cache(maxsize=256)
def loaded_circuit(circuit: Circuit, encoding: str | None, n_features: int, n_repeats: int) -> LoadedCircuit:
    """The circuit with its loading in front; amplitudes (and no features, None) are loaded without gates of ours."""
    loading: tuple[Gate, ...] = ()
    n_encoded = 0
    if encoding in ("angle", "basis", "iqp"):
        name = "iqp" if encoding == "iqp" else "angle"
        products = list(combinations(range(n_features), 2)) if name == "iqp" else []
        loading = encoding_gates(name, n_features, n_repeats, products, circuit.n_wires)
        n_encoded = n_features + len(products)
    sources: list[int] = []
    gates: list[Gate] = []
    for number, gate in enumerate((*loading, *circuit.gates)):
        if gate.angle is None:
            gates.append(gate)
            continue
        gates.append(replace(gate, angle=len(sources)))
        sources.append(gate.angle + (n_encoded if number >= len(loading) else 0))
    return LoadedCircuit(Circuit(circuit.n_wires, tuple(gates)), len(loading), tuple(sources), n_encoded)


def encoded_features(x: Tensor, encoding: str) -> Tensor:
    """(..., n_features) features as the angles of the loading gates, (..., n_encoded), differentiable in x."""
    if encoding == "basis":
        wrong = x[(x != 0) & (x != 1)]
        if len(wrong):
            raise ValueError(
                f"encoding='basis' takes features that are 0 or 1, not {wrong[0].item()}; round them first"
            )
        return x.detach().double() * torch.pi
    if encoding == "iqp":
        pairs = list(combinations(range(x.shape[-1]), 2))
        products = [x[..., first] * x[..., second] for first, second in pairs]
        return torch.cat((x, *(product[..., None] for product in products)), -1)
    return x


def starting_states(x: Tensor, n_wires: int) -> tuple[Tensor, Tensor]:
    """(rows, n_features) features as normalised amplitudes, (rows, 2 ** n_wires) float64, and which rows are zero.

    A zero row starts in |0...0>, and what is read from it does not count.
    """
    states = torch.nn.functional.pad(x.detach().double().cpu(), (0, 2**n_wires - x.shape[-1]))
    # By the largest entry first, so that the squares of small numbers do not vanish.
    largest = states.abs().amax(-1, keepdim=True)
    zero = states.norm(dim=-1) < _SMALLEST_NORM
    states = states / torch.where(largest > 0, largest, 1)
    states[zero] = torch.nn.functional.one_hot(torch.tensor(0), 2**n_wires).double()
    return states / states.norm(dim=-1, keepdim=True), zero


@dataclass(frozen=True, eq=False)
class MeasuredReadout:
    """A readout as settings of a measurement and a map from the chances of basis states to values.

    Attributes:
        bases: for each setting a letter of IXYZ per wire.
        columns: for each setting the values that it gives, as places in the words (None: chances are the readout).
        tables: for each setting the (2 ** n_wires, words) signs.
        weights: (words, k) coefficients of Hamiltonians, or None.
    """

    n_wires: int
    bases: tuple[str, ...]
    columns: tuple[tuple[int, ...] | None, ...]
    tables: tuple[Tensor | None, ...]
    weights: Tensor | None

    def programs(self, loaded: LoadedCircuit, angles: Tensor, states: Tensor | None) -> list[Program]:
        """One program for each setting."""
        found = []
        for basis in self.bases:
            turn = basis_change(basis)
            circuit = Circuit(self.n_wires, loaded.circuit.gates + turn) if turn else loaded.circuit
            found.append(Program(circuit, angles, states, loaded.n_loading, len(turn)))
        return found

    def values(self, chances: Sequence[Tensor]) -> Tensor:
        """(rows, k) readouts from the chances of each setting, (rows, 2 ** n_wires)."""
        if self.columns[0] is None:
            return chances[0]
        found: dict[int, Tensor] = {}
        for members, table, each in zip(self.columns, self.tables, chances):
            assert members is not None
            assert table is not None
            found |= dict(zip(members, (each @ table).unbind(-1)))
        out = torch.stack([found[place] for place in range(len(found))], -1)
        return out if self.weights is None else out @ self.weights


def measured_readout(readout: Readout, n_wires: int) -> MeasuredReadout:
    """How a readout is measured.

    Raises:
        DeviceError: for readout "amplitudes", which no measurement gives.
        ValueError: as `check_readout`.
    """
    measured, weights = split_readout(readout, n_wires)
    if measured == "amplitudes":
        raise DeviceError(
            "readout='amplitudes' cannot be measured: a device gives probabilities, without signs; "
            "train with 'pauli_z', 'probabilities' or Pauli words to run on devices"
        )
    if measured == "probabilities":
        return MeasuredReadout(n_wires, ("I" * n_wires,), (None,), (None,), None)
    words = pauli_z_words(n_wires) if isinstance(measured, str) else measured
    groups = measurement_groups(words)
    index = torch.arange(2**n_wires)
    tables = tuple(word_signs([words[member] for member in members], index) for _, members in groups)
    columns = tuple(tuple(members) for _, members in groups)
    return MeasuredReadout(n_wires, tuple(basis for basis, _ in groups), columns, tables, weights)
