"""Blocks on two wires that loading circuits are made of: an entangler, then rotations of both wires."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ketune.circuits import Gate
from ketune.state_preparation.errors import LoadingError

_PAULIS = {
    "I": np.eye(2, dtype=complex),
    "X": np.array([[0, 1], [1, 0]], dtype=complex),
    "Y": np.array([[0, -1j], [1j, 0]], dtype=complex),
    "Z": np.diag([1, -1]).astype(complex),
}
_FIXED = {"CNOT": np.eye(4, dtype=complex)[[0, 1, 3, 2]], "CZ": np.diag([1, 1, 1, -1]).astype(complex)}


@dataclass(frozen=True)
class Block:
    """One kind of block, and the rotations that |0...0> meets before the first block.

    Args:
        name: what users call it.
        steps: gates in the order of application, as (name, wires of the two); each rotation has an angle of its own.
        start: names of the rotations of each wire in front of all blocks.
        n_cnots: CNOTs that one block takes on a machine with CNOT and one-wire gates.
        n_native: gates on two wires as they are written here.
    """

    name: str
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    start: tuple[str, ...]
    n_cnots: int
    n_native: int

    @cached_property
    def n_angles(self) -> int:
        """Angles of one block."""
        return sum(name not in _FIXED for name, _ in self.steps)

    @property
    def is_real(self) -> bool:
        """True when real states stay real, whatever the angles."""
        return self.start == ("RY",)

    def gates(self, wires: tuple[int, int], first_angle: int) -> list[Gate]:
        """The gates of one block on two wires, its angles counted from `first_angle`."""
        gates, angle = [], first_angle
        for name, positions in self.steps:
            on = tuple(wires[position] for position in positions)
            if name in _FIXED:
                gates.append(Gate(name, on))
            else:
                gates.append(Gate(name, on, angle))
                angle += 1
        return gates

    def matrices(self, angles: Tensor) -> Tensor:
        """The unitaries of blocks: (..., n_angles) angles in radians to (..., 4, 4) complex, the first wire more
        significant."""
        dtype = torch.promote_types(angles.dtype, torch.complex64)
        total: Tensor | None = None
        column = 0
        for name, positions in self.steps:
            if name in _FIXED:
                gate = torch.as_tensor(_FIXED[name], dtype=dtype, device=angles.device)
            else:
                half = angles[..., column, None, None] / 2
                generator = torch.as_tensor(_generator(name, positions), dtype=dtype, device=angles.device)
                unit = torch.eye(4, dtype=dtype, device=angles.device)
                gate = half.cos() * unit - 1j * half.sin() * generator
                column += 1
            total = gate if total is None else gate @ total
        assert total is not None
        return total.expand(*angles.shape[:-1], 4, 4)

    def product_states(self, angles: Tensor) -> Tensor:
        """What the start makes of |0>: (..., len(start)) angles to (..., 2) complex, per wire."""
        dtype = torch.promote_types(angles.dtype, torch.complex64)
        half = angles / 2
        state = torch.stack((half[..., 0].cos(), half[..., 0].sin()), -1).to(dtype)
        if self.start == ("RY", "RZ"):
            phase = torch.exp(1j * half[..., 1])
            state = state * torch.stack((phase.conj(), phase), -1)
        return state


def _generator(name: str, positions: tuple[int, ...]) -> np.ndarray:
    """The Pauli word P of a rotation exp(-i t P / 2), on both wires."""
    if name.startswith("ISING"):
        return np.kron(_PAULIS[name[5]], _PAULIS[name[6]])
    letters = ["I", "I"]
    letters[positions[0]] = name[1]
    return np.kron(_PAULIS[letters[0]], _PAULIS[letters[1]])


def _turns(*names: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, (wire,)) for wire in (0, 1) for name in names)


_CANONICAL = tuple((name, (0, 1)) for name in ("ISINGXX", "ISINGYY", "ISINGZZ"))

BLOCKS = {
    block.name: block
    for block in (
        Block("rzz", (("ISINGZZ", (0, 1)), *_turns("RY", "RZ")), ("RY", "RZ"), 2, 1),
        Block("cz", (("CZ", (0, 1)), *_turns("RY", "RZ")), ("RY", "RZ"), 1, 1),
        Block("cx", (("CNOT", (0, 1)), *_turns("RZ", "RY", "RZ")), ("RY", "RZ"), 1, 1),
        Block("su4", (*_CANONICAL, *_turns("RZ", "RY", "RZ")), ("RY", "RZ"), 3, 3),
        Block("so4", (("CZ", (0, 1)), *_turns("RY"), ("CZ", (0, 1)), *_turns("RY")), ("RY",), 2, 2),
    )
}
"""Kinds of blocks by name.

Behind rotations of every wire, "su4" and "so4" make any unitary and any real one of determinant 1 on their wires: the
rotations that a Cartan decomposition has in front of the entangler are those of the block before. In "rzz", "cz" and
"cx" turns about Z that commute with the next entangler are left out.
"""


def block_of(name: str) -> Block:
    """A kind of block by its name.

    Raises:
        LoadingError: for an unknown name.
    """
    if name not in BLOCKS:
        raise LoadingError(f"block={name!r}: unknown kind of block; choose one of {', '.join(map(repr, BLOCKS))}")
    return BLOCKS[name]
