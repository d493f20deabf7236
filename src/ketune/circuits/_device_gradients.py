"""What autograd needs to differentiate circuits that run elsewhere: the circuit itself at shifted angles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ketune.circuits._shift_rules import ShiftRule

Evaluate = Callable[[Tensor, Tensor | None], Tensor]
"""(rows, n_angles) angles and (rows, 2 ** n_wires) states or None, to (rows, k) readouts; all float64 on the CPU."""


class ShiftedCircuits(torch.autograd.Function):
    """(rows, n_angles) angles, a gate for each, to (rows, k) readouts, differentiable once by the parameter shift.

    All shifted circuits of all rows are evaluated together. Angles with an empty rule get the gradient zero.
    """

    @staticmethod
    def forward(
        ctx: Any, angles: Tensor, states: Tensor | None, evaluate: Evaluate, rules: Sequence[ShiftRule]
    ) -> Tensor:
        ctx.save_for_backward(angles)
        ctx.states, ctx.evaluate, ctx.rules = states, evaluate, rules
        return evaluate(angles.detach(), states)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None, None]:
        (angles,) = ctx.saved_tensors
        terms = [(place, c, shift) for place, rule in enumerate(ctx.rules) for c, shift in rule]
        gradient = torch.zeros_like(angles)
        if not terms or not len(angles):
            return gradient, None, None, None
        shifted = angles.detach().repeat(len(terms), 1, 1)
        for number, (place, _, shift) in enumerate(terms):
            shifted[number, :, place] += shift
        states = None if ctx.states is None else ctx.states.repeat(len(terms), 1)
        out = ctx.evaluate(shifted.flatten(0, 1), states).unflatten(0, (len(terms), len(angles)))
        slopes = (out * cotangents[0]).sum(-1)
        for number, (place, c, _) in enumerate(terms):
            gradient[:, place] += c * slopes[number]
        return gradient, None, None, None
