"""The gate table: what each gate does, in the few forms that the simulator, the exports and the checks need.

Adding a gate is adding one entry. A gate is either a one-wire matrix, a two-wire signed permutation of the basis
states, or a short sequence of gates that are already in the table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from ketune.circuits._decompose import unitary_parts

if TYPE_CHECKING:
    from ketune.circuits.circuit import Gate

_S = 1 / math.sqrt(2)
_PHASE_T = complex(_S, _S)

Matrix = tuple[tuple[complex, complex], tuple[complex, complex]]
"""A one-wire matrix, rows first."""

Rows = tuple[tuple[complex, ...], ...]
"""A matrix of any size as nested tuples, rows first."""


class Step(NamedTuple):
    """One elementary gate: a rotation or fixed gate on one wire, or a signed permutation on two.

    Inside `GateSpec.steps` it is a template: `wires` are positions in the gate's wires, and `angle` is 0 where the step
    turns with the gate's angle.
    """

    name: str
    """A gate of the table without steps of its own, or "U" for a constant matrix."""
    wires: tuple[int, ...]
    angle: int | None = None
    """Index in the circuit's angle vector, None for a fixed step."""
    factor: float = 0.0
    """Factor on that angle; 0 for a fixed step."""
    matrix: Matrix | None = None
    """The matrix of a step named "U", else None."""

    @property
    def constant(self) -> Matrix | None:
        """The matrix of a fixed step on one wire, from the table or its own."""
        return self.matrix if self.matrix is not None else GATES[self.name].matrix

    @property
    def is_real(self) -> bool:
        """True when the matrix is real, whatever the angle."""
        return GATES[self.name].is_real if self.matrix is None else is_real_matrix(self.matrix)

    @property
    def is_diagonal(self) -> bool:
        """True for a step on one wire that turns only phases, whatever its angle."""
        if self.matrix is not None:
            return not (self.matrix[0][1] or self.matrix[1][0])
        return GATES[self.name].is_diagonal

    @property
    def permutes(self) -> bool:
        """True for a signed permutation of the basis states, which acts on two wires."""
        return self.matrix is None and GATES[self.name].permute is not None


def is_real_matrix(rows: Rows) -> bool:
    """True when no entry has an imaginary part."""
    return not any(complex(entry).imag for row in rows for entry in row)


@dataclass(frozen=True)
class GateSpec:
    """What the library knows about one gate.

    Exactly one of the following says what the gate does:

    - `cosine` and `sine`: a rotation on one wire, `U(t) = cos(t/2) cosine + sin(t/2) sine`;
    - `matrix`: a fixed gate on one wire;
    - `permute`: a fixed gate on two wires that maps each basis state to one basis state, up to a sign. Given the basis
      indices and the two bit positions (0 = least significant) it returns the new indices and the signs;
    - `steps`: a sequence of other gates.
    """

    n_wires: int
    has_angle: bool
    is_real: bool
    cosine: Matrix | None = None
    sine: Matrix | None = None
    matrix: Matrix | None = None
    permute: Callable[[torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor | None]] | None = None
    steps: tuple[Step, ...] | None = None

    @property
    def is_diagonal(self) -> bool:
        """True for a gate on one wire that turns only phases, whatever its angle."""
        matrices = [matrix for matrix in (self.cosine, self.sine, self.matrix) if matrix is not None]
        return bool(matrices) and not any(matrix[0][1] or matrix[1][0] for matrix in matrices)


