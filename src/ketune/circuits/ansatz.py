"""Ansätze: functions that build the circuits of the literature.

The angles of a layered ansatz are an array of shape `(n_layers, n_wires, angles per wire)`, flattened in that order.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

from ketune.circuits.circuit import Circuit, Gate

ENTANGLERS = ("ring", "linear", "brick", "all", "none")
"""Names of the entanglers."""


def entangler_gates(n_wires: int, entangler: str) -> tuple[Gate, ...]:
    """The CNOTs of one entangling layer.

    `"linear"` is CNOT(0,1), CNOT(1,2), ..., CNOT(n-2,n-1); `"ring"` adds the closing CNOT(n-1,0); `"brick"` has the
    pairs of "linear" in two steps, (0,1), (2,3), ... and then (1,2), (3,4), ...; `"all"` is CNOT(a,b) for every a < b;
    `"none"` is empty. On two wires the ring is the single CNOT(0,1), because closing it would only undo half of it; one
    wire has nothing to entangle. On four wires the ring maps |1000> to |0111> (Roh & Kim, SQUARE, arXiv 2609.37134).

    Raises:
        ValueError: for an unknown entangler.
    """
    if entangler not in ENTANGLERS:
        raise ValueError(f"entangler={entangler!r}: unknown entangler; choose one of {', '.join(ENTANGLERS)}")
    return tuple(Gate("CNOT", pair) for pair in _pairs(n_wires, entangler))


def _pairs(n_wires: int, entangler: str) -> list[tuple[int, int]]:
    if entangler == "none":
        return []
    if entangler == "all":
        return list(combinations(range(n_wires), 2))
    chain = [(wire, wire + 1) for wire in range(n_wires - 1)]
    if entangler == "brick":
        return chain[0::2] + chain[1::2]
    return chain + [(n_wires - 1, 0)] if entangler == "ring" and n_wires > 2 else chain


def _check_size(n_wires: int, n_layers: int) -> None:
    if n_wires < 1:
        raise ValueError(f"n_wires={n_wires}: a circuit needs at least 1 wire")
    if n_layers < 1:
        raise ValueError(f"n_layers={n_layers}: an ansatz needs at least 1 layer")


def _layered(n_wires: int, n_layers: int, entangler: str, before: tuple[str, ...], after: tuple[str, ...]) -> Circuit:
    """Layers of rotations `before` on every wire, the entangler, rotations `after` on every wire."""
    _check_size(n_wires, n_layers)
    entangling = entangler_gates(n_wires, entangler)
    per_wire = len(before) + len(after)
    gates: list[Gate] = []
    for layer in range(n_layers):
        for names, offset, following in ((before, 0, entangling), (after, len(before), ())):
            for wire in range(n_wires):
                first = (layer * n_wires + wire) * per_wire + offset
                gates += [Gate(name, (wire,), first + k) for k, name in enumerate(names)]
            gates += following
    return Circuit(n_wires, tuple(gates))


def ry_ring(n_wires: int, n_layers: int = 1, entangler: str = "ring") -> Circuit:
    """RY on every wire, then CNOTs; `n_layers * n_wires` angles. The circuit stays real.

    The circuit of QAA as its authors re-implement it (SQUARE, arXiv 2609.37134, table 28).

    Args:
        n_wires: number of wires.
        n_layers: how often the layer repeats, each time with its own angles.
        entangler: "ring", "linear", "brick", "all" or "none", see `entangler_gates`.

    Raises:
        ValueError: for an unknown entangler or fewer than one wire or layer.

    Example:
        >>> ry_ring(4).count_gates()
        {'RY': 4, 'CNOT': 4}
    """
    return _layered(n_wires, n_layers, entangler, ("RY",), ())


def ryrz_ring_ry(n_wires: int, n_layers: int = 1, entangler: str = "ring") -> Circuit:
    """RY and RZ on every wire, CNOTs, then RY on every wire; `n_layers * n_wires * 3` angles.

    The default of SQUARE (arXiv 2609.37134). Arguments and errors as `ry_ring`.
    """
    return _layered(n_wires, n_layers, entangler, ("RY", "RZ"), ("RY",))


def rxryrz_ring(n_wires: int, n_layers: int = 1, entangler: str = "ring") -> Circuit:
    """RX, RY and RZ on every wire, then CNOTs; `n_layers * n_wires * 3` angles.

    The general layer of hardware-efficient ansätze (Kandala et al., Nature 549, 242, 2017, with CNOTs on a ring).
    Arguments and errors as `ry_ring`.
    """
    return _layered(n_wires, n_layers, entangler, ("RX", "RY", "RZ"), ())


def ring_rxryrz(n_wires: int, n_layers: int = 1, entangler: str = "ring") -> Circuit:
    """CNOTs, then RX, RY and RZ on every wire; `n_layers * n_wires * 3` angles: `rxryrz_ring` in the other order.

    The circuit of TTN-VQC as first released (arXiv 2206.04804); its authors' later code has `rxryrz_ring`. Arguments
    and errors as `ry_ring`.
    """
    return _layered(n_wires, n_layers, entangler, (), ("RX", "RY", "RZ"))


def rot_gates(wire: int, first_angle: int) -> tuple[Gate, Gate, Gate]:
    """The general rotation `RZ(c) RY(b) RZ(a)` of one wire, PennyLane's `Rot(a, b, c)`, from three angles in a row.

    Args:
        wire: the wire.
        first_angle: index of a; b and c are the next two.

    Example:
        >>> [gate.name for gate in rot_gates(0, 0)]
        ['RZ', 'RY', 'RZ']
    """
    names = ("RZ", "RY", "RZ")
    a, b, c = (Gate(name, (wire,), first_angle + k) for k, name in enumerate(names))
    return a, b, c


def strongly_entangling(n_wires: int, n_layers: int = 1, ranges: Sequence[int] | None = None) -> Circuit:
    """General rotations on every wire, then CNOTs over a distance that changes from layer to layer.

    Schuld et al., "Circuit-centric quantum classifiers", Physical Review A 101, 032308 (2020), as PennyLane's
    `StronglyEntanglingLayers`, whose weights, flattened, are the angles: `n_layers * n_wires * 3` of them.

    Args:
        n_wires: number of wires.
        n_layers: how often the layer repeats.
        ranges: for each layer the distance r: the control is wire w, the target wire (w + r) modulo `n_wires`. By
            default 1, 2, ..., `n_wires - 1`, 1, 2, ...

    Raises:
        ValueError: for fewer than one wire or layer, or distances that do not fit.
    """
    _check_size(n_wires, n_layers)
    if ranges is None:
        ranges = [layer % max(1, n_wires - 1) + 1 for layer in range(n_layers)]
    elif len(ranges) != n_layers or any(r % n_wires == 0 for r in ranges):
        raise ValueError(f"ranges={list(ranges)}: give {n_layers} distances, none a multiple of {n_wires} wires")
    gates: list[Gate] = []
    for layer, distance in enumerate(ranges):
        for wire in range(n_wires):
            gates += rot_gates(wire, 3 * (layer * n_wires + wire))
        if n_wires > 1:
            gates += [Gate("CNOT", (wire, (wire + distance) % n_wires)) for wire in range(n_wires)]
    return Circuit(n_wires, tuple(gates))


def simplified_two_design(n_wires: int, n_layers: int = 1) -> Circuit:
    """RY on every wire, then layers of CZ on neighbours, each followed by RY on both wires, in two steps as bricks.

    Cerezo et al., "Cost function dependent barren plateaus in shallow parametrized quantum circuits", Nature
    Communications 12, 1791 (2021), as PennyLane's `SimplifiedTwoDesign`: the angles are its `initial_layer_weights` and
    then its `weights`, flattened, `n_wires + n_layers * (n_wires - 1) * 2` in all. The circuit stays real.

    Args:
        n_wires: number of wires.
        n_layers: how often the layer repeats.

    Raises:
        ValueError: for fewer than one wire or layer.
    """
    _check_size(n_wires, n_layers)
    gates = [Gate("RY", (wire,), wire) for wire in range(n_wires)]
    n_angles = n_wires
    for _ in range(n_layers):
        for a, b in _pairs(n_wires, "brick"):
            gates += [Gate("CZ", (a, b)), Gate("RY", (a,), n_angles), Gate("RY", (b,), n_angles + 1)]
            n_angles += 2
    return Circuit(n_wires, tuple(gates))


def crz_ring(n_wires: int, n_layers: int = 1) -> Circuit:
    """RY on every wire, then CRZ from each wire to the next, closing the ring; `2 * n_layers * n_wires` angles.

    The two halves of circuit 13 of Sim et al. (arXiv 1905.10876) are of this kind. The angles are an array
    `(n_layers, 2, n_wires)`: first those of RY, then those of CRZ. One wire has no CRZ, two have one.

    Args:
        n_wires: number of wires.
        n_layers: how often the layer repeats.

    Raises:
        ValueError: for fewer than one wire or layer.
    """
    _check_size(n_wires, n_layers)
    gates: list[Gate] = []
    n_angles = 0
    for _ in range(n_layers):
        for name, places in (("RY", [(w,) for w in range(n_wires)]), ("CRZ", _pairs(n_wires, "ring"))):
            gates += [Gate(name, wires, n_angles + k) for k, wires in enumerate(places)]
            n_angles += len(places)
    return Circuit(n_wires, tuple(gates))


def crz_two_rings(n_wires: int, n_layers: int = 1) -> Circuit:
    """CRZ from each wire to the next, RY, CRZ from each wire to the one before, RY; `4 * n_layers * n_wires` angles.

    The trained part of QTHA's circuit, circuit 14 of Sim et al. (arXiv 1905.10876) with CRZ for CRX. Both rings close
    over the ends, on two wires too. The angles are an array `(n_layers, 4, n_wires)` in the order of the gates, CRZ by
    its control. One wire has no CRZ, and two angles per layer.

    Args:
        n_wires: number of wires.
        n_layers: how often the layer repeats.

    Raises:
        ValueError: for fewer than one wire or layer.
    """
    _check_size(n_wires, n_layers)
    gates: list[Gate] = []
    n_angles = 0
    for _ in range(n_layers):
        for step in (1, -1):
            ring = [(wire, (wire + step) % n_wires) for wire in range(n_wires)] if n_wires > 1 else []
            for name, places in (("CRZ", ring), ("RY", [(wire,) for wire in range(n_wires)])):
                gates += [Gate(name, wires, n_angles + k) for k, wires in enumerate(places)]
                n_angles += len(places)
    return Circuit(n_wires, tuple(gates))


def with_uploads(layers: Sequence[Circuit]) -> tuple[Circuit, list[list[int]]]:
    """The circuits one after another, with RY(x_q) on every wire q before each: data re-uploading.

    Pérez-Salinas et al., "Data re-uploading for a universal quantum classifier", Quantum 4, 226 (2020).

    Args:
        layers: circuits on the same wires.

    Returns:
        The circuit, and for each feature the angles that it is, one per layer: the `feature_angles` of `QuantumLayer`
        with encoding "reuploading". The other angles keep their order.

    Raises:
        ValueError: for no circuit, or circuits on different numbers of wires.

    Example:
        >>> circuit, feature_angles = with_uploads([ry_ring(2), ry_ring(2)])
        >>> feature_angles
        [[0, 4], [1, 5]]
    """
    if not layers:
        raise ValueError("with_uploads([]): give at least one circuit to upload in front of")
    n_wires = layers[0].n_wires
    upload = Circuit(n_wires, tuple(Gate("RY", (wire,), wire) for wire in range(n_wires)))
    whole = Circuit(n_wires, ())
    feature_angles: list[list[int]] = [[] for _ in range(n_wires)]
    for layer in layers:
        for wire in range(n_wires):
            feature_angles[wire].append(whole.n_angles + wire)
        whole = whole + upload + layer
    return whole, feature_angles


ANSATZE: dict[str, Callable[..., Circuit]] = {
    "ry_ring": ry_ring,
    "ryrz_ring_ry": ryrz_ring_ry,
    "rxryrz_ring": rxryrz_ring,
}
"""Every ansatz by name; each takes `(n_wires, n_layers=1, entangler="ring")`."""
