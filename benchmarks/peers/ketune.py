"""Ketune: `ketune.circuits.run`."""

from __future__ import annotations

from torch import Tensor

from ketune.circuits import run, rxryrz_ring, ry_ring
from ketune.circuits._plan import describe, program
from peers._torch import Call, place, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "operations", "place"]

NAME = "Ketune"
PACKAGES = ("ketune", "torch")
GRADIENTS = ("x", "angles")
NOTE = ""

_ANSATZ = {"complex": rxryrz_ring, "real": ry_ring}


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    circuit = _ANSATZ[kind](n_wires, n_layers)

    def forward(x: Tensor, angles: Tensor) -> Tensor:
        return run(circuit, x, angles.flatten())

    return with_backward(forward)


def operations(n_wires: int, n_layers: int, kind: str, n_samples: int) -> float:
    """Floating-point operations of the plan that `run` takes, forward and backward."""
    circuit = _ANSATZ[kind](n_wires, n_layers)
    plan = program(describe(circuit.text, "amplitude", "pauli_z", None, 2**n_wires)).plans[0]
    return plan.operations(n_samples, plan.form(n_samples, "cpu"))
