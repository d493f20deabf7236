"""pyqtorch: a `QuantumCircuit` on a batch of states (batch last), backward by autograd."""

from __future__ import annotations

import pyqtorch as pyq
import torch
from torch import Tensor

from peers import ROTATIONS, cnot_ring
from peers._torch import Call, pauli_z, place, unit_states, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]

NAME = "pyqtorch"
PACKAGES = ("pyqtorch", "torch")
GRADIENTS = ("x", "angles")
NOTE = ""


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    gates: list[torch.nn.Module] = []
    names: list[str] = []
    for _ in range(n_layers):
        for wire in range(n_wires):
            for name in ROTATIONS[kind]:
                names.append(f"angle{len(names)}")
                gates.append(getattr(pyq, name)(wire, names[-1]))
        gates += [pyq.CNOT(*pair) for pair in cnot_ring(n_wires)]
    circuit = pyq.QuantumCircuit(n_wires, gates).to(dtype=torch.complex64)

    def forward(x: Tensor, angles: Tensor) -> Tensor:
        states = unit_states(x).T.reshape([2] * n_wires + [len(x)])
        states = circuit(states, dict(zip(names, angles.flatten().split(1))))
        return pauli_z(states.reshape(-1, len(x)).T)

    return with_backward(forward)
