"""Circuits from other tools: PennyLane, Qiskit, OpenQASM.

What is a parameter there becomes an angle here, what is a number there a constant of the circuit. PennyLane and Qiskit
come with the extra `devices`: `pip install "ketune[devices]"`; OpenQASM needs neither.
"""

from collections.abc import Sequence
from typing import Any

from ketune.circuits import _from_pennylane, _from_qiskit, _openqasm_reader
from ketune.circuits._imported import Imported


def from_pennylane(source: Any, *args: Any, wire_order: Sequence[Any] | None = None, **kwargs: Any) -> Imported:
    """A circuit from PennyLane.

    Parameters are what PennyLane trains: the arguments that require a gradient (torch tensors, arrays of
    `pennylane.numpy`). If none is marked so, they are all arguments that are floating-point numbers or arrays; of a
    tape, its `trainable_params`. All else is constant. Operations that we have no gate for are taken as a constant
    matrix on one or two wires, or decomposed by PennyLane, whose decompositions may drop a global phase. Measurements
    at the end are ignored.

    Args:
        source: a tape, an operator, or a quantum function, QNode or template, which is called with the other arguments.
        *args: arguments of a function.
        wire_order: PennyLane's wires in the order of ours. By default wire labels 0, 1, ... are our wires; of other
            labels the order of first use counts.
        **kwargs: keyword arguments of a function.

    Returns:
        the circuit, with names such as "weights[0,1]" for its angles.

    Raises:
        ImportError: without PennyLane, with the command that installs it.
        ImportingError: a ValueError for what is not a unitary circuit (measurements in the middle, classical control,
            noise, prepared states), and for angles that are not linear in the parameters.

    Example:
        >>> import torch
        >>> import pennylane as qml
        >>> from ketune.circuits import from_pennylane
        >>> def ansatz(weights):
        ...     qml.RY(weights[0], wires=0)
        ...     qml.CNOT(wires=[0, 1])
        ...     qml.RX(2 * weights[1], wires=1)
        >>> imported = from_pennylane(ansatz, torch.tensor([0.1, 0.2]))
        >>> imported.names, imported.circuit.count_gates()
        (('weights[0]', '2*weights[1]'), {'RY': 1, 'CNOT': 1, 'RX': 1})
    """
    traced = _from_pennylane.parameters_of(source, args, kwargs)
    return _from_pennylane.convert(*traced, wire_order)


def from_qiskit(circuit: Any) -> Imported:
    """A circuit from a `qiskit.QuantumCircuit`.

    Qiskit's qubit q becomes wire `n_wires - 1 - q`, so that basis states have the same index on both sides, as in
    `to_qiskit`. Free parameters are parameters, in Qiskit's order, without values. Gates that we have none for are
    taken as a constant matrix on one or two wires, or by Qiskit's definition. Final measurements and barriers are
    ignored.

    Args:
        circuit: the circuit.

    Raises:
        ImportError: without Qiskit, with the command that installs it.
        ImportingError: a ValueError for what is not a unitary circuit (measurements in the middle, resets, classical
            control, prepared states), and for angles that are not linear in the parameters.

    Example:
        >>> from qiskit import QuantumCircuit
        >>> from qiskit.circuit import Parameter
        >>> from ketune.circuits import from_qiskit
        >>> circuit = QuantumCircuit(2)
        >>> _ = circuit.ry(Parameter("theta"), 0)
        >>> _ = circuit.cx(0, 1)
        >>> from_qiskit(circuit).circuit.gates[0]
        Gate(name='RY', wires=(1,), angle=0, matrix=None)
    """
    return _from_qiskit.convert(circuit)


def from_openqasm3(text: str) -> Imported:
    """A circuit from an OpenQASM 3 program, or an OpenQASM 2 one. Needs no other library.

    Understood are registers of qubits, gates of `stdgates.inc` and `qelib1.inc`, gate definitions, the modifiers
    `ctrl`, `negctrl`, `inv` and `pow` (by an integer), inputs of type float or angle, and constants. Inputs are
    parameters without values; numbers are constants. Qubit k, in the order of declaration, becomes wire
    `n_wires - 1 - k`, as in `to_openqasm3`. `U` is Qiskit's `u`, which differs from the language's by a global phase.
    Measurements at the end and barriers are ignored.

    Args:
        text: the program.

    Raises:
        ImportingError: a ValueError that names the line, for what is not a unitary circuit (measurements in the middle,
            resets, classical control), for unknown gates and files, and for angles that are not linear in the inputs.

    Example:
        >>> from ketune.circuits import from_openqasm3
        >>> program = "input float t; qubit[2] q; ry(2 * t) q[1]; cx q[1], q[0];"
        >>> from_openqasm3(program).names, from_openqasm3(program).circuit.gates[0].wires
        (('2*t',), (0,))
    """
    return _openqasm_reader.read(text)
