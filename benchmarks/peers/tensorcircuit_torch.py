"""TensorCircuit-NG on torch: torch.func.vmap over the samples, backward by autograd."""

from __future__ import annotations

import tensorcircuit as tc
import torch
from torch import Tensor

from peers import ROTATIONS, cnot_ring
from peers._torch import Call, pauli_z, place, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]

NAME = "TensorCircuit, torch"
PACKAGES = ("tensorcircuit-ng", "torch")
GRADIENTS = ("x", "angles")
NOTE = ""

tc.set_backend("pytorch")
tc.set_dtype("complex64")


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    rotations = [name.lower() for name in ROTATIONS[kind]]
    ring = cnot_ring(n_wires)

    def one(x: Tensor, angles: Tensor) -> Tensor:
        circuit = tc.Circuit(n_wires, inputs=(x / x.norm()).to(torch.complex64))
        for layer in range(n_layers):
            for wire in range(n_wires):
                for k, name in enumerate(rotations):
                    getattr(circuit, name)(wire, theta=angles[layer, wire, k])
            for pair in ring:
                circuit.cnot(*pair)
        return circuit.state()

    states = torch.func.vmap(one, in_dims=(0, None))
    return with_backward(lambda x, angles: pauli_z(states(x, angles)))
