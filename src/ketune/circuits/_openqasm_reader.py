"""OpenQASM 3 and 2 programs as circuits: the part of the language that describes unitary circuits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ketune.circuits._gates import GATES
from ketune.circuits._imported import CircuitBuilder, Imported, ImportingError, Linear
from ketune.circuits._openqasm_words import CONSTANTS, Reader, Token, constant, expression, tokens_of
from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.simulate import simulate

_NATIVE = {"cx": "CNOT", "CX": "CNOT", "cnot": "CNOT", "p": "PHASE", "phase": "PHASE", "u1": "PHASE"}
_NATIVE |= {"cp": "CPHASE", "cphase": "CPHASE", "cu1": "CPHASE"}
_NATIVE |= {"rxx": "ISINGXX", "ryy": "ISINGYY", "rzz": "ISINGZZ", "isingxy": "ISINGXY"}
_NATIVE |= {name.lower(): name for name in GATES if name not in ("CNOT", "PHASE", "GPHASE", "CPHASE")}

# Gates of the standard libraries that we have none for. `U` is u3, as Qiskit reads it; the language's own U differs by
# a global phase.
_PRELUDE = """
gate u3(theta, phi, lambda) a { p(lambda) a; ry(theta) a; p(phi) a; }
gate U(theta, phi, lambda) a { u3(theta, phi, lambda) a; }
gate u(theta, phi, lambda) a { u3(theta, phi, lambda) a; }
gate u2(phi, lambda) a { u3(pi/2, phi, lambda) a; }
gate id a { }
gate sxdg a { inv @ sx a; }
gate csx a, b { ctrl @ sx a, b; }
gate ccx a, b, c {
  h c; cx b, c; tdg c; cx a, c; t c; cx b, c; tdg c; cx a, c; t b; t c; h c; cx a, b; t a; tdg b; cx a, b;
}
gate cswap a, b, c { cx c, b; ccx a, b, c; cx c, b; }
gate cu3(theta, phi, lambda) c, t {
  p((lambda+phi)/2) c; p((lambda-phi)/2) t; cx c, t; u3(-theta/2, 0, -(phi+lambda)/2) t; cx c, t; u3(theta/2, phi, 0) t;
}
gate cu(theta, phi, lambda, gamma) c, t { p(gamma) c; cu3(theta, phi, lambda) c, t; }
"""
_LIBRARIES = ("stdgates.inc", "qelib1.inc")
_TYPES = ("float", "angle", "int", "uint", "const")
_CLASSICAL = (
    "if",
    "else",
    "for",
    "while",
    "def",
    "defcal",
    "extern",
    "box",
    "switch",
    "return",
    "reset",
    "delay",
    "let",
)


class Operation(NamedTuple):
    """A gate of ours on qubits or wires."""

    name: str
    wires: tuple[int, ...]
    angle: Linear | None = None
    matrix: object = None


@dataclass
class _Definition:
    parameters: list[str]
    qubits: list[str]
    body: list[Token]


def read(text: str) -> Imported:
    """The program as a circuit; its qubit k, in the order of declaration, lies on wire `n - 1 - k`."""
    program = _Program()
    program.run(Reader(tokens_of(_PRELUDE)))
    program.run(Reader(tokens_of(text)))
    n_wires = sum(map(len, program.registers.values()))
    if not n_wires:
        raise ImportingError("the program declares no qubits; OpenQASM 3 has `qubit[n] name;`")
    builder = CircuitBuilder(program.inputs)
    for name, wires, angle, matrix in program.operations:
        builder.add(name, [n_wires - 1 - wire for wire in wires], angle, matrix)
    return builder.finish(n_wires, None if program.inputs else torch.zeros(0, dtype=torch.float64))


class _Program:
    def __init__(self) -> None:
        self.registers: dict[str, list[int]] = {}
        self.inputs: list[str] = []
        self.operations: list[Operation] = []
        self._values: dict[str, Linear] = {name: Linear(offset=value) for name, value in CONSTANTS.items()}
        self._definitions: dict[str, _Definition] = {}
        self._measured: set[int] = set()

    def run(self, reader: Reader) -> None:
        while reader.next.kind != "end":
            self._statement(reader)

    def _statement(self, reader: Reader) -> None:
        word = reader.next.text
        if word in _CLASSICAL:
            raise reader.error(
                f"{word!r}: a circuit here is unitary, without resets, classical control and subroutines; import the "
                "unitary parts"
            )
        if word in ("OPENQASM", "bit", "creg", "barrier", "pragma"):
            self._mark_measured(reader.until(";"))
        elif word == "include":
            reader.take()
            name = reader.take().text.strip('"')
            if name not in _LIBRARIES:
                raise reader.error(f"the file {name!r} is not known; paste its gate definitions into the program")
            reader.take(";")
        elif word in ("qubit", "qreg"):
            self._declare_qubits(reader)
        elif word == "input":
            self._declare_input(reader)
        elif word in _TYPES:
            *_, name = [token.text for token in reader.until("=") if token.kind == "word"]
            self._values[name] = expression(reader, self._values)
            reader.take(";")
        elif word == "gate":
            self._define(reader)
        elif word == "measure" or any(token.text == "measure" for token in self._rest(reader)):
            self._mark_measured(reader.until(";"))
        else:
            self._call(reader)

    @staticmethod
    def _rest(reader: Reader) -> list[Token]:
        """The tokens of this statement, left in place."""
        place = reader.place
        tokens = reader.until(";")
        reader.place = place
        return tokens

    def _declare_qubits(self, reader: Reader) -> None:
        reader.take()
        size = self._size(reader)
        name = reader.take().text
        size = self._size(reader) if size is None else size
        first = sum(map(len, self.registers.values()))
        self.registers[name] = list(range(first, first + (1 if size is None else size)))
        reader.take(";")

    def _size(self, reader: Reader) -> int | None:
        if not reader.accept("["):
            return None
        size = constant(reader, self._values)
        reader.take("]")
        return round(size)

    def _declare_input(self, reader: Reader) -> None:
        tokens = reader.until(";")
        if tokens[1].text not in ("float", "angle"):
            raise reader.error(f"an input of type {tokens[1].text!r}; inputs are angles, of type float or angle")
        name = tokens[-1].text
        self._values[name] = Linear(((len(self.inputs), 1.0),))
        self.inputs.append(name)

    def _define(self, reader: Reader) -> None:
        reader.take("gate")
        name = reader.take().text
        parameters = reader.names(")") if reader.accept("(") else []
        qubits = reader.names("{")
        definition = _Definition(parameters, qubits, reader.until("}"))
        if not self._is_native(name, definition):
            self._definitions[name] = definition

    def _is_native(self, name: str, definition: _Definition) -> bool:
        """True when the gate is one of ours, global phase included: ours then needs no taking apart."""
        ours = _NATIVE.get(name)
        n_qubits = len(definition.qubits)
        if ours is None or GATES[ours].n_wires != n_qubits or GATES[ours].has_angle != len(definition.parameters):
            return False
        native = Circuit(n_qubits, (Gate(ours, tuple(range(n_qubits)), 0 if definition.parameters else None),))
        for value in (0.7, -1.9):
            angles = [Linear(offset=value) for _ in definition.parameters]
            builder = CircuitBuilder(())
            for part, wires, angle, matrix in self._expand(definition, angles, range(n_qubits)):
                builder.add(part, wires, angle, matrix)
            written = _matrix(builder.finish(n_qubits, None).circuit)
            if abs(written - _matrix(native, [value] * native.n_angles)).max() > 1e-12:
                return False
        return True

    def _mark_measured(self, tokens: list[Token]) -> None:
        if not any(token.text == "measure" for token in tokens):
            return
        reader = Reader(tokens)
        reader.until("measure")
        if reader.next.text in self.registers:
            self._measured.update(self._operand(reader))

    # Gate calls

    def _call(self, reader: Reader) -> None:
        """A gate call at the top level; registers stand for all their qubits."""
        start = reader.place
        modifiers, name, angles = self._head(reader, self._values)
        operands: list[list[int]] = []
        while reader.next.text != ";":
            operands.append(self._operand(reader))
            if not reader.accept(","):
                break
        reader.take(";")
        reader.place, after = start, reader.place  # errors name the line where the call begins
        width = max(map(len, operands), default=1)
        if any(len(operand) not in (1, width) for operand in operands):
            raise reader.error(f"{name!r} on registers of different lengths")
        for k in range(width):
            qubits = [operand[k if len(operand) == width else 0] for operand in operands]
            if self._measured.intersection(qubits):
                raise reader.error(f"{name!r} after a measurement; a circuit here has no measurements in the middle")
            self.operations += self._apply(reader, modifiers, name, angles, qubits)
        reader.place = after

    def _head(self, reader: Reader, values: dict[str, Linear]) -> tuple[list[tuple[str, float]], str, list[Linear]]:
        modifiers: list[tuple[str, float]] = []
        while reader.next.text in ("ctrl", "negctrl", "inv", "pow"):
            modifier, amount = reader.take().text, 1.0
            if reader.accept("("):
                amount = constant(reader, values)
                reader.take(")")
            reader.take("@")
            if amount != round(amount):
                raise reader.error(f"{modifier}({amount:g}) @: the number must be an integer")
            modifiers.append((modifier, amount))
        token = reader.take()
        if token.kind != "word":
            reader.place -= 1
            raise reader.error(f"a statement cannot begin with {token.text!r}")
        angles: list[Linear] = []
        if reader.accept("("):
            while not reader.accept(")"):
                angles.append(expression(reader, values))
                reader.accept(",")
        return modifiers, token.text, angles

    def _operand(self, reader: Reader) -> list[int]:
        name = reader.take().text
        if name not in self.registers:
            reader.place -= 1
            raise reader.error(f"{name!r} is not a gate or qubit that we know")
        index = self._size(reader)
        qubits = self.registers[name]
        if index is None:
            return qubits
        if not -len(qubits) <= index < len(qubits):
            raise reader.error(f"{name}[{index}]: the register has {len(qubits)} qubits")
        return [qubits[index]]

    def _apply(
        self,
        reader: Reader,
        modifiers: Sequence[tuple[str, float]],
        name: str,
        angles: Sequence[Linear],
        qubits: Sequence[int],
    ) -> list[Operation]:
        if modifiers:
            (modifier, amount), *inner = modifiers
            if modifier == "inv":
                return _inverse(self._apply(reader, inner, name, angles, qubits))
            if modifier == "pow":
                operations = self._apply(reader, inner, name, angles, qubits)
                return (operations if amount >= 0 else _inverse(operations)) * abs(round(amount))
            inner = [(modifier, amount - 1), *inner] if amount > 1 else inner
            control, rest = qubits[0], qubits[1:]
            open_control = [Operation("X", (control,))] if modifier == "negctrl" else []
            operations = self._apply(reader, inner, name, angles, rest)
            controlled = [part for o in operations for part in self._controlled(reader, control, o)]
            return open_control + controlled + open_control
        if name == "gphase":
            return [Operation("GPHASE", (qubits[0] if qubits else 0,), angles[0] * 2.0)]
        definition = self._definitions.get(name)
        ours = _NATIVE.get(name)
        if definition is None and ours is None:
            raise reader.error(f"the gate {name!r} is not known; define it in the program or use gates of stdgates.inc")
        if definition is not None:
            wanted = len(definition.parameters), len(definition.qubits)
        else:
            assert ours is not None
            wanted = int(GATES[ours].has_angle), GATES[ours].n_wires
        if (len(angles), len(qubits)) != wanted or len(set(qubits)) != len(qubits):
            raise reader.error(f"{name!r} takes {wanted[0]} angle(s) and {wanted[1]} distinct qubit(s)")
        if definition is None:
            return [Operation(str(ours), tuple(qubits), angles[0] if angles else None)]
        return self._expand(definition, angles, qubits)

    def _expand(self, definition: _Definition, angles: Sequence[Linear], qubits: Sequence[int]) -> list[Operation]:
        values = self._values | dict(zip(definition.parameters, angles))
        places = dict(zip(definition.qubits, qubits))
        reader, operations = Reader(definition.body), []
        while reader.next.kind != "end":
            modifiers, name, given = self._head(reader, values)
            operands = reader.names(";")
            if unknown := [operand for operand in operands if operand not in places]:
                raise reader.error(f"{unknown[0]!r} is not a qubit of the gate")
            if name != "barrier":
                # A global phase inside a gate belongs to the gate's first qubit, should the gate be controlled.
                wires = [places[operand] for operand in operands] or [qubits[0]]
                operations += self._apply(reader, modifiers, name, given, wires)
        return operations

    def _controlled(self, reader: Reader, control: int, operation: Operation) -> list[Operation]:
        name, wires, angle, matrix = operation
        if name == "GPHASE":
            assert angle is not None
            return [Operation("PHASE", (control,), angle * 0.5)]
        if name == "CNOT":
            return self._apply(reader, [], "ccx", [], (control, *wires))
        if name == "SWAP":
            return self._apply(reader, [], "cswap", [], (control, *wires))
        if name == "CZ":
            turn = [Operation("H", wires[1:])]
            return turn + self._apply(reader, [], "ccx", [], (control, *wires)) + turn
        with_control = {"X": "CNOT", "Y": "CY", "Z": "CZ", "H": "CH", "PHASE": "CPHASE"}
        with_control |= {turn: f"C{turn}" for turn in ("RX", "RY", "RZ")}
        if name in with_control:
            return [Operation(with_control[name], (control, *wires), angle)]
        if len(wires) == 1 and angle is None:
            whole = np.eye(4, dtype=complex)
            whole[2:, 2:] = _matrix(Circuit(1, (Gate(name, (0,), matrix=matrix),)))  # type: ignore[arg-type]
            return [Operation("U", (control, *wires), None, whole)]
        raise reader.error(f"ctrl @ of {name!r}: give the controlled gate by a definition of its own")


def _matrix(circuit: Circuit, angles: Sequence[float] = ()) -> np.ndarray:
    eye = torch.eye(2**circuit.n_wires, dtype=torch.complex128)
    return simulate(circuit, torch.tensor(angles, dtype=torch.float64), eye).T.numpy()


def _inverse(operations: Sequence[Operation]) -> list[Operation]:
    inverted = []
    for name, wires, angle, matrix in reversed(operations):
        if angle is not None:
            inverted.append(Operation(name, wires, angle * -1.0))
        else:
            gate = Gate(name, tuple(range(len(wires))), matrix=matrix)  # type: ignore[arg-type]
            whole = _matrix(Circuit(len(wires), (gate,)))
            own = abs(whole @ whole - np.eye(len(whole))).max() < 1e-14
            inverted.append(
                Operation(name, wires, None, matrix) if own else Operation("U", wires, None, whole.conj().T)
            )
    return inverted
