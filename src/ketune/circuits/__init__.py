"""Quantum circuits: descriptions, ansätze, a batched differentiable simulator, and exports."""

from ketune.circuits.ansatz import ANSATZE, ENTANGLERS, rxryrz_ring, ry_ring, ryrz_ring_ry
from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.layer import QuantumLayer
from ketune.circuits.observables import count_readouts
from ketune.circuits.statevector import MAX_WIRES, run

__all__ = [
    "ANSATZE",
    "ENTANGLERS",
    "MAX_WIRES",
    "Circuit",
    "Gate",
    "QuantumLayer",
    "count_readouts",
    "run",
    "rxryrz_ring",
    "ry_ring",
    "ryrz_ring_ry",
]
