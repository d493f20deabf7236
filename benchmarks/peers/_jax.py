"""What the peers on JAX share."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from peers import DEVICE

if DEVICE == "cuda" and jax.default_backend() != "gpu":
    raise ImportError(f"jax {jax.__version__} finds no CUDA device")

Call = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]


def place(array: np.ndarray) -> jax.Array:
    """An array on the device."""
    return jax.block_until_ready(jnp.array(array))


def with_backward(forward: Callable[[jax.Array, jax.Array], jax.Array]) -> Call:
    """The work item from a forward(x, angles) -> out, compiled as one program."""

    def weighted(x: jax.Array, angles: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = forward(x, angles)
        return (out * weights).sum(), out

    step = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))

    def call(x: jax.Array, angles: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        (_, out), (dx, dangles) = step(x, angles, weights)
        return jax.block_until_ready((out, dx, dangles))

    return call


def pauli_z(states: jax.Array) -> jax.Array:
    """Expectations of every wire from states (..., 2^n): one matrix product on the probabilities."""
    n_wires = states.shape[-1].bit_length() - 1
    index = np.arange(2**n_wires)[:, None]
    signs = 1.0 - 2.0 * ((index >> np.arange(n_wires - 1, -1, -1)) & 1)
    return (states.real**2 + states.imag**2) @ jnp.asarray(signs, jnp.float32)
