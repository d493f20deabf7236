"""The gate table: what each gate does, in the few forms that the simulator, the exports and the checks need.

Adding a gate is adding one entry. A gate is either a one-wire matrix, a two-wire signed permutation of the basis
states, or a short sequence of gates that are already in the table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

_S = 1 / math.sqrt(2)
_PHASE_T = complex(_S, _S)

Matrix = tuple[tuple[complex, complex], tuple[complex, complex]]
"""A one-wire matrix, rows first."""

Step = tuple[str, tuple[int, ...], float]
"""One gate of a decomposition: name, positions in the parent's wires, factor on the parent's angle (0: no angle)."""


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


def _cnot(index: torch.Tensor, control: int, target: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    return index ^ (((index >> control) & 1) << target), None


def _cz(index: torch.Tensor, first: int, second: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    return index, 1.0 - 2.0 * ((index >> first) & (index >> second) & 1).double()


def _swap(index: torch.Tensor, first: int, second: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    differ = ((index >> first) ^ (index >> second)) & 1
    return index ^ (differ << first) ^ (differ << second), None


_IDENTITY: Matrix = ((1, 0), (0, 1))


def _rotation(sine: Matrix, is_real: bool = False) -> GateSpec:
    return GateSpec(1, True, is_real, cosine=_IDENTITY, sine=sine)


def _fixed(matrix: Matrix, is_real: bool) -> GateSpec:
    return GateSpec(1, False, is_real, matrix=matrix)


GATES: dict[str, GateSpec] = {
    "RX": _rotation(((0, -1j), (-1j, 0))),
    "RY": _rotation(((0, -1), (1, 0)), is_real=True),
    "RZ": _rotation(((-1j, 0), (0, 1j))),
    "H": _fixed(((_S, _S), (_S, -_S)), is_real=True),
    "X": _fixed(((0, 1), (1, 0)), is_real=True),
    "Y": _fixed(((0, -1j), (1j, 0)), is_real=False),
    "Z": _fixed(((1, 0), (0, -1)), is_real=True),
    "S": _fixed(((1, 0), (0, 1j)), is_real=False),
    "SDG": _fixed(((1, 0), (0, -1j)), is_real=False),
    "T": _fixed(((1, 0), (0, _PHASE_T)), is_real=False),
    "CNOT": GateSpec(2, False, True, permute=_cnot),
    "CZ": GateSpec(2, False, True, permute=_cz),
    "SWAP": GateSpec(2, False, True, permute=_swap),
    "CRX": GateSpec(
        2,
        True,
        False,
        steps=(
            ("H", (1,), 0),
            ("RZ", (1,), 0.5),
            ("CNOT", (0, 1), 0),
            ("RZ", (1,), -0.5),
            ("CNOT", (0, 1), 0),
            ("H", (1,), 0),
        ),
    ),
    "CRY": GateSpec(
        2, True, True, steps=(("RY", (1,), 0.5), ("CNOT", (0, 1), 0), ("RY", (1,), -0.5), ("CNOT", (0, 1), 0))
    ),
    "CRZ": GateSpec(
        2, True, False, steps=(("RZ", (1,), 0.5), ("CNOT", (0, 1), 0), ("RZ", (1,), -0.5), ("CNOT", (0, 1), 0))
    ),
}
"""Every gate by name. `RX(t) = exp(-i t X / 2)` and likewise RY, RZ; of two wires the first one controls."""


def elementary_steps(name: str) -> tuple[Step, ...]:
    """The gate as steps that are one-wire gates or signed permutations, in the order of application.

    Args:
        name: a key of `GATES`.
    """
    spec = GATES[name]
    if spec.steps is None:
        return ((name, tuple(range(spec.n_wires)), 1.0 if spec.has_angle else 0.0),)
    return spec.steps
