"""The small end of a plan: matrices of all layers on the two halves of the wires from the angles, and the adjoint.

Everything here works on plain tensors outside autograd. Layers are stacked in the order of the tables: those with
complex matrices first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ketune.circuits._plan import Plan, Tables


@dataclass
class SmallMatrices:
    """Matrices of every layer, complex where the plan has complex layers, and what their adjoint needs."""

    trig: Tensor  # (slots, 2 ** rotations) products of cosines and sines
    gates: Tensor  # (layers, wires, 2, 2)
    partial_high: list[Tensor]  # Kronecker products of the first 1, 2, ... gates of the high half
    partial_low: list[Tensor]

    @property
    def high(self) -> Tensor:
        """(layers, H, H): each layer's matrix on the high half of the wires."""
        return self.partial_high[-1]

    @property
    def low(self) -> Tensor:
        """(layers, W, W): each layer's matrix on the low half of the wires."""
        return self.partial_low[-1]


def _kron_chain(gates: Tensor) -> list[Tensor]:
    """Kronecker products of the first 1, 2, ..., g of (layers, g, 2, 2) matrices."""
    if gates.shape[1] == 0:
        return [gates.new_ones(gates.shape[0], 1, 1)]
    partial = [gates[:, 0]]
    for wire in range(1, gates.shape[1]):
        left = partial[-1]
        product = left[:, :, None, :, None] * gates[:, wire, None, :, None, :]
        partial.append(product.reshape(left.shape[0], 2 * left.shape[1], -1))
    return partial


def _kron_chain_adjoint(gates: Tensor, partial: list[Tensor], cotangent: Tensor) -> Tensor:
    """Cotangent of (layers, g, 2, 2) matrices from that of their Kronecker product."""
    result = torch.empty_like(gates)
    for wire in range(gates.shape[1] - 1, 0, -1):
        left = partial[wire - 1]
        split = cotangent.reshape(left.shape[0], left.shape[1], 2, left.shape[2], 2)
        result[:, wire] = (split * left.conj()[:, :, None, :, None]).sum((1, 3))
        cotangent = (split * gates[:, wire].conj()[:, None, :, None, :]).sum((2, 4))
    if gates.shape[1]:
        result[:, 0] = cotangent
    return result


def small_matrices(plan: Plan, tables: Tables, angles: Tensor) -> SmallMatrices:
    """The matrices of all layers.

    Args:
        plan: the plan.
        tables: its constants.
        angles: (n_angles,) in the type of the tables.
    """
    rotations, slots = tables.half.shape
    if rotations:
        half = angles.index_select(0, tables.angle_index).view(rotations, slots) * tables.half
        each = torch.stack((half.cos(), half.sin()), -1)
        trig = each[0]
        for rotation in range(1, rotations):
            trig = (trig[:, :, None] * each[rotation][:, None, :]).flatten(1)
    else:
        trig = tables.terms.new_ones(slots, 1)
    gates = torch.bmm(trig[:, None], tables.terms)
    if plan.components == 2:
        gates = torch.view_as_complex(gates.view(plan.n_layers, plan.n_wires, 2, 2, 2))
    else:
        gates = gates.view(plan.n_layers, plan.n_wires, 2, 2)
    return SmallMatrices(trig, gates, _kron_chain(gates[:, : plan.n_high]), _kron_chain(gates[:, plan.n_high :]))


def add_phases_cotangent(small: SmallMatrices, place: int, d_phases: Tensor, d_high: Tensor, d_low: Tensor) -> None:
    """Puts the cotangent (H, W) of a diagonal layer's phases into those of the two matrices it is the product of.

    Args:
        small: the matrices.
        place: of the layer in the stacks.
        d_phases: (H, W), complex.
        d_high: (layers, H, H), to write into.
        d_low: (layers, W, W), to write into.
    """
    column, row = small.high[place].diagonal(), small.low[place].diagonal()
    d_high[place].diagonal().copy_((d_phases * row.conj()).sum(1))
    d_low[place].diagonal().copy_((d_phases * column[:, None].conj()).sum(0))


def angles_cotangent(plan: Plan, tables: Tables, small: SmallMatrices, d_high: Tensor, d_low: Tensor) -> Tensor:
    """Cotangent of the angles, (n_angles,), from those of the matrices, (layers, H, H) and (layers, W, W)."""
    gates = small.gates
    d_gates = torch.cat(
        (
            _kron_chain_adjoint(gates[:, : plan.n_high], small.partial_high, d_high),
            _kron_chain_adjoint(gates[:, plan.n_high :], small.partial_low, d_low),
        ),
        1,
    )
    if plan.components == 2:
        d_gates = torch.view_as_real(d_gates)
    rotations, slots = tables.half.shape
    d_trig = torch.bmm(tables.terms, d_gates.reshape(slots, -1, 1))
    turned = (small.trig @ tables.turned).view(slots, rotations, 2**rotations)
    d_half = torch.bmm(turned, d_trig).view(slots, rotations).T * tables.half
    return d_half.new_zeros(plan.n_angles).index_add_(0, tables.angle_index, d_half.flatten())
