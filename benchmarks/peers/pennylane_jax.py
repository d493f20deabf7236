"""PennyLane's default.qubit on JAX, the whole work item compiled with jax.jit, the batch broadcast."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pennylane as qml

from peers import ROTATIONS, cnot_ring
from peers._jax import Call, place, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]

NAME = "PennyLane, JAX"
PACKAGES = ("pennylane", "jax")
GRADIENTS = ("x", "angles")
NOTE = "compiled"


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    wires = range(n_wires)
    rotations = [getattr(qml, name) for name in ROTATIONS[kind]]
    ring = cnot_ring(n_wires)

    @qml.qnode(qml.device("default.qubit", wires=n_wires), interface="jax", diff_method="backprop")
    def node(x: jax.Array, angles: jax.Array) -> list[object]:
        qml.AmplitudeEmbedding(x, wires=wires, normalize=True)
        for layer in range(n_layers):
            for wire in wires:
                for k, rotation in enumerate(rotations):
                    rotation(angles[layer, wire, k], wires=wire)
            for pair in ring:
                qml.CNOT(pair)
        return [qml.expval(qml.PauliZ(wire)) for wire in wires]

    return with_backward(lambda x, angles: jnp.stack(node(x, angles), -1))
