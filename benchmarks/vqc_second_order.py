"""What a product of a Hessian with a vector costs: from four gradients, and by autograd through two simulators.

`meta_train(order="second")` needs one for each inner step. Times are the best of a few, in milliseconds, for a batch of
16 Heisenberg chains in float64; "gradient" is one energy with its gradient, the unit of all else.

    python benchmarks/vqc_second_order.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ketune.circuits import simulate
from ketune.vqc.meta_training import _Cost
from ketune.vqc.problems.batches import EnergyBatch
from ketune.vqc.problems.spin_chains import heisenberg_family

SIZES = ((4, 2), (6, 3), (8, 4))
N_TASKS = 16


def milliseconds(call: Callable[[], object], n: int = 5) -> float:
    call()
    best = float("inf")
    for _ in range(n):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def by_autograd(energy: Callable[[Tensor], Tensor], angles: Tensor, vectors: Tensor) -> Tensor:
    angles = angles.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(angles).sum(), angles, create_graph=True)
    return torch.autograd.grad(gradient, angles, vectors)[0]


def row(n_wires: int, n_layers: int) -> str:
    """One line of the table."""
    family = heisenberg_family(n_wires, n_layers)
    source = torch.Generator().manual_seed(0)
    batch = EnergyBatch([family(source) for _ in range(N_TASKS)])
    cost = _Cost(batch, normalise=False)
    shape = (N_TASKS, batch.circuit.n_angles)
    angles, vectors = (torch.randn(shape, dtype=torch.float64, generator=source) for _ in range(2))

    def simulated(at: Tensor) -> Tensor:
        states = simulate(batch.circuit, at)
        return torch.stack([p.hamiltonian.expectation(state) for p, state in zip(batch.problems, states)])

    times = [
        milliseconds(lambda: cost.gradient(angles)),
        milliseconds(lambda: cost.hessian_times(angles, vectors)),
        milliseconds(lambda: by_autograd(batch.energy, angles, vectors)),
        milliseconds(lambda: by_autograd(simulated, angles, vectors)),
    ]
    exact = by_autograd(simulated, angles, vectors)
    difference = float((cost.hessian_times(angles, vectors) - exact).abs().max() / exact.abs().max())
    shown = " | ".join(f"{ms:.1f}" for ms in times)
    return f"| {n_wires}, {n_layers} | {shape[1]} | {shown} | {difference:.0e} |"


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| Wires, layers | angles | gradient | four gradients | autograd of run | autograd of simulate | difference |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in SIZES:
        print(row(*size), flush=True)


if __name__ == "__main__":
    main()
