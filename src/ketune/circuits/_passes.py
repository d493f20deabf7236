"""From a circuit to stages of the native simulator: phases of all basis states, then turns of single wires.

Three facts make every circuit of the gate table a list of such stages.

- A CNOT or SWAP maps basis states linearly over GF(2). It costs nothing here: we only note, for each wire, which bits
  of a row's address flip with it (its mask) and which bits' parity is its value (its parity mask).
- A one-wire matrix is RZ RY RZ up to a global phase, and all that is diagonal between two turns is one vector of
  phases.
- A turn with |tan| above 1 is a bit flip and a turn with |tan| below 1. So a turn is two multiply-adds for two numbers,
  `(a - t b, b + t a)`, and its cosine goes into the phases before it. Which wires are flipped depends on the angles; it
  changes signs only (`flips`: the slots whose flip changes the sign, as bits of an integer).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import torch

from ketune.circuits._gates import GATES
from ketune.circuits._layers import Draft, Slot
from ketune.circuits.observables import pauli_z_words

DIAGONAL, REAL, GENERAL = "diagonal", "real", "general"


@dataclass(frozen=True)
class Turn:
    """`(a - t b, b + t a)` on pairs of rows that differ by `mask`; b has odd parity under `parity`."""

    slot: int
    mask: int
    parity: int
    flips: int
    measures_x: bool  # whether its gradient needs the generator X beside Y


@dataclass(frozen=True)
class Phase:
    """A phase of the rows whose address has odd parity under `parity`."""

    parity: int
    flips: int
    part: str  # "lead", "trail" (before and after the turn of a slot), "diagonal" (all of a slot) or "fixed"
    slot: int = -1
    value: float = 0.0  # radians, of a fixed one


@dataclass
class Stage:
    """Phases, then turns, which all commute."""

    phases: list[Phase] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)


@dataclass(frozen=True)
class Word:
    """A product of Z: the parity of a row's address under `parity`."""

    parity: int
    flips: int


class Frame:
    """Where the value of each wire stands in the address of a row."""

    def __init__(self, n_wires: int) -> None:
        bits = [1 << (n_wires - 1 - wire) for wire in range(n_wires)]
        self.masks, self.parities, self.flips = list(bits), list(bits), [0] * n_wires

    def cnot(self, control: int, target: int) -> None:
        """Target becomes target + control."""
        self.parities[target] ^= self.parities[control]
        self.flips[target] ^= self.flips[control]
        self.masks[control] ^= self.masks[target]

    def swap(self, first: int, second: int) -> None:
        """Exchanges two wires."""
        for values in (self.masks, self.parities, self.flips):
            values[first], values[second] = values[second], values[first]

    def permute(self, name: str, wires: tuple[int, ...]) -> list[tuple[int, int, float]]:
        """A signed permutation of two wires, known by what it does to the four basis states.

        Returns:
            the phases that give its signs: parity, flips and radians of each.
        """
        permute = GATES[name].permute
        assert permute is not None
        moved, signs = permute(torch.arange(4), 1, 0)
        goes_to, phases = tuple(moved.tolist()), []
        if signs is not None:
            phases = self._signs(wires, [0.0 if sign > 0 else torch.pi for sign in signs.tolist()])
        if goes_to == (0, 1, 3, 2):
            self.cnot(*wires)
        elif goes_to == (0, 2, 1, 3):
            self.swap(*wires)
        elif goes_to != (0, 1, 2, 3):
            raise NotImplementedError(f"the native simulator does not know the permutation {name}")
        return phases

    def _signs(self, wires: tuple[int, ...], phases: list[float]) -> list[tuple[int, int, float]]:
        """Phases of the four basis states of two wires as phases of parities: a product of bits is half of their sum
        without the parity of both."""
        none, second, first, both = phases
        a, b = wires
        joint = both - first - second + none
        result = [
            (self.parities[a], self.flips[a], first - none + joint / 2),
            (self.parities[b], self.flips[b], second - none + joint / 2),
            (self.parities[a] ^ self.parities[b], self.flips[a] ^ self.flips[b], -joint / 2),
        ]
        return [phase for phase in result if phase[2]]

    def word(self, letters: str) -> Word:
        """The word of Pauli letters I and Z."""
        parity = flips = 0
        for wire, letter in enumerate(letters):
            if letter != "I":
                parity ^= self.parities[wire]
                flips ^= self.flips[wire]
        return Word(parity, flips)


def split_slot(slot: Slot) -> list[tuple[str, Slot]]:
    """A slot as pieces of one kind each: diagonal, real and diagonal again where that is possible, else one general."""
    if all(step.is_real for step in slot):
        return [(REAL, slot)]
    start, stop = 0, len(slot)
    while start < stop and slot[start].is_diagonal:
        start += 1
    while stop > start and slot[stop - 1].is_diagonal:
        stop -= 1
    if not all(step.is_real for step in slot[start:stop]):
        return [(GENERAL, slot)]
    pieces = [(DIAGONAL, slot[:start]), (REAL, slot[start:stop]), (DIAGONAL, slot[stop:])]
    return [(kind, part) for kind, part in pieces if part]


