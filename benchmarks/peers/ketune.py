"""Ketune: `ketune.circuits.run`.

On a GPU `benchmarks/gpu.py` runs it several times, in the form, the precision and the kind of call that these
variables name; without them it runs as a user would run it.

    KETUNE_TRITON              0 by matrix products, 1 in the Triton kernels
    KETUNE_BENCHMARK_PRECISION a value of `matmul_precision`
    KETUNE_BENCHMARK_GRAPH     1 replays a CUDA graph of the whole call
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ketune.circuits import Circuit, run, rxryrz_ring, ry_ring
from ketune.circuits._plan import Plan, describe, program
from peers import DEVICE
from peers._torch import Call, place, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "operations", "place"]

NAME = "Ketune"
PACKAGES = ("ketune", "torch")
GRADIENTS = ("x", "angles")
NOTE = ""

PRECISION = os.environ.get("KETUNE_BENCHMARK_PRECISION", "highest")
_ANSATZ = {"complex": rxryrz_ring, "real": ry_ring}


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    circuit = _ANSATZ[kind](n_wires, n_layers)

    def forward(x: Tensor, angles: Tensor) -> Tensor:
        return run(circuit, x, angles.flatten(), matmul_precision=PRECISION)

    if os.environ.get("KETUNE_TRITON") == "1" and DEVICE == "cuda" and plan_of(circuit).form(1, DEVICE) != "triton":
        raise RuntimeError(f"the Triton kernels do not run {n_wires} wires, or Triton is not installed")
    call = with_backward(forward)
    return _captured(call) if os.environ.get("KETUNE_BENCHMARK_GRAPH") == "1" else call


def _captured(call: Call) -> Call:
    """The call as a CUDA graph; inputs are copied into its own, results are those of the last replay."""
    inputs: tuple[Tensor, ...] = ()
    results: tuple[Tensor, Tensor, Tensor] | None = None
    graph = torch.cuda.CUDAGraph()

    def replay(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal inputs, results
        if results is None:
            inputs = tuple(tensor.clone() for tensor in given)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    call(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                results = call(*inputs)
        for ours, theirs in zip(inputs, given, strict=True):
            ours.copy_(theirs)
        graph.replay()
        return results

    return replay


def plan_of(circuit: Circuit) -> Plan:
    """The plan of the work item."""
    return program(describe(circuit.text, "amplitude", "pauli_z", None, 2**circuit.n_wires, PRECISION)).plans[0]


def operations(n_wires: int, n_layers: int, kind: str, n_samples: int) -> float:
    """Floating-point operations of the plan that `run` takes, forward and backward."""
    plan = plan_of(_ANSATZ[kind](n_wires, n_layers))
    return plan.operations(n_samples, plan.form(n_samples, DEVICE))
