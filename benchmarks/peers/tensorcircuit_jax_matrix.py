"""TensorCircuit-NG on JAX, used to build the circuit's matrix once a call, which then multiplies all samples.

Not how simulators are used, but the best one can get out of this one when samples are many and wires few: 2^n columns
are simulated instead of B samples.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import tensorcircuit as tc

from peers import ROTATIONS, cnot_ring
from peers._jax import Call, pauli_z, place, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]

NAME = "TensorCircuit, JAX, matrix"
PACKAGES = ("tensorcircuit-ng", "jax")
GRADIENTS = ("x", "angles")
NOTE = "compiled; builds the circuit's matrix, then one product"

tc.set_backend("jax")
tc.set_dtype("complex64")


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    rotations = [name.lower() for name in ROTATIONS[kind]]
    ring = cnot_ring(n_wires)

    def column(basis_state: jax.Array, angles: jax.Array) -> jax.Array:
        circuit = tc.Circuit(n_wires, inputs=basis_state)
        for layer in range(n_layers):
            for wire in range(n_wires):
                for k, name in enumerate(rotations):
                    getattr(circuit, name)(wire, theta=angles[layer, wire, k])
            for pair in ring:
                circuit.cnot(*pair)
        return circuit.state()

    columns = jax.vmap(column, in_axes=(0, None))

    def forward(x: jax.Array, angles: jax.Array) -> jax.Array:
        matrix = columns(jnp.eye(2**n_wires, dtype=jnp.complex64), angles)
        unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        if kind == "real":
            return pauli_z(unit @ matrix.real)
        return pauli_z(unit @ matrix.real + 1j * (unit @ matrix.imag))

    return with_backward(forward)