def _move_cnot(index: torch.Tensor, control: int, target: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    return index ^ (((index >> control) & 1) << target), None


def _move_cz(index: torch.Tensor, first: int, second: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    return index, 1.0 - 2.0 * ((index >> first) & (index >> second) & 1).double()


def _move_swap(index: torch.Tensor, first: int, second: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    differ = ((index >> first) ^ (index >> second)) & 1
    return index ^ (differ << first) ^ (differ << second), None


_IDENTITY: Matrix = ((1, 0), (0, 1))


def _rotation(sine: Matrix, is_real: bool = False) -> GateSpec:
    return GateSpec(1, True, is_real, cosine=_IDENTITY, sine=sine)


def _fixed(matrix: Matrix, is_real: bool = False) -> GateSpec:
    return GateSpec(1, False, is_real, matrix=matrix)


def _sequence(n_wires: int, *steps: Step, is_real: bool = False) -> GateSpec:
    has_angle = any(step.angle is not None for step in steps)
    return GateSpec(n_wires, has_angle, is_real, steps=steps)


def _turn(name: str, wire: int, factor: float) -> Step:
    return Step(name, (wire,), 0, factor)


def _ry(wire: int, angle: float) -> Step:
    cosine, sine = math.cos(angle / 2), math.sin(angle / 2)
    return Step("U", (wire,), matrix=((cosine, -sine), (sine, cosine)))


_CNOT, _CZ = Step("CNOT", (0, 1)), Step("CZ", (0, 1))

GATES: dict[str, GateSpec] = {
    "RX": _rotation(((0, -1j), (-1j, 0))),
    "RY": _rotation(((0, -1), (1, 0)), is_real=True),
    "RZ": _rotation(((-1j, 0), (0, 1j))),
    "GPHASE": _rotation(((1j, 0), (0, 1j))),
    "PHASE": _sequence(1, _turn("GPHASE", 0, 1), _turn("RZ", 0, 1)),
    "H": _fixed(((_S, _S), (_S, -_S)), is_real=True),
    "X": _fixed(((0, 1), (1, 0)), is_real=True),
    "Y": _fixed(((0, -1j), (1j, 0))),
    "Z": _fixed(((1, 0), (0, -1)), is_real=True),
    "S": _fixed(((1, 0), (0, 1j))),
    "SDG": _fixed(((1, 0), (0, -1j))),
    "T": _fixed(((1, 0), (0, _PHASE_T))),
    "TDG": _fixed(((1, 0), (0, _PHASE_T.conjugate()))),
    "SX": _fixed(((0.5 + 0.5j, 0.5 - 0.5j), (0.5 - 0.5j, 0.5 + 0.5j))),
    "CNOT": GateSpec(2, False, True, permute=_move_cnot),
    "CZ": GateSpec(2, False, True, permute=_move_cz),
    "SWAP": GateSpec(2, False, True, permute=_move_swap),
    # Y = i X Z, and the phase i of the controlled Y is an S on the control.
    "CY": _sequence(2, _CZ, _CNOT, Step("S", (0,))),
    # H is a Z between two eighth turns.
    "CH": _sequence(2, _ry(1, -math.pi / 4), _CZ, _ry(1, math.pi / 4), is_real=True),
    "ISWAP": _sequence(2, Step("S", (0,)), Step("S", (1,)), _CZ, Step("SWAP", (0, 1))),
    "CRX": _sequence(2, _turn("RX", 1, 0.5), _CZ, _turn("RX", 1, -0.5), _CZ),
    "CRY": _sequence(2, _turn("RY", 1, 0.5), _CNOT, _turn("RY", 1, -0.5), _CNOT, is_real=True),
    "CRZ": _sequence(2, _turn("RZ", 1, 0.5), _CNOT, _turn("RZ", 1, -0.5), _CNOT),
    "CPHASE": _sequence(
        2, _turn("GPHASE", 0, 0.5), _turn("RZ", 0, 0.5), _turn("RZ", 1, 0.5), _CNOT, _turn("RZ", 1, -0.5), _CNOT
    ),
    # CNOT turns X on its control into XX, and CZ turns that into YY.
    "ISINGXX": _sequence(2, _CNOT, _turn("RX", 0, 1), _CNOT),
    "ISINGYY": _sequence(2, _CZ, _CNOT, _turn("RX", 0, 1), _CNOT, _CZ),
    "ISINGZZ": _sequence(2, _CNOT, _turn("RZ", 1, 1), _CNOT),
    # The CNOTs turn XX + YY into X (1 - Z), a rotation of wire 0 controlled by wire 1.
    "ISINGXY": _sequence(2, _CNOT, _turn("RX", 0, -0.5), _CZ, _turn("RX", 0, 0.5), _CZ, _CNOT),
}
"""Every gate by name. `RX(t) = exp(-i t X / 2)` and likewise RY, RZ; of two wires the first one controls.

`GPHASE(t) = exp(i t / 2)` multiplies the whole state, on whatever wire it stands; `PHASE(t) = diag(1, exp(i t))`;
`ISINGXX(t) = exp(-i t XX / 2)` and likewise YY, ZZ; `ISINGXY(t) = exp(i t (XX + YY) / 4)`, as in PennyLane. The gate
"U" is not in the table: it carries its matrix with it.
"""


def elementary_steps(gate: "Gate") -> tuple[Step, ...]:
    """The gate as steps that are one-wire gates or signed permutations, in the order of application.

    The product of the steps is the gate itself, global phase included.

    Args:
        gate: a gate of a circuit; the steps are on the circuit's wires and name its angle.
    """
    if gate.matrix is not None:
        parts = unitary_parts(gate.matrix)
        return tuple(
            Step(name, tuple(gate.wires[position] for position in positions), matrix=matrix)  # type: ignore[arg-type]
            for name, positions, matrix in parts
        )
    spec = GATES[gate.name]
    if spec.steps is None:
        return (Step(gate.name, gate.wires, gate.angle, 1.0 if spec.has_angle else 0.0),)
    return tuple(
        step._replace(
            wires=tuple(gate.wires[position] for position in step.wires),
            angle=None if step.angle is None else gate.angle,
        )
        for step in spec.steps
    )
