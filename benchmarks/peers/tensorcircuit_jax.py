"""TensorCircuit-NG on JAX: vmap over the samples, the whole work item compiled with jax.jit.

Tried and slower (10 wires, 2 layers, 512 samples): its own expectation of each wire (2.6 times), one product matrix per
wire and layer (1.06 times). XLA's flags for threads and for 512-bit vectors change nothing on one core.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import tensorcircuit as tc

from peers import ROTATIONS, cnot_ring
from peers._jax import Call, pauli_z, place, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]

NAME = "TensorCircuit, JAX"
PACKAGES = ("tensorcircuit-ng", "jax")
GRADIENTS = ("x", "angles")
NOTE = "compiled"

tc.set_backend("jax")
tc.set_dtype("complex64")


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    rotations = [name.lower() for name in ROTATIONS[kind]]
    ring = cnot_ring(n_wires)

    def one(x: jax.Array, angles: jax.Array) -> jax.Array:
        circuit = tc.Circuit(n_wires, inputs=(x / jnp.linalg.norm(x)).astype(jnp.complex64))
        for layer in range(n_layers):
            for wire in range(n_wires):
                for k, name in enumerate(rotations):
                    getattr(circuit, name)(wire, theta=angles[layer, wire, k])
            for pair in ring:
                circuit.cnot(*pair)
        return pauli_z(circuit.state())

    return with_backward(jax.vmap(one, in_axes=(0, None)))
