"""Gates gathered into blocks on a few wires, so that a large state is passed over per block instead of per gate."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ketune.circuits.circuit import Circuit, Gate

if TYPE_CHECKING:
    from ketune.circuits._stages import AddressMap


class Block(NamedTuple):
    """Neighbouring gates on a few wires."""

    circuit: Circuit
    """The gates, on wires 0, 1, ... of their own, with angles numbered anew."""
    angles: tuple[int, ...]
    """Which of the circuit's angles they are."""
    move: tuple[int, ...] | AddressMap | None
    """How wires are reordered (`permute`) or basis states renamed before the block, None for neither."""
    first: int
    """Position of the block's first wire after that; its wires follow each other."""


class Blocks(NamedTuple):
    """A circuit as blocks, in the order of application."""

    blocks: tuple[Block, ...]
    move: tuple[int, ...] | AddressMap | None
    """The same in the end."""


@lru_cache(maxsize=64)
def fuse(circuit: Circuit, size: int) -> Blocks:
    """Gathers the gates of a circuit into blocks of at most `size` wires, greedily.

    A gate joins the earliest block that no later block on its wires shuts off and that has room for it. Gates on one
    wire wait for the next gate on two, because they cost nothing in its block.

    Args:
        circuit: the circuit.
        size: wires of a block, at least 2.
    """
    gathered = _gather(circuit, max(2, min(size, circuit.n_wires)))
    order = list(range(circuit.n_wires))
    blocks = []
    for gates, wires in gathered:
        places = sorted(order.index(wire) for wire in wires)
        move, first = None, places[0]
        if places[-1] - first >= len(places):
            rest = [place for place in range(circuit.n_wires) if place not in places]
            move, first = tuple(rest + places), len(rest)
            order = [order[place] for place in move]
        own = {wire: position for position, wire in enumerate(order[first : first + len(places)])}
        angles = tuple(dict.fromkeys(gate.angle for gate in gates if gate.angle is not None))
        inner = [
            Gate(
                gate.name,
                tuple(own[wire] for wire in gate.wires),
                None if gate.angle is None else angles.index(gate.angle),
                *([] if gate.matrix is None else [gate.matrix]),
            )
            for gate in gates
        ]
        blocks.append(Block(Circuit(len(places), tuple(inner)), angles, move, first))
    home = None if order == sorted(order) else tuple(order.index(wire) for wire in range(circuit.n_wires))
    return Blocks(tuple(blocks), home)


def _gather(circuit: Circuit, size: int) -> list[tuple[list[Gate], set[int]]]:
    blocks: list[tuple[list[Gate], set[int]]] = []
    latest = [-1] * circuit.n_wires  # the last block on each wire
    waiting: list[list[Gate]] = [[] for _ in range(circuit.n_wires)]

    def place(gates: list[Gate], wires: tuple[int, ...]) -> None:
        for number in range(max(0, *(latest[wire] for wire in wires)), len(blocks)):
            if len(blocks[number][1].union(wires)) <= size:
                break
        else:
            number = len(blocks)
            blocks.append(([], set()))
        blocks[number][0].extend(gates)
        blocks[number][1].update(wires)
        for wire in wires:
            latest[wire] = number

    for gate in circuit.gates:
        if len(gate.wires) == 1:
            waiting[gate.wires[0]].append(gate)
            continue
        place([other for wire in gate.wires for other in waiting[wire]] + [gate], gate.wires)
        for wire in gate.wires:
            waiting[wire] = []
    for wire, gates in enumerate(waiting):
        if gates:
            place(gates, (wire,))
    return blocks
