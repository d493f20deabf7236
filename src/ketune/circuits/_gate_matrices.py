"""Tables for one-wire matrices from angles, and for the adjoint of that: the small end of every simulator here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ketune.circuits._layers import Slot


def angle_tables(slots: Sequence[Slot], n_rotations: int) -> tuple[Tensor, Tensor]:
    """Which angle each rotation of each slot takes, (n_rotations * slots,) int64, and half its factor, (n_rotations,
    slots) float64; zero where a slot has fewer rotations."""
    index = torch.zeros(n_rotations, len(slots), dtype=torch.int64)
    half = torch.zeros(n_rotations, len(slots), dtype=torch.float64)
    for column, slot in enumerate(slots):
        rotations = [(step.angle, step.factor) for step in slot if step.angle is not None]
        for row, (angle, factor) in enumerate(rotations):
            index[row, column], half[row, column] = angle, factor / 2
    return index.flatten(), half


def most_rotations(slots: Sequence[Slot]) -> int:
    """Most rotations with an angle in one slot."""
    return max((sum(step.angle is not None for step in slot) for slot in slots), default=0)


def turned_products(n_rotations: int) -> Tensor:
    """`f @ turned`: for each rotation the products f with that rotation's (cos, sin) replaced by (-sin, cos)."""
    size = 2**n_rotations
    turned = torch.zeros(size, n_rotations, size, dtype=torch.float64)
    for rotation in range(n_rotations):
        bit = 1 << (n_rotations - 1 - rotation)
        for term in range(size):
            turned[term, rotation, term ^ bit] = -1.0 if term & bit else 1.0
    return turned.flatten(1)
