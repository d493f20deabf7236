"""BFGS on many small problems at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_HALVINGS = 8
_ARMIJO = 1e-4


def minimise_batch(
    objective: Callable[[Tensor, Tensor], Tensor], start: Tensor, n_iterations: int = 60, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Local minima of independent functions of a few variables.

    Args:
        objective: of (..., m, d) points and the (m,) numbers of their problems, which are some of the M: (..., m)
            values. Each value depends on its own point only. Differentiable.
        start: (M, d) first points.
        n_iterations: at most so many.
        tolerance: a problem stops when a step makes its value better by no more than this.

    Returns:
        (M, d) points and their (M,) values, never above those of the start.
    """
    points = start.clone()
    n_variables = points.shape[1]
    unit = torch.eye(n_variables, dtype=points.dtype, device=points.device)
    inverse = unit.expand(len(points), -1, -1).clone()
    sizes = 0.5 ** torch.arange(_HALVINGS, dtype=points.dtype, device=points.device)
    live = torch.arange(len(points), device=points.device)
    values, slopes = _value_and_slope(objective, points, live)
    for _ in range(n_iterations):
        if not len(live):
            break
        here, slope, curvature = points[live], slopes[live], inverse[live]
        step = -(curvature @ slope[..., None])[..., 0]
        descent = (step * slope).sum(-1)
        lost = descent >= 0  # rounding has spoilt the curvature: steepest descent, anew
        step = torch.where(lost[:, None], -slope, step)
        curvature = torch.where(lost[:, None, None], unit, curvature)
        descent = torch.where(lost, -slope.square().sum(-1), descent)
        with torch.no_grad():
            tried = objective(here + sizes[:, None, None] * step, live)
            enough = tried <= values[live] + _ARMIJO * sizes[:, None] * descent
            which = enough.int().argmax(0)
            moved = enough.any(0)
        new = torch.where(moved[:, None], here + sizes[which][:, None] * step, here)
        new_values, new_slopes = _value_and_slope(objective, new, live)
        change, turn = new - here, new_slopes - slope
        gained = values[live] - new_values
        inverse[live] = _updated(curvature, change, turn, unit)
        points[live], values[live], slopes[live] = new, new_values, new_slopes
        live = live[gained > tolerance]
    return points, values


def _value_and_slope(
    objective: Callable[[Tensor, Tensor], Tensor], points: Tensor, live: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        values = objective(points, live)
        (slopes,) = torch.autograd.grad(values.sum(), points)
    return values.detach(), slopes


def _updated(inverse: Tensor, change: Tensor, turn: Tensor, unit: Tensor) -> Tensor:
    """The BFGS formula, where the curvature along the step is positive."""
    along = (change * turn).sum(-1)
    good = along > 1e-12
    weight = torch.where(good, 1 / torch.where(good, along, 1.0), 0.0)[:, None, None]
    left = unit - weight * change[:, :, None] * turn[:, None, :]
    new = left @ inverse @ left.mT + weight * change[:, :, None] * change[:, None, :]
    return torch.where(good[:, None, None], new, inverse)
