"""A circuit in numbers."""

from typing import Any

from ketune.circuits.analysis import entangling_capability, expressibility
from ketune.circuits.circuit import Circuit


def describe(circuit: Circuit, *, sample: bool = False) -> dict[str, Any]:
    """Sizes of a circuit, and what it can express.

    Args:
        circuit: the circuit.
        sample: also estimate `expressibility` and `entangling_capability` at random angles, which takes seconds for
            wide circuits.

    Returns:
        `n_wires`, `n_angles`, `n_gates`, `n_two_qubit`, `depth`, `is_real`, `gates` (count by name), and the two
        estimates if asked for.

    Example:
        >>> from ketune.circuits import ry_ring
        >>> describe(ry_ring(4))["gates"]
        {'RY': 4, 'CNOT': 4}
    """
    numbers: dict[str, Any] = {
        "n_wires": circuit.n_wires,
        "n_angles": circuit.n_angles,
        "n_gates": len(circuit.gates),
        "n_two_qubit": circuit.n_two_wire_gates,
        "depth": circuit.depth(),
        "is_real": circuit.is_real,
        "gates": circuit.count_gates(),
    }
    if sample:
        numbers["expressibility"] = expressibility(circuit)
        numbers["entangling_capability"] = entangling_capability(circuit)
    return numbers
