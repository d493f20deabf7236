"""From a circuit to rotations about products of Pauli matrices, for sets of angles in the compiled simulator.

With an angle of its own for each sample, nothing is gained by multiplying gates out: every RX, RY and RZ stays a
rotation `exp(-i h P)` and gives its gradient on the spot. CNOT and SWAP only change which product P a later rotation is
about (`_passes.Frame`), fixed gates become fixed phases and turns by a constant.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

from ketune.circuits._gates import GATES, Matrix, Step
from ketune.circuits._layers import draft_layers
from ketune.circuits._light_cone import reaching_steps
from ketune.circuits._passes import Frame, Word, parity
from ketune.circuits.circuit import Circuit
from ketune.circuits.observables import pauli_z_words

FIXED, X, Y, Z = "fixed", "x", "y", "z"
_AXES = {"RX": X, "RY": Y, "RZ": Z}


@dataclass(frozen=True)
class Rotation:
    """`exp(-i h P)` with `h = factor * angle + offset`; or, for axis "fixed", constant phases of the rows.

    P flips the rows' addresses by `mask` (axes x and y) and changes sign with their parity under `parity` (y and z).
    Mask and parity belong to one wire: they are dual, so that the parity changes with the mask.
    """

    axis: str
    mask: int = 0
    parity: int = 0
    angle: int | None = None
    factor: float = 0.0
    offset: float = 0.0  # radians
    phases: tuple[tuple[int, float], ...] = ()  # of axis "fixed": parity and radians of the rows where it is odd

    @property
    def turns(self) -> bool:
        """Whether it mixes rows; the others multiply each row by a phase."""
        return self.axis in (X, Y)

    def commutes(self, other: Rotation) -> bool:
        """Whether the order of the two does not matter."""
        if not self.turns or not other.turns:
            turn, phases = (self, other) if self.turns else (other, self)
            return not turn.turns or not any(parity(turn.mask & mask) for mask in phases.parities())
        first = parity(self.mask & other.parity) if other.axis == Y else 0
        second = parity(self.parity & other.mask) if self.axis == Y else 0
        return first == second

    def parities(self) -> list[int]:
        """The parities that the phases of an axis that is not x or y depend on."""
        return [mask for mask, _ in self.phases] if self.axis == FIXED else [self.parity]


@dataclass(frozen=True)
class Rotations:
    """A circuit as rotations in the order of application.

    Attributes:
        n_wires: number of wires.
        steps: the rotations.
        words: the words of the readout as parities of rows; empty for probabilities.
        outputs: masks of the wires at the end.
        is_real: whether states stay real; then only turns about y and phases of 0 and pi occur.
    """

    n_wires: int
    steps: tuple[Rotation, ...]
    words: tuple[Word, ...]
    outputs: tuple[Word, ...]
    is_real: bool


def rotations_of(circuit: Circuit, readout: str | tuple[str, ...], from_zero: bool) -> Rotations:
    """The rotations of a circuit that reach a readout of squares.

    Args:
        circuit: the circuit.
        readout: "pauli_z", "probabilities" or a tuple of words of I and Z.
        from_zero: whether the state starts as |0...0>, of which leading phases change nothing.
    """
    n_wires, frame, steps = circuit.n_wires, Frame(circuit.n_wires), list[Rotation]()
    drafts = draft_layers(n_wires, reaching_steps(circuit, readout))
    for draft in drafts:
        for wire, slot in enumerate(draft.slots):
            steps += _slot_rotations(slot, frame.masks[wire], frame.parities[wire])
        for name, wires in draft.permutes:
            steps += _fixed([(mask, value) for mask, _, value in frame.permute(name, wires)])
    if from_zero:
        steps = _without_leading_phases(steps)
    steps = _without_leading_phases(steps[::-1])[::-1]  # phases at the end do not change squares
    letters = pauli_z_words(n_wires) if readout == "pauli_z" else readout
    return Rotations(
        n_wires=n_wires,
        steps=tuple(steps),
        words=() if readout == "probabilities" else tuple(frame.word(word) for word in letters),
        outputs=tuple(Word(mask, flips) for mask, flips in zip(frame.masks, frame.flips)),
        is_real=all(step.is_real for draft in drafts for slot in draft.slots for step in slot),
    )


def _slot_rotations(slot: list[Step], mask: int, parity: int) -> list[Rotation]:
    rotations, constant = list[Rotation](), _IDENTITY
    for step in slot:
        if step.angle is None:
            assert step.constant is not None
            constant = _product(step.constant, constant)
        elif step.name in _AXES:  # the others multiply the whole state
            rotations += _constant_rotations(constant, mask, parity)
            constant = _IDENTITY
            rotations.append(Rotation(_AXES[step.name], mask, parity, step.angle, step.factor / 2))
    return rotations + _constant_rotations(constant, mask, parity)


_IDENTITY: Matrix = ((1, 0), (0, 1))


def _product(left: Matrix, right: Matrix) -> Matrix:
    (a, b), (c, d) = left
    (e, f), (g, h) = right
    return ((a * e + b * g, a * f + b * h), (c * e + d * g, c * f + d * h))


def _constant_rotations(matrix: Matrix, mask: int, parity: int) -> list[Rotation]:
    """A fixed gate as phase, turn about y and phase: RZ RY RZ up to a phase of the whole state."""
    (a, b), (c, d) = matrix
    if (b, c) == (0, 0):
        before, half, after = cmath.phase(d / a), 0.0, 0.0
    else:
        root = cmath.sqrt(complex(a * d - b * c))
        half = math.atan2(abs(c), abs(a))
        half_difference = cmath.phase(c / root)
        # A flip has no sum; with this one the phases of a real matrix are 0 and pi.
        half_sum = -cmath.phase(a / root) if abs(a) > 1e-9 else half_difference
        before, after = half_sum - half_difference, half_sum + half_difference
    turn = [Rotation(Y, mask, parity, offset=half)] if half else []
    return _fixed([(parity, before)]) + turn + _fixed([(parity, after)])


def _fixed(phases: list[tuple[int, float]]) -> list[Rotation]:
    """Phases that stay together: those of a CZ are real only if none of them is dropped."""
    return [Rotation(FIXED, phases=tuple(phases))] if any(value for _, value in phases) else []


def _without_leading_phases(steps: list[Rotation]) -> list[Rotation]:
    """Without phases that can go before everything else."""
    kept = list[Rotation]()
    for step in steps:
        if step.turns or not all(step.commutes(other) for other in kept):
            kept.append(step)
    return kept


assert set(_AXES) | {"GPHASE"} == {name for name, spec in GATES.items() if spec.cosine is not None}
