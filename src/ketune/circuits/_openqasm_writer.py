"""OpenQASM 3 programs from circuits. Every gate is exact, global phase included."""

import cmath
import math

from ketune.circuits._gates import Matrix, elementary_steps
from ketune.circuits.circuit import Circuit, Gate

NAMES = {"CNOT": "cx", "PHASE": "p", "CPHASE": "cp", "ISINGXX": "rxx", "ISINGYY": "ryy", "ISINGZZ": "rzz"}
NAMES["ISINGXY"] = "isingxy"
DEFINITIONS = {
    "ISWAP": "gate iswap a, b { s a; s b; cz a, b; swap a, b; }",
    "ISINGXX": "gate rxx(t) a, b { cx a, b; rx(t) a; cx a, b; }",
    "ISINGYY": "gate ryy(t) a, b { cz a, b; cx a, b; rx(t) a; cx a, b; cz a, b; }",
    "ISINGZZ": "gate rzz(t) a, b { cx a, b; rz(t) b; cx a, b; }",
    "ISINGXY": "gate isingxy(t) a, b { cx a, b; rx(-t/2) a; cz a, b; rx(t/2) a; cz a, b; cx a, b; }",
}
"""Gates that the standard library of OpenQASM 3 lacks."""


def write(circuit: Circuit, values: list[float] | None) -> str:
    """The program; angles are input parameters `angle_0`, `angle_1`, ... when there are no values."""
    lines = ["OPENQASM 3.0;", 'include "stdgates.inc";']
    if values is None:
        lines += [f"input float[64] angle_{k};" for k in range(circuit.n_angles)]
    lines += [text for name, text in DEFINITIONS.items() if any(gate.name == name for gate in circuit.gates)]
    lines.append(f"qubit[{circuit.n_wires}] q;")
    for gate in circuit.gates:
        angle = None
        if gate.angle is not None:
            angle = f"angle_{gate.angle}" if values is None else repr(values[gate.angle])
        lines += _statements(gate, angle, circuit.n_wires)
    return "\n".join(lines) + "\n"


def _statements(gate: Gate, angle: str | None, n_wires: int) -> list[str]:
    if gate.name == "GPHASE":
        return [f"gphase({angle}/2);"]
    if gate.name != "U":
        return [_call(NAMES.get(gate.name, gate.name.lower()), gate.wires, n_wires, angle)]
    lines = []
    for step in elementary_steps(gate):
        if step.matrix is None:
            lines.append(_call(NAMES.get(step.name, step.name.lower()), step.wires, n_wires))
        else:
            phase, turns = euler_angles(step.matrix)
            lines += [_call(name, step.wires, n_wires, repr(turn)) for name, turn in turns if turn]
            lines += [f"gphase({phase!r});"] if phase else []
    return lines


def _call(name: str, wires: tuple[int, ...], n_wires: int, angle: str | None = None) -> str:
    qubits = ", ".join(f"q[{n_wires - 1 - wire}]" for wire in wires)
    return f"{name}{'' if angle is None else f'({angle})'} {qubits};"


def euler_angles(matrix: Matrix) -> tuple[float, list[tuple[str, float]]]:
    """A 2 x 2 unitary as a phase and the rotations RZ, RY, RZ in the order of application."""
    (a, b), (c, d) = matrix
    phase = cmath.phase(a * d - b * c) / 2
    low, high = d * cmath.exp(-1j * phase), c * cmath.exp(-1j * phase)
    total = 2 * cmath.phase(low) if abs(low) > 1e-15 else 0.0
    difference = 2 * cmath.phase(high) if abs(high) > 1e-15 else 0.0
    turn = 2 * math.atan2(abs(c), abs(a))
    if abs(high) <= 1e-15:
        return phase, [("rz", total)]
    return phase, [("rz", (total - difference) / 2), ("ry", turn), ("rz", (total + difference) / 2)]
