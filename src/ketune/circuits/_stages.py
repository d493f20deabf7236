"""Large circuits as stages: one-wire gates on all wires as a few Kronecker products, then one map of addresses.

CNOT, CZ and SWAP only rename basis states and change signs. Taken together, those of an entangling layer cost one
gather of the state, and the one-wire gates between two entanglers cost one matrix product for every five wires,
whatever the wires they stand on. For ansätze on many wires this takes far fewer passes over a state than blocks of
neighbouring gates (`fuse`), and no wires are ever moved: when this was written, forward and backward of 20 wires and 6
layers of `rxryrz_ring` fell from 4.4 to 1.0 s of CPU time (`benchmarks/vqc_encoders.py --only timing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ketune.circuits._blocks import Block, Blocks, fuse
from ketune.circuits._gates import Step, elementary_steps
from ketune.circuits._layers import Draft, draft_layers, permutation
from ketune.circuits.circuit import Circuit, Gate

# Passes over a state of 20 wires in complex64, measured on an AMD EPYC (Zen 5), in units of a product with a 32 x 32
# matrix, 8 ms: a gather takes 11 ms, moving wires about 25 ms.
_GATHER = 1.5
_MOVE = 3.0
_FEW_STATES = 32  # more than these are small, and a loop over them would take longer than it saves


class AddressMap:
    """A signed permutation of the basis states, to be applied to states and taken back.

    Args:
        permutes: names and wires of CNOT, CZ and SWAP, in the order of application.
        n_wires: number of wires.
    """

    def __init__(self, permutes: Sequence[tuple[str, tuple[int, ...]]], n_wires: int) -> None:
        there, sign = permutation(list(permutes), n_wires)
        back = torch.empty_like(there)
        back[there] = torch.arange(len(there))
        signs = None if bool((sign > 0).all()) else sign
        # Signs belong to the source of an amplitude: before the gather there, after it on the way back.
        self._tables: dict[torch.device, tuple[Tensor, Tensor, Tensor | None]] = {
            there.device: (back.int(), there.int(), signs)
        }

    def apply(self, states: Tensor) -> Tensor:
        """(B, N) states behind the gates."""
        index, _, sign = self._on(states.device)
        return _gather(states if sign is None else states * sign.to(states.real.dtype), index)

    def undo(self, states: Tensor) -> Tensor:
        """(B, N) states before the gates."""
        _, index, sign = self._on(states.device)
        out = _gather(states, index)
        return out if sign is None else out * sign.to(states.real.dtype)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        if device not in self._tables:
            there, back, sign = next(iter(self._tables.values()))
            self._tables[device] = there.to(device), back.to(device), None if sign is None else sign.to(device)
        return self._tables[device]


def _gather(states: Tensor, index: Tensor) -> Tensor:
    if torch.is_grad_enabled() or states.dtype != torch.complex64:
        return states.index_select(1, index)
    # torch copies numbers of eight bytes three times as fast when it takes them for real, and in one dimension.
    as_real = states.contiguous().view(torch.float64)
    if len(states) > _FEW_STATES:
        return as_real.index_select(1, index).view(torch.complex64)
    out = torch.empty_like(as_real)
    for source, target in zip(as_real, out):
        torch.index_select(source, 0, index, out=target)
    return out.view(torch.complex64)


@lru_cache(maxsize=8)
def _address_map(permutes: tuple[tuple[str, tuple[int, ...]], ...], n_wires: int) -> AddressMap:
    return AddressMap(permutes, n_wires)


@lru_cache(maxsize=64)
def plan_passes(circuit: Circuit, size: int) -> Blocks:
    """The circuit as blocks of neighbouring gates or as stages, whichever takes less time.

    Args:
        circuit: the circuit.
        size: most wires of a matrix, at least 2.
    """
    blocks, stages = fuse(circuit, size), stage(circuit, size)
    return stages if stages is not None and _passes(stages) < _passes(blocks) else blocks


def _passes(plan: Blocks) -> float:
    moves = [block.move for block in plan.blocks] + [plan.move]
    return len(plan.blocks) + sum(_GATHER if isinstance(move, AddressMap) else _MOVE for move in moves if move)


def stage(circuit: Circuit, size: int) -> Blocks | None:
    """The circuit as stages; None where a gate turns by a part of its angle, as controlled rotations do."""
    steps = [step for gate in circuit.gates for step in elementary_steps(gate)]
    if any(step.angle is not None and step.factor != 1 for step in steps):
        return None
    n_wires = circuit.n_wires
    blocks: list[Block] = []
    waiting: list[tuple[str, tuple[int, ...]]] = []
    for draft in _merged(draft_layers(n_wires, steps)):
        for first in range(0, n_wires, size):
            wires = range(first, min(first + size, n_wires))
            inner = [step for wire in wires for step in draft.slots[wire]]
            if not inner:
                continue
            move = _address_map(tuple(waiting), n_wires) if waiting else None
            waiting = []
            blocks.append(_block(inner, wires, move))
        waiting += draft.permutes
    return Blocks(tuple(blocks), _address_map(tuple(waiting), n_wires) if waiting else None)


def _merged(drafts: Sequence[Draft]) -> list[Draft]:
    """Layers without permutations between them as one."""
    merged: list[Draft] = []
    for draft in drafts:
        if merged and not merged[-1].permutes:
            slots = [early + late for early, late in zip(merged[-1].slots, draft.slots)]
            merged[-1] = Draft(slots, draft.permutes)
        else:
            merged.append(draft)
    return merged


def _block(steps: Sequence[Step], wires: range, move: AddressMap | None) -> Block:
    angles = tuple(dict.fromkeys(step.angle for step in steps if step.angle is not None))
    gates = [
        Gate(
            step.name,
            tuple(wire - wires.start for wire in step.wires),
            None if step.angle is None else angles.index(step.angle),
            *([] if step.matrix is None else [step.matrix]),
        )
        for step in steps
    ]
    return Block(Circuit(len(wires), tuple(gates)), angles, move, wires.start)
