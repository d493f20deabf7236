"""What one writes without a simulator: gate after gate over the whole batch in torch, backward by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from peers import ROTATIONS, cnot_ring
from peers._torch import Call, pauli_z, place, unit_states, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]

NAME = "plain torch"
PACKAGES = ("torch",)
GRADIENTS = ("x", "angles")
NOTE = ""

_PAULIS = {  # on the default device, which is where `peers._torch` runs simulators
    "RX": torch.tensor([[0, 1], [1, 0]], dtype=torch.complex64),
    "RY": torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex64),
    "RZ": torch.tensor([[1, 0], [0, -1]], dtype=torch.complex64),
}


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    generators = torch.stack([_PAULIS[name] for name in ROTATIONS[kind]])
    index = torch.arange(2**n_wires)
    orders = []
    for control, target in cnot_ring(n_wires):
        fired = (index >> (n_wires - 1 - control)) & 1
        orders.append(index ^ (fired << (n_wires - 1 - target)))

    def forward(x: Tensor, angles: Tensor) -> Tensor:
        states = unit_states(x)
        half = angles[..., None, None] / 2
        gates = half.cos() * torch.eye(2) - 1j * half.sin() * generators
        for layer in range(n_layers):
            for wire in range(n_wires):
                for gate in gates[layer, wire]:
                    pairs = states.reshape(len(x) << wire, 2, -1)
                    states = (gate @ pairs).reshape(len(x), -1)
            for order in orders:
                states = states[:, order]
        return pauli_z(states)

    return with_backward(forward)
