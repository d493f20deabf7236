"""Minimising an energy: one loop for every start, optimiser and noise, and the trace that it leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ketune.circuits import NoiseModel, noisy_expectation
from ketune.vqc.problems.base import EnergyProblem
from ketune.vqc.problems.batches import EnergyBatch

OptimizerMaker = Callable[[list[Tensor]], torch.optim.Optimizer]
"""Parameters to an optimiser over them."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What minimising an energy left behind.

    Args:
        energies: (n_steps + 1, ...) exact energies before each step and after the last, whatever noise the steps saw.
        angles: (..., n_angles) the last angles.
        seconds: time of the steps, without that of the exact energies of noisy ones.
    """

    energies: Tensor
    angles: Tensor
    seconds: float

    def steps_to(self, energy: float | Tensor) -> Tensor:
        """How many steps it took to come down to an energy: (...) int64, -1 where it never did.

        Args:
            energy: one energy for all, or one for each, of a shape that broadcasts with that of the starts.
        """
        reached = self.energies <= energy
        return torch.where(reached.any(0), reached.int().argmax(0), -1)


def minimise(
    problem: EnergyProblem | EnergyBatch,
    angles: Tensor,
    optimizer: OptimizerMaker,
    n_steps: int,
    *,
    noise: NoiseModel | None = None,
    n_trajectories: int = 32,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Trace:
    """Gradient steps on the energy from given angles.

    Several starts run side by side as one batch: their gradients never mix, so that with an optimiser that works entry
    by entry (Adam, SGD without clipping) each goes its own way.

    Args:
        problem: the energy, or a batch of problems on one circuit, which go side by side too.
        angles: (..., n_angles) starts in radians; of a batch (..., n_problems, n_angles).
        optimizer: makes the optimiser, `lambda p: torch.optim.Adam(p, lr=0.01)`.
        n_steps: number of steps.
        noise: noise after the gates and in the readout; None: exact.
        n_trajectories: trajectories that each noisy energy is the mean of.
        generator: source of the noise; the global one when None.
        on_step: called with the number of each step and the energies before it.

    Raises:
        ValueError: for angles of another length, fewer than one step, or noise on a batch of problems.
    """
    if noise is not None and isinstance(problem, EnergyBatch):
        raise ValueError(
            f"minimise({problem.name}, noise=...): noisy energies are of one problem; take them one by one"
        )
    if angles.shape[-1:] != (problem.circuit.n_angles,) or n_steps < 1:
        raise ValueError(
            f"angles of shape {tuple(angles.shape)} and {n_steps} steps: {problem.name} takes (..., "
            f"{problem.circuit.n_angles}) angles and at least 1 step"
        )
    angles = angles.detach().clone().requires_grad_()
    steps = optimizer([angles])
    energies = []
    seconds = 0.0
    for step in range(n_steps):
        began = time.perf_counter()
        steps.zero_grad()
        if noise is None or isinstance(problem, EnergyBatch):
            energy = problem.energy(angles)
        else:
            energy, _ = noisy_expectation(
                problem.circuit, problem.hamiltonian, angles, noise, n_trajectories, generator=generator
            )
        energy.sum().backward()
        before = angles.detach().clone() if noise is not None else angles
        steps.step()
        seconds += time.perf_counter() - began
        with torch.no_grad():
            energies.append(energy.detach() if noise is None else problem.energy(before))
        if on_step is not None:
            on_step(step, energies[-1])
    with torch.no_grad():
        energies.append(problem.energy(angles))
    return Trace(torch.stack(energies), angles.detach(), seconds)