class Passes:
    """A circuit as stages.

    Args:
        drafts: the circuit's layers.
        n_wires: number of wires.
        readout: "pauli_z", "probabilities" or a tuple of words of I and Z.

    Attributes:
        slots: the pieces that have a matrix, in the order of application, with the kind of each.
        stages: the stages; every one but perhaps none has turns.
        words: the words of the readout; empty for probabilities.
        outputs: masks and flips of the wires at the end.
        is_real: whether states stay real.
    """

    def __init__(self, drafts: list[Draft], n_wires: int, readout: str | tuple[str, ...]) -> None:
        self.n_wires = n_wires
        self.slots: list[tuple[str, Slot]] = []
        self.stages: list[Stage] = []
        self.is_real = all(step.is_real for draft in drafts for slot in draft.slots for step in slot)
        self._frame, self._pending = Frame(n_wires), list[Phase]()
        for draft in drafts:
            self._add_slots(draft)
            for name, wires in draft.permutes:
                for mask, flips, value in self._frame.permute(name, wires):
                    self._pending.append(Phase(mask, flips, "fixed", value=value))
        # Phases that no turn follows do not change squares: they are dropped.
        letters = pauli_z_words(n_wires) if readout == "pauli_z" else readout
        self.words = [] if readout == "probabilities" else [self._frame.word(word) for word in letters]
        self.outputs = [Word(mask, flips) for mask, flips in zip(self._frame.masks, self._frame.flips)]

    def _add_slots(self, draft: Draft) -> None:
        frame, turns, after = self._frame, list[Turn](), list[Phase]()
        for wire, slot in enumerate(draft.slots):
            for kind, steps in split_slot(slot) if slot else ():
                number = len(self.slots)
                self.slots.append((kind, steps))
                phases = after if turns and turns[-1].mask == frame.masks[wire] else self._pending
                if kind == DIAGONAL:
                    phases.append(Phase(frame.parities[wire], frame.flips[wire], "diagonal", number))
                    continue
                phases.append(Phase(frame.parities[wire], frame.flips[wire], "lead", number))
                frame.flips[wire] ^= 1 << number
                flips = frame.flips[wire]
                measures_x = kind == GENERAL and any(step.angle is not None for step in steps)
                turns.append(Turn(number, frame.masks[wire], frame.parities[wire], flips, measures_x))
                if kind == GENERAL:
                    after.append(Phase(frame.parities[wire], flips, "trail", number))
        if turns:
            self.stages.append(Stage(self._pending, turns))
            self._pending = []
        self._pending.extend(after)

    def phases(self) -> list[tuple[int, int, Phase]]:
        """Every phase with its stage and its place there."""
        return [(s, i, phase) for s, stage in enumerate(self.stages) for i, phase in enumerate(stage.phases)]

    def turns(self) -> list[Turn]:
        """Every turn in the order of application."""
        return [turn for stage in self.stages for turn in stage.turns]


def span(masks: list[int]) -> list[int]:
    """All combinations by exclusive or; entry j combines the masks of the bits of j."""
    combined = [0]
    for mask in masks:
        combined += [mask ^ other for other in combined]
    return combined


def parity(value: int) -> int:
    """1 when an odd number of bits is set."""
    return value.bit_count() & 1


def independent(masks: list[int]) -> list[int]:
    """Masks with the same span, each with its highest bit to itself."""
    basis: list[int] = []
    for row in masks:
        for other in basis:
            row = min(row, row ^ other)
        if row:
            top = 1 << (row.bit_length() - 1)
            basis = [other ^ row if other & top else other for other in basis] + [row]
    return basis


def kernel_of(parities: list[int], n_bits: int) -> list[int]:
    """All addresses of n_bits bits whose parity is even under every given mask, in ascending order."""
    basis = independent(parities)
    tops = {row.bit_length() - 1: row for row in basis}
    free = [bit for bit in range(n_bits) if bit not in tops]
    vectors = []
    for bit in free:
        vector = 1 << bit
        for top, row in tops.items():
            if row >> bit & 1:
                vector |= 1 << top
        vectors.append(vector)
    return sorted(span(vectors))


def sign_table(parities: list[int], addresses: list[int]) -> torch.Tensor:
    """(addresses, parities) float64: -1 where the parity of the address is odd."""
    signs = [1.0 - 2.0 * parity(mask & address) for address, mask in product(addresses, parities)]
    return torch.tensor(signs, dtype=torch.float64).view(len(addresses), len(parities))
