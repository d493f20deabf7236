"""Circuits for other tools: Qiskit, PennyLane, OpenQASM 3, and drawings made by those libraries.

Qiskit and PennyLane come with the extra `devices`: `pip install "ketune[devices]"`; OpenQASM needs neither.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from ketune.circuits._openqasm_writer import write
from ketune.circuits._optional import library
from ketune.circuits.circuit import Circuit

_QISKIT = {"CNOT": "cx", "PHASE": "p", "CPHASE": "cp", "ISINGXX": "rxx", "ISINGYY": "ryy", "ISINGZZ": "rzz"}
_STYLES = {"text": "text", "mpl": "mpl", "latex": "latex_source"}
_PENNYLANE = {
    "H": "Hadamard",
    "X": "PauliX",
    "Y": "PauliY",
    "Z": "PauliZ",
    "PHASE": "PhaseShift",
    "CPHASE": "ControlledPhaseShift",
    "ISINGXX": "IsingXX",
    "ISINGYY": "IsingYY",
    "ISINGZZ": "IsingZZ",
    "ISINGXY": "IsingXY",
}
_INVERSES = {"SDG": "S", "TDG": "T"}


def _angle_values(circuit: Circuit, angles: Tensor | None) -> list[float] | None:
    if angles is None:
        return None
    if tuple(angles.shape) != (circuit.n_angles,):
        raise ValueError(f"angles have shape {tuple(angles.shape)}; this circuit takes ({circuit.n_angles},)")
    return angles.detach().double().tolist()


def _qiskit_circuit(circuit: Circuit, angles: Tensor | None, qubit_of: list[int], register: str) -> Any:
    """A `QuantumCircuit` with wire w on qubit `qubit_of[w]`."""
    values: Any = _angle_values(circuit, angles)
    qiskit = library("qiskit")
    if values is None:
        values = library("qiskit.circuit").ParameterVector("angle", circuit.n_angles)
    result = qiskit.QuantumCircuit(qiskit.QuantumRegister(circuit.n_wires, register))
    for gate in circuit.gates:
        qubits = [qubit_of[wire] for wire in gate.wires]
        if gate.matrix is not None:
            result.unitary([list(row) for row in gate.matrix], qubits[::-1])
        elif gate.name == "GPHASE":
            result.append(library("qiskit.circuit.library").GlobalPhaseGate(values[gate.angle] / 2), [])
        elif gate.name == "ISINGXY":
            result.append(library("qiskit.circuit.library").XXPlusYYGate(-values[gate.angle]), qubits)
        else:
            method = getattr(result, _QISKIT.get(gate.name, gate.name.lower()))
            method(*([] if gate.angle is None else [values[gate.angle]]), *qubits)
    return result


def to_qiskit(circuit: Circuit, angles: Tensor | None = None) -> Any:
    """The circuit as a `qiskit.QuantumCircuit`.

    Qiskit counts qubit 0 as the least significant bit, we count wire 0 as the most significant, so wire w becomes qubit
    `n_wires - 1 - w`; then basis states have the same index on both sides, and `Statevector` agrees with `simulate`.

    Args:
        circuit: the circuit.
        angles: (n_angles,) values to bind; free parameters `angle[0]`, `angle[1]`, ... when None.

    Raises:
        ImportError: without Qiskit, with the command that installs it.
        ValueError: for angles of another shape.
    """
    return _qiskit_circuit(circuit, angles, list(range(circuit.n_wires))[::-1], "q")


def to_pennylane(circuit: Circuit) -> Callable[[Any], None]:
    """The circuit as a function that queues its gates inside a PennyLane QNode.

    Args:
        circuit: the circuit; its wires are PennyLane's wires 0, 1, ... in the same order of significance.

    Returns:
        a function of the angles, (..., n_angles) of any interface; leading dimensions broadcast as PennyLane's do.

    Raises:
        ImportError: without PennyLane, with the command that installs it.
    """
    qml = library("pennylane")

    def apply(angles: Any = ()) -> None:
        for gate in circuit.gates:
            wires = list(gate.wires)
            if gate.matrix is not None:
                qml.QubitUnitary(np.array(gate.matrix), wires=wires)
            elif gate.name in _INVERSES:
                qml.adjoint(getattr(qml, _INVERSES[gate.name])(wires=wires))
            elif gate.name == "GPHASE":
                qml.GlobalPhase(-angles[..., gate.angle] / 2, wires=wires)
            else:
                operation = getattr(qml, _PENNYLANE.get(gate.name, gate.name))
                operation(*([] if gate.angle is None else [angles[..., gate.angle]]), wires=wires)

    return apply


def to_openqasm3(circuit: Circuit, angles: Tensor | None = None) -> str:
    """The circuit as an OpenQASM 3 program; wires are reversed as in `to_qiskit`. Needs no other library.

    Gates that the language's standard library lacks are defined in the program; arbitrary matrices are written as
    rotations, CNOT and CZ. The program is exact up to and including the global phase.

    Args:
        circuit: the circuit.
        angles: (n_angles,) values to bind; input parameters `angle_0`, `angle_1`, ... when None.

    Raises:
        ValueError: for angles of another shape.
    """
    return write(circuit, _angle_values(circuit, angles))


def draw(circuit: Circuit, angles: Tensor | None = None, style: str = "text") -> Any:
    """A drawing of the circuit by Qiskit, with our own numbers on the wires and wire 0 on top.

    Args:
        circuit: the circuit.
        angles: (n_angles,) values to show; their names when None.
        style: "text" (a string), "mpl" (a matplotlib figure) or "latex" (the source, a string).

    Raises:
        ImportError: without Qiskit, with the command that installs it.
        ValueError: for an unknown style or angles of another shape.
    """
    if style not in _STYLES:
        raise ValueError(f"style={style!r}: unknown style; choose one of {', '.join(map(repr, _STYLES))}")
    named = _qiskit_circuit(circuit, angles, list(range(circuit.n_wires)), "wire")
    drawing = named.draw(_STYLES[style], fold=-1)
    return str(drawing) if style == "text" else drawing
