"""One-wire matrices from angles, and the adjoint of that: the small end of every simulator here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ketune.circuits._layers import Slot, slot_terms

Array = NDArray[Any]


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


class GateMatrices:
    """The 2 x 2 matrices of slots as functions of the angles, in float64 with NumPy, whose calls cost least.

    Args:
        slots: products of one-wire steps.
        n_angles: length of the angle vector.
    """

    def __init__(self, slots: Sequence[Slot], n_angles: int) -> None:
        self.n_angles, self.n_rotations = n_angles, most_rotations(slots)
        index, half = angle_tables(slots, self.n_rotations)
        self._index, self._half = index.numpy(), half.numpy()
        terms = [torch.view_as_real(slot_terms(slot, self.n_rotations)).flatten(1) for slot in slots]
        self._terms = torch.stack(terms).numpy() if terms else np.zeros((0, 1, 8))  # (slots, 2 ** rotations, 8)
        self._turned = turned_products(self.n_rotations).numpy()

    def forward(self, angles: Array) -> tuple[Array, Array]:
        """Matrices (slots, 2, 2) complex128 of (n_angles,) float64 angles, and what `backward` needs."""
        rotations, slots = self._half.shape
        products = np.ones((slots, 1))
        if rotations:
            half = angles[self._index].reshape(rotations, slots) * self._half
            each = np.empty((rotations, slots, 2))
            np.cos(half, out=each[..., 0])
            np.sin(half, out=each[..., 1])
            products = each[0]
            for rotation in each[1:]:
                products = (products[:, :, None] * rotation[:, None, :]).reshape(slots, -1)
        matrices = products[:, None] @ self._terms
        return matrices.view(np.complex128).reshape(slots, 2, 2), products

    def backward(self, products: Array, cotangent: Array) -> Array:
        """Cotangent (n_angles,) of the angles from the (slots, 2, 2) complex128 cotangent of the matrices."""
        rotations, slots = self._half.shape
        if not rotations:
            return np.zeros(self.n_angles)
        flat = np.ascontiguousarray(cotangent).reshape(slots, 4).view(np.float64)
        d_products = self._terms @ flat[:, :, None]
        turned = (products @ self._turned).reshape(slots, rotations, -1)
        d_half = (turned @ d_products)[:, :, 0].T * self._half
        return np.bincount(self._index, d_half.ravel(), self.n_angles)
