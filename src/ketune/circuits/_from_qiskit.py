"""From Qiskit's circuits to ours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ketune.circuits._gates import GATES
from ketune.circuits._imported import CircuitBuilder, Imported, ImportingError, Linear
from ketune.circuits._optional import library

_SAME = {"cx": "CNOT", "p": "PHASE", "u1": "PHASE", "cp": "CPHASE", "cu1": "CPHASE"}
_SAME |= {"rxx": "ISINGXX", "ryy": "ISINGYY", "rzz": "ISINGZZ"}
_SAME |= {name.lower(): name for name in GATES if name not in ("CNOT", "PHASE", "GPHASE", "CPHASE", "ISINGXY")}
_IDLE = ("barrier", "id", "delay")
_STATES = ("initialize", "state_preparation")


def convert(circuit: Any) -> Imported:
    """A `QuantumCircuit` as a circuit with Qiskit's qubit q on wire `n - 1 - q`."""
    library("qiskit")
    parameters = list(circuit.parameters)
    reader = _Reader(parameters)
    reader.read(circuit, range(circuit.num_qubits)[::-1])
    values = None if parameters else torch.zeros(0, dtype=torch.float64)
    return reader.builder.finish(circuit.num_qubits, values)


class _Reader:
    def __init__(self, parameters: Sequence[Any]) -> None:
        self.index = {parameter: k for k, parameter in enumerate(parameters)}
        self.builder = CircuitBuilder([parameter.name for parameter in parameters])

    def read(self, circuit: Any, wires: Sequence[int]) -> None:
        """Appends a circuit whose qubits lie on the given wires."""
        self._phase(self._linear(circuit.global_phase), wires)
        places = {qubit: wires[k] for k, qubit in enumerate(circuit.qubits)}
        measured: set[Any] = set()
        for instruction in circuit.data:
            operation = instruction.operation
            if operation.name == "measure":
                measured.update(instruction.qubits)
                continue
            again = operation.name != "barrier" and measured.intersection(instruction.qubits)
            if again or instruction.clbits or operation.name == "reset" or hasattr(operation, "blocks"):
                raise ImportingError(
                    f"Qiskit's {operation.name!r}: a circuit here is unitary, without measurements in the middle, "
                    "resets and classical control; take it apart and import the unitary parts"
                )
            self._gate(operation, [places[qubit] for qubit in instruction.qubits])

    def _phase(self, angle: Linear, wires: Sequence[int]) -> None:
        if angle.terms or angle.offset:
            self.builder.add("GPHASE", wires[:1], angle * 2.0)

    def _gate(self, operation: Any, wires: list[int]) -> None:
        name, add = operation.name, self.builder.add
        if name in _IDLE:
            return
        if name in _STATES:
            raise ImportingError(
                f"Qiskit's {name!r} prepares a state; import the gates after it and give the state as features to `run`"
            )
        angles = [self._linear(value) for value in operation.params] if self._is_known(operation) else []
        if name in _SAME and self._is_known(operation):
            add(_SAME[name], wires, *angles)
        elif name == "global_phase":
            self._phase(self._linear(operation.params[0]), [0])
        elif name in ("u", "u3") and angles:
            theta, phi, lam = angles
            for gate, angle in (("PHASE", lam), ("RY", theta), ("PHASE", phi)):
                add(gate, wires, angle)
        elif name == "xx_plus_yy" and angles and not angles[1].terms and not angles[1].offset:
            add("ISINGXY", wires, angles[0] * -1.0)
        elif len(wires) <= 2 and not any(getattr(value, "parameters", ()) for value in operation.params):
            add("U", wires[::-1], matrix=self._matrix(operation))
        elif operation.definition is not None:
            self.read(operation.definition, wires)
        else:
            raise ImportingError(f"Qiskit's {name!r} on {len(wires)} qubits has no definition by smaller gates")

    def _is_known(self, operation: Any) -> bool:
        # A user's own gate may carry a standard name; open controls hide behind the name of the closed ones.
        standard = library("qiskit.circuit.library.standard_gates").get_standard_gate_name_mapping()
        usual = standard.get(operation.name)
        if operation.name in ("u1", "u3", "cu1"):
            return True
        return usual is not None and operation.base_class is usual.base_class and self._is_closed(operation)

    @staticmethod
    def _is_closed(operation: Any) -> bool:
        n_controls = getattr(operation, "num_ctrl_qubits", 0)
        return not n_controls or operation.ctrl_state == 2**n_controls - 1

    @staticmethod
    def _matrix(operation: Any) -> Any:
        try:
            return np.asarray(library("qiskit.quantum_info").Operator(operation).data)
        except library("qiskit.exceptions").QiskitError as error:
            raise ImportingError(f"Qiskit's {operation.name!r} has no matrix: it is not a unitary gate") from error

    def _linear(self, value: Any) -> Linear:
        if not getattr(value, "parameters", ()):
            return Linear(offset=float(value))
        terms = {}
        for parameter in value.parameters:
            slope = value.gradient(parameter)
            if getattr(slope, "parameters", ()):
                raise ImportingError(
                    f"the angle {value} is not linear in its parameters; use a parameter for it and compute it outside"
                )
            terms[self.index[parameter]] = complex(slope).real
        offset = value.bind(dict.fromkeys(value.parameters, 0.0))
        return Linear.of(terms, complex(offset).real)
