"""Matrices of blocks from angles: those of one-wire gates as Kronecker products, many wires in one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ketune.circuits._blocks import Block, Blocks
from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.simulate import simulate


class _Slots(NamedTuple):
    """Wires whose gates have the same names in the same order."""

    circuit: Circuit
    """Those gates, on one wire."""
    angles: list[list[int]]
    """For each such wire which of the circuit's angles they turn by."""
    places: list[tuple[int, int]]
    """For each such wire its block and its place there."""


def block_matrices(plan: Blocks, angles: Tensor) -> list[Tensor]:
    """The matrix of every block, in the dtype that its gates have.

    Args:
        plan: the blocks.
        angles: (..., n_angles) of the whole circuit.

    Returns:
        (..., K, K) for each block, with the leading dimensions of the angles.
    """
    factors: dict[tuple[int, int], Tensor] = {}
    for slots in _same_slots(plan.blocks):
        index = torch.tensor(slots.angles, dtype=torch.int64, device=angles.device)
        own = angles[..., index.flatten()].unflatten(-1, index.shape)
        eye = torch.eye(2, dtype=angles.dtype, device=angles.device)
        made = simulate(slots.circuit, own[..., None, :], eye).mT
        factors.update(zip(slots.places, made.unbind(-3)))
    out = []
    for number, block in enumerate(plan.blocks):
        if _is_product(block):
            n_wires = block.circuit.n_wires
            out.append(_kronecker([factors.get((number, wire)) for wire in range(n_wires)], angles))
        else:
            own = angles[..., list(block.angles)]
            eye = torch.eye(2**block.circuit.n_wires, dtype=angles.dtype, device=angles.device)
            out.append(simulate(block.circuit, own[..., None, :], eye).mT)
    return out


def _is_product(block: Block) -> bool:
    return all(len(gate.wires) == 1 for gate in block.circuit.gates)


@lru_cache(maxsize=64)
def _same_slots(blocks: tuple[Block, ...]) -> list[_Slots]:
    found: dict[tuple[object, ...], _Slots] = {}
    for number, block in enumerate(blocks):
        if not _is_product(block):
            continue
        on_wires: defaultdict[int, list[Gate]] = defaultdict(list)
        for gate in block.circuit.gates:
            on_wires[gate.wires[0]].append(gate)
        for wire, gates in on_wires.items():
            turning = [gate.angle for gate in gates if gate.angle is not None]
            distinct = list(dict.fromkeys(turning))
            alone = [Gate(g.name, (0,), None if g.angle is None else distinct.index(g.angle), g.matrix) for g in gates]
            circuit = Circuit(1, tuple(alone))
            slots = found.setdefault((circuit,), _Slots(circuit, [], []))
            slots.angles.append([block.angles[angle] for angle in distinct])
            slots.places.append((number, wire))
    return list(found.values())


def _kronecker(factors: Sequence[Tensor | None], angles: Tensor) -> Tensor:
    """The product of 2 x 2 matrices on neighbouring wires, the first one most significant; None leaves a wire alone."""
    whole = torch.ones(*angles.shape[:-1], 1, 1, dtype=angles.dtype, device=angles.device)
    for factor in factors:
        if factor is None:
            factor = torch.eye(2, dtype=whole.dtype, device=whole.device)
        size = 2 * whole.shape[-1]
        whole = (whole[..., :, None, :, None] * factor[..., None, :, None, :]).reshape(*whole.shape[:-2], size, size)
    return whole
