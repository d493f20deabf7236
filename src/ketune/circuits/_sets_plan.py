"""From a description to the compiled simulator on sets of angles; encodings become gates in front of the circuit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

from ketune.circuits._apart import apart
from ketune.circuits._costs import native_is_available
from ketune.circuits._rotations import rotations_of
from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.observables import READOUTS, basis_change, count_readouts, measurement_groups

if TYPE_CHECKING:
    from ketune.circuits._native_sets import NativeSets


@dataclass(frozen=True)
class SetsProgram:
    """One or more compiled circuits that together give all readouts; `columns` says which outputs each one makes."""

    plans: tuple[NativeSets, ...]
    columns: tuple[tuple[int, ...], ...]
    n_outputs: int

    @property
    def n_wires(self) -> int:
        """Number of wires."""
        return self.plans[0].rotations.n_wires


def sets_program(description: str) -> SetsProgram | None:
    """The program of a description, made on first use; None where compiled code cannot run."""
    if not native_is_available() or description.split("|", 2)[1] == "amplitudes":
        return None
    return _kept_program(description)


@lru_cache(maxsize=256)
def _kept_program(description: str) -> SetsProgram:
    return apart(lambda: _make_program(description))


def _make_program(description: str) -> SetsProgram:
    from ketune.circuits._native_sets import NativeSets

    encoding, words, n_readouts, n_features, _, circuit_text = description.split("|", 5)
    circuit, count = Circuit.from_text(circuit_text), int(n_features)
    name, _, repeats = encoding.partition(":")
    products = list(combinations(range(count), 2)) if name == "iqp" else []
    n_encoded = 0 if name == "amplitude" else count + len(products)
    gates = encoding_gates(name, count, int(repeats or 1), products, circuit.n_wires)
    gates += tuple(_shifted(gate, n_encoded) for gate in circuit.gates)

    def plan(basis: tuple[Gate, ...], readout: str | tuple[str, ...]) -> NativeSets:
        whole = Circuit(circuit.n_wires, gates + basis)
        from_zero = n_encoded > 0 or count == 1
        rotations = rotations_of(whole, readout, from_zero)
        return NativeSets(rotations, readout, n_encoded > 0, count, products, circuit.n_angles)

    if words in READOUTS:
        n_outputs = count_readouts(circuit.n_wires, words, int(n_readouts) or None)
        return SetsProgram((plan((), words),), (tuple(range(n_outputs)),), n_outputs)
    readout, plans, columns = words.split(","), [], []
    for basis, members in measurement_groups(readout):
        plans.append(plan(basis_change(basis), tuple(readout[m] for m in members)))
        columns.append(tuple(members))
    return SetsProgram(tuple(plans), tuple(columns), len(readout))


def _shifted(gate: Gate, by: int) -> Gate:
    return gate if gate.angle is None or not by else replace(gate, angle=gate.angle + by)


def encoding_gates(
    name: str, n_features: int, n_repeats: int, products: list[tuple[int, int]], n_wires: int
) -> tuple[Gate, ...]:
    """The gates that put features on |0...0>; their angles are the features and then the products of two."""
    wires = range(n_features)
    if name == "amplitude":
        return ()
    if name == "angle":
        return tuple(Gate("RY", (wire,), wire) for wire in wires)
    gates = [Gate("H", (wire,)) for wire in range(n_wires)]
    gates += [Gate("RZ", (wire,), wire) for wire in wires]
    gates += [Gate("ISINGZZ", pair, n_features + i) for i, pair in enumerate(products)]
    return tuple(gates) * n_repeats
