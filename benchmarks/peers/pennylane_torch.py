"""PennyLane's default.qubit on torch, differentiated by backpropagation, the whole batch broadcast."""

from __future__ import annotations

import pennylane as qml
import torch
from torch import Tensor

from peers import ROTATIONS, cnot_ring
from peers._torch import Call, place, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]

NAME = "PennyLane, torch"
PACKAGES = ("pennylane", "torch")
GRADIENTS = ("x", "angles")
NOTE = ""


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    wires = range(n_wires)
    rotations = [getattr(qml, name) for name in ROTATIONS[kind]]
    ring = cnot_ring(n_wires)

    @qml.qnode(qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    def node(x: Tensor, angles: Tensor) -> list[object]:
        qml.AmplitudeEmbedding(x, wires=wires, normalize=True)
        for layer in range(n_layers):
            for wire in wires:
                for k, rotation in enumerate(rotations):
                    rotation(angles[layer, wire, k], wires=wire)
            for pair in ring:
                qml.CNOT(pair)
        return [qml.expval(qml.PauliZ(wire)) for wire in wires]

    def forward(x: Tensor, angles: Tensor) -> Tensor:
        return torch.stack(tuple(node(x, angles)), -1).to(x.dtype)

    return with_backward(forward)
