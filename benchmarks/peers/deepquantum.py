"""DeepQuantum: a `QubitCircuit` on a batch of states, backward by autograd."""

from __future__ import annotations

import deepquantum as dq
from torch import Tensor

from peers import ROTATIONS, cnot_ring
from peers._torch import Call, pauli_z, place, unit_states, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]

NAME = "DeepQuantum"
PACKAGES = ("deepquantum", "torch")
GRADIENTS = ("x", "angles")
NOTE = ""


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    circuit = dq.QubitCircuit(n_wires)
    for _ in range(n_layers):
        for wire in range(n_wires):
            for name in ROTATIONS[kind]:
                getattr(circuit, name.lower())(wire, encode=True)
        for pair in cnot_ring(n_wires):
            circuit.cnot(*pair)

    def forward(x: Tensor, angles: Tensor) -> Tensor:
        states = circuit(data=angles.flatten(), state=unit_states(x)[..., None])
        return pauli_z(states[..., 0])

    return with_backward(forward)
