"""The simulators that `benchmarks/simulators.py` compares: one file each, all with the same face.

A peer's module has

    NAME       the name in the tables
    PACKAGES   the distributions whose versions are reported, the simulator's own first
    GRADIENTS  ("x", "angles"), or ("angles",) for a simulator that cannot differentiate to its features
    NOTE       what a reader of the table must know, or ""
    place      turns a NumPy array into the peer's own kind of array; not timed
    build      (n_wires, n_layers, kind) -> call, where call(x, angles, weights) returns (out, dx, dangles), finished

`x` is (B, 2^n) float32 and not normalised: normalising it is part of the call. `angles` is (n_layers, n_wires, 3) for
the kind "complex" (RX, RY, RZ on every wire) or (n_layers, n_wires, 1) for "real" (RY), each layer closed by a ring of
CNOTs. `out` is (B, n), the Pauli-Z expectation of every wire; dx and dangles are the gradients of sum(out * weights).
Wire 0 is the most significant bit. A module whose simulator is not installed fails with ImportError on import.

Every peer is written in the fastest form we found that uses the simulator for what it is there for, applying gates to
states; what was tried is said in its file.
"""

from __future__ import annotations

import os

DEVICE = os.environ.get("KETUNE_BENCHMARK_DEVICE", "cpu")
"""Where the simulators run: "cpu", or "cuda" for `benchmarks/gpu.py`."""

ROTATIONS = {"complex": ("RX", "RY", "RZ"), "real": ("RY",)}
"""The rotations of one layer on every wire, by kind of circuit."""

PEERS = (
    "ketune",
    "tensorcircuit_jax",
    "tensorcircuit_jax_matrix",
    "pennylane_jax",
    "tensorcircuit_torch",
    "torchquantum",
    "deepquantum",
    "pyqtorch",
    "pennylane_torch",
    "plain_torch",
    "lightning",
    "mindquantum",
)
"""The modules, in the order of the tables."""

GPU_PEERS = (
    "tensorcircuit_jax",
    "tensorcircuit_jax_matrix",
    "pennylane_jax",
    "tensorcircuit_torch",
    "torchquantum",
    "deepquantum",
    "pyqtorch",
    "pennylane_torch",
    "plain_torch",
    "lightning_gpu",
)
"""Those that `benchmarks/gpu.py` tries on a GPU, beside Ketune in its forms."""

MATRIX_FORMS = ("tensorcircuit_jax_matrix",)
"""Peers in a form that nobody publishes: shown beside the others, but not counted as the best peer."""


def cnot_ring(n_wires: int) -> list[tuple[int, int]]:
    """Controls and targets of one layer's CNOTs, in their order; two wires have no closing CNOT."""
    chain = [(wire, wire + 1) for wire in range(n_wires - 1)]
    return chain + ([(n_wires - 1, 0)] if n_wires > 2 else [])
