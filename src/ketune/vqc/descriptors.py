"""What a learned start is told about each angle: a row of numbers from the circuit alone, as long for every circuit.

The encoding of FLIP (F. Sauvage et al., "FLIP: A flexible initializer for arbitrarily-sized parametrized quantum
circuits", arXiv 2103.08572): the kind of the gate, where it stands and how large the circuit is. Of the paper only the
abstract was open to us, so the entries are our own choice. Three kinds of them are meant for use on circuits larger
than any seen in training: positions are shares of the whole, sizes enter as 1/size, which tends to a limit, and the
parity of a wire and the neighbours of a gate say locally what shares cannot.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache

import torch
from torch import Tensor

from ketune.circuits import Circuit, Gate

GATE_KINDS = (
    "RX", "RY", "RZ", "PHASE", "GPHASE", "CRX", "CRY", "CRZ", "CPHASE", "ISINGXX", "ISINGYY", "ISINGZZ", "ISINGXY",
)  # fmt: skip
"""Gates with an angle; the one-hot part of a row is in this order."""

_AXES = {"GPHASE": "", "PHASE": "Z", "CPHASE": "Z", "ISINGXX": "X", "ISINGYY": "Y", "ISINGZZ": "Z", "ISINGXY": "XY"}
_NEIGHBOURS = ("none", "x", "y", "z", "two_wire", "fixed")

DESCRIPTOR_NAMES: tuple[str, ...] = (
    *(f"is_{kind.lower()}" for kind in GATE_KINDS),
    *("axis_x", "axis_y", "axis_z", "two_wire", "controlled"),
    *("wire", "other_wire", "wire_sine", "wire_cosine", "other_sine", "other_cosine", "reach", "odd_wire", "odd_other"),
    *("time", "repeat", "odd_repeat"),
    *(f"before_{name}" for name in _NEIGHBOURS),
    *(f"after_{name}" for name in _NEIGHBOURS),
    *("one_over_wires", "one_over_repeats", "one_over_depth"),
)
"""What each entry of a row is; see `describe_angles`."""


def describe_angles(circuit: Circuit) -> Tensor:
    """A row of numbers for each angle of a circuit, the same numbers for circuits of every size.

    Of a gate on wire q of U wires (of two wires q is the first one): one-hot kind; axis of rotation; whether it has two
    wires, and controls; q / (U - 1), and of the second wire the same or -1; sine and cosine of 2 pi q / U for both;
    (second - first) / U; parities of both wires as 1 and -1; its time step as a share of the depth; which repeat of
    this gate on these wires it is, as a share and as a parity; the kinds of the gates before and after it on its first
    wire; 1/U, 1/(number of repeats), 1/depth. All entries lie in [-1, 1].

    An angle that several gates share, as in QAOA, gets the mean of their rows.

    Args:
        circuit: any circuit, of any number of wires.

    Returns:
        (n_angles, len(DESCRIPTOR_NAMES)) in float64; do not write to it, it is kept for the next call.

    Example:
        >>> from ketune.circuits import ry_ring
        >>> rows = describe_angles(ry_ring(3, 2))
        >>> rows.shape[0], rows[:, DESCRIPTOR_NAMES.index("repeat")].tolist()
        (6, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    """
    return _describe(circuit)


@lru_cache(maxsize=256)
def _describe(circuit: Circuit) -> Tensor:
    times, depth = _time_steps(circuit)
    repeats = Counter((gate.name, gate.wires) for gate in circuit.gates)
    before, after = _neighbours(circuit)
    seen: Counter[tuple[str, tuple[int, ...]]] = Counter()
    rows = torch.zeros(circuit.n_angles, len(DESCRIPTOR_NAMES), dtype=torch.float64)
    n_gates = torch.zeros(circuit.n_angles, dtype=torch.float64)
    for place, gate in enumerate(circuit.gates):
        key = (gate.name, gate.wires)
        ordinal = seen[key]
        seen[key] += 1
        if gate.angle is None:
            continue
        row = [
            *(float(gate.name == kind) for kind in GATE_KINDS),
            *_action(gate),
            *_place(gate, circuit.n_wires),
            *(_share(times[place], depth), _share(ordinal, repeats[key]), _parity(ordinal)),
            *(float(before[place] == name) for name in _NEIGHBOURS),
            *(float(after[place] == name) for name in _NEIGHBOURS),
            *(1 / circuit.n_wires, 1 / repeats[key], 1 / depth),
        ]
        rows[gate.angle] += torch.tensor(row, dtype=torch.float64)
        n_gates[gate.angle] += 1
    return rows / n_gates[:, None]


def _share(index: int, count: int) -> float:
    return index / (count - 1) if count > 1 else 0.0


def _parity(index: int) -> float:
    return -1.0 if index % 2 else 1.0


def _axes(gate: Gate) -> str:
    """The axes that a gate with an angle turns about, a part of "XYZ"."""
    return _AXES.get(gate.name, gate.name[-1])


def _action(gate: Gate) -> list[float]:
    axes = [float(letter in _axes(gate)) for letter in "XYZ"]
    return [*axes, float(len(gate.wires) == 2), float(gate.name in ("CRX", "CRY", "CRZ", "CPHASE"))]


def _place(gate: Gate, n_wires: int) -> list[float]:
    def circle(wire: int) -> tuple[float, float]:
        turn = 2 * math.pi * wire / n_wires
        return math.sin(turn), math.cos(turn)

    first, second = gate.wires[0], gate.wires[1] if len(gate.wires) == 2 else None
    if second is None:
        return [_share(first, n_wires), -1.0, *circle(first), 0.0, 0.0, 0.0, _parity(first), 0.0]
    shares = (_share(first, n_wires), _share(second, n_wires))
    reach = (second - first) / n_wires
    return [*shares, *circle(first), *circle(second), reach, _parity(first), _parity(second)]


def _time_steps(circuit: Circuit) -> tuple[list[int], int]:
    """When each gate runs if all start as early as their wires allow, from 0, and how many steps that takes."""
    busy = [0] * circuit.n_wires
    times = []
    for gate in circuit.gates:
        step = max(busy[wire] for wire in gate.wires)
        times.append(step)
        for wire in gate.wires:
            busy[wire] = step + 1
    return times, max(busy)


def _neighbours(circuit: Circuit) -> tuple[list[str], list[str]]:
    """The kinds of the gates before and after each gate on its first wire."""
    last: list[int | None] = [None] * circuit.n_wires
    before, after = ["none"] * len(circuit.gates), ["none"] * len(circuit.gates)
    for place, gate in enumerate(circuit.gates):
        previous = last[gate.wires[0]]
        if previous is not None:
            before[place] = _kind(circuit.gates[previous])
        for wire in gate.wires:
            earlier = last[wire]
            if earlier is not None and circuit.gates[earlier].wires[0] == wire:
                after[earlier] = _kind(gate)
            last[wire] = place
    return before, after


def _kind(gate: Gate) -> str:
    if len(gate.wires) == 2:
        return "two_wire"
    return _axes(gate).lower() or "fixed" if gate.angle is not None else "fixed"
