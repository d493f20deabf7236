"""All angles of a loading circuit at once, by Adam on the infidelity."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ketune.state_preparation.pair_circuit import CircuitBatch, PairCircuit

OnStep = Callable[[int, Tensor], None]
"""Called with the number of steps done and the (B,) infidelities before the last of them."""


def polish(
    circuits: Sequence[PairCircuit],
    vectors: Tensor,
    *,
    n_steps: int = 2000,
    lr: float = 0.01,
    tolerance: float = 1e-12,
    patience: int = 200,
    on_step: OnStep | None = None,
) -> list[PairCircuit]:
    """The same circuits with angles that load their vectors better.

    Adam on the sum of infidelities, which never mixes the circuits of a batch. The best angles that were met are kept,
    so no circuit gets worse. AQER's third step ("fine-tuning" in Zhang et al., arXiv 2602.02165), for any loader.

    Args:
        circuits: of one kind of block and one number of blocks.
        vectors: (B, 2 ** n_wires) unit vectors, real or complex.
        n_steps: steps of Adam.
        lr: its learning rate, in radians.
        tolerance: stop when all infidelities are at most this.
        patience: stop when none has fallen by a thousandth of itself in so many steps.
        on_step: called after each step.

    Returns:
        as many circuits, in their order.

    Raises:
        LoadingError: for circuits that cannot be batched, or vectors of another shape.
    """
    batch = CircuitBatch.of(circuits, vectors)
    start, angles = batch.start.clone().requires_grad_(), batch.angles.clone().requires_grad_()
    best_start, best_angles = batch.start.clone(), batch.angles.clone()
    best = torch.full((len(circuits),), torch.inf, dtype=torch.float64, device=vectors.device)
    optimizer = torch.optim.Adam([start, angles], lr=lr)
    progress, since = best.clone(), 0
    for step in range(n_steps + 1):
        with torch.set_grad_enabled(step < n_steps):
            found = batch.infidelity(start, angles)
        with torch.no_grad():
            better = found < best
            best = torch.where(better, found, best)
            best_start = torch.where(better[:, None, None], start, best_start)
            best_angles = torch.where(better[:, None, None], angles, best_angles)
            gained = best < 0.999 * progress
            progress, since = torch.where(gained, best, progress), 0 if bool(gained.any()) else since + 1
        if step == n_steps or since > patience or bool((best <= tolerance).all()):
            break
        optimizer.zero_grad()
        found.sum().backward()
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, found.detach())
    return batch.circuits(best_start, best_angles)
