"""What a loader gives back, and what its circuit costs on a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ketune.circuits import Circuit, evolve, to_qiskit
from ketune.circuits._optional import library
from ketune.state_preparation.errors import LoadingError

BASES = {
    "cx": ("cx", "rz", "sx", "x"),
    "cz": ("cz", "rz", "sx", "x"),
    "ecr": ("ecr", "rz", "sx", "x"),
    "rzz": ("rzz", "rz", "sx", "x"),
}
"""Sets of gates to count with, by the gate on two wires."""


@dataclass(frozen=True)
class Counts:
    """What a circuit costs.

    Args:
        n_two_wire: gates on two wires as the circuit is written.
        n_cnots: gates on two wires of the basis, after transpiling.
        depth: of the transpiled circuit, all gates counted.
    """

    n_two_wire: int
    n_cnots: int
    depth: int


def counts(circuit: Circuit, angles: Tensor, basis: str = "cx") -> Counts:
    """Counts gates after Qiskit's transpiler, optimisation level 3, all wires connected, nothing approximated.

    Args:
        circuit: the circuit.
        angles: (n_angles,) its angles: special values save gates.
        basis: "cx", "cz", "ecr" or "rzz".

    Raises:
        LoadingError: for another basis.
        MissingLibraryError: without Qiskit.
    """
    if basis not in BASES:
        raise LoadingError(f"basis={basis!r}: choose one of {', '.join(map(repr, BASES))}")
    transpiled = library("qiskit").transpile(
        to_qiskit(circuit, angles),
        basis_gates=list(BASES[basis]),
        optimization_level=3,
        approximation_degree=1.0,
        seed_transpiler=0,
    )
    two = sum(len(each.qubits) == 2 for each in transpiled.data)
    return Counts(circuit.n_two_wire_gates, two, transpiled.depth())


@dataclass(frozen=True, eq=False)
class PreparedState:
    """A circuit that loads a vector.

    Args:
        method: the method that made it.
        circuit: the circuit.
        angles: (circuit.n_angles,) its angles, float64.
        infidelity: `1 - |<vector|circuit|0>|^2`.
        counts: what it costs in the gates of `basis`.
        basis: name of those gates.
        seconds: how long it took to find and to count.
    """

    method: str
    circuit: Circuit
    angles: Tensor
    infidelity: float
    counts: Counts
    basis: str
    seconds: float

    def state(self) -> Tensor:
        """What the circuit makes of |0...0>: (2 ** n_wires,)."""
        return evolve(self.circuit, self.angles)

    def to_qiskit(self) -> Any:
        """The circuit with its angles as a `qiskit.QuantumCircuit`; wire w is qubit n_wires - 1 - w."""
        return to_qiskit(self.circuit, self.angles)

    def __str__(self) -> str:
        return (
            f"{self.method}: infidelity {self.infidelity:.3g}, {self.counts.n_cnots} {self.basis} gates, depth "
            f"{self.counts.depth} ({self.counts.n_two_wire} gates on two wires as written), {self.seconds:.1f} s"
        )
