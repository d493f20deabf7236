"""Ansätze: functions that build the circuits of the literature.

The angles of a layered ansatz are an array of shape `(n_layers, n_wires, angles per wire)`, flattened in that order.
"""

from collections.abc import Callable

from ketune.circuits.circuit import Circuit, Gate

ENTANGLERS = ("ring", "linear", "none")
"""Names of the entanglers."""


def entangler_gates(n_wires: int, entangler: str) -> tuple[Gate, ...]:
    """The CNOTs of one entangling layer.

    `"linear"` is CNOT(0,1), CNOT(1,2), ..., CNOT(n-2,n-1); `"ring"` adds the closing CNOT(n-1,0); `"none"` is empty. On
    two wires the ring is the single CNOT(0,1), because closing it would only undo half of it; one wire has nothing to
    entangle. On four wires the ring maps |1000> to |0111> (Roh & Kim, SQUARE, arXiv 2609.37134).

    Raises:
        ValueError: for an unknown entangler.
    """
    if entangler not in ENTANGLERS:
        raise ValueError(f"entangler={entangler!r}: unknown entangler; choose one of {', '.join(ENTANGLERS)}")
    if entangler == "none":
        return ()
    chain = tuple(Gate("CNOT", (wire, wire + 1)) for wire in range(n_wires - 1))
    closing = (Gate("CNOT", (n_wires - 1, 0)),) if entangler == "ring" and n_wires > 2 else ()
    return chain + closing


def _layered(n_wires: int, n_layers: int, entangler: str, before: tuple[str, ...], after: tuple[str, ...]) -> Circuit:
    """Layers of rotations `before` on every wire, the entangler, rotations `after` on every wire."""
    if n_wires < 1:
        raise ValueError(f"n_wires={n_wires}: a circuit needs at least 1 wire")
    if n_layers < 1:
        raise ValueError(f"n_layers={n_layers}: an ansatz needs at least 1 layer")
    entangling = entangler_gates(n_wires, entangler)
    per_wire = len(before) + len(after)
    gates: list[Gate] = []
    for layer in range(n_layers):
        for names, offset in ((before, 0), (after, len(before))):
            for wire in range(n_wires):
                first = (layer * n_wires + wire) * per_wire + offset
                gates += [Gate(name, (wire,), first + k) for k, name in enumerate(names)]
            if offset == 0:
                gates += entangling
    return Circuit(n_wires, tuple(gates))


def ry_ring(n_wires: int, n_layers: int = 1, entangler: str = "ring") -> Circuit:
    """RY on every wire, then CNOTs; `n_layers * n_wires` angles. The circuit stays real.

    The circuit of QAA as its authors re-implement it (SQUARE, arXiv 2609.37134, table 28).

    Args:
        n_wires: number of wires.
        n_layers: how often the layer repeats, each time with its own angles.
        entangler: "ring", "linear" or "none", see `entangler_gates`.

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


ANSATZE: dict[str, Callable[..., Circuit]] = {
    "ry_ring": ry_ring,
    "ryrz_ring_ry": ryrz_ring_ry,
    "rxryrz_ring": rxryrz_ring,
}
"""Every ansatz by name; each takes `(n_wires, n_layers=1, entangler="ring")`."""
