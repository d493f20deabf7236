"""Rotations as passes over tiles: which of them are done while the rows of a tile are in registers.

A tile is all rows that differ by the masks of a few wires. One pass goes over all tiles and does on each, in this
order: fixed phases, rotations about z, about x, about y, and about z again, each at most once a wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ketune.circuits._passes import kernel_of, parity, span
from ketune.circuits._rotations import FIXED, Rotation, X

_WINDOW = 64
"""Rotations that may be left for later while a pass is filled; bounds the time of `schedule`."""

PHASES_WIDTH = 4
"""Wires of a pass that turns nothing: it takes row by row, and only the table of its phases grows with the tile."""


@dataclass
class TilePass:
    """One pass.

    Attributes:
        parities: of the tile's wires; the first row of every tile is even under all of them.
        masks: dual to them.
        fixed: fixed phases.
        before: rotations about z that come first.
        xs: turns about x by wire of the tile.
        ys: turns about y.
        after: rotations about z that come last.
    """

    parities: list[int]
    masks: list[int]
    fixed: list[Rotation] = field(default_factory=list)
    before: list[Rotation] = field(default_factory=list)
    xs: dict[int, Rotation] = field(default_factory=dict)
    ys: dict[int, Rotation] = field(default_factory=dict)
    after: list[Rotation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._patterns = {mask: pattern for pattern, mask in enumerate(span(self.parities))}

    @property
    def width(self) -> int:
        """Wires of a tile."""
        return len(self.masks)

    @property
    def turns(self) -> list[Rotation]:
        """Turns in the order of application."""
        return [group[q] for group in (self.xs, self.ys) for q in sorted(group)]

    def bases(self, n_wires: int) -> list[int]:
        """First row of each tile."""
        return kernel_of(self.parities, n_wires)

    def steps(self) -> list[int]:
        """What the rows of a tile differ by from its first one."""
        return span(self.masks)

    def pattern(self, rotation: Rotation) -> int | None:
        """Bits of the wires of the tile whose parities make up that of the rotation; None if others do too."""
        return self._patterns.get(rotation.parity)

    def sign(self, rotation: Rotation, row: int) -> int:
        """Sign of a rotation about z on a row of the tile."""
        pattern = self._patterns[rotation.parity]
        return 1 - 2 * parity(pattern & row)

    def take(self, rotation: Rotation) -> bool:
        """Adds a rotation behind those that are there, if it has a place."""
        if rotation.axis == FIXED:
            return False
        if not rotation.turns:
            fits = self.pattern(rotation) is not None
            if fits:
                self.after.append(rotation)
            return fits
        wires = [q for q, mask in enumerate(self.masks) if (mask, self.parities[q]) == (rotation.mask, rotation.parity)]
        group, later = (self.xs, [*self.ys.values(), *self.after]) if rotation.axis == X else (self.ys, self.after)
        if not wires or wires[0] in group or not all(rotation.commutes(other) for other in later):
            return False
        group[wires[0]] = rotation
        return True


def schedule(steps: tuple[Rotation, ...], n_wires: int, most: int) -> list[TilePass]:
    """Passes that do all rotations.

    Args:
        steps: the rotations in the order of application, no phases at the end.
        n_wires: number of wires.
        most: wires that a pass turns at most.
    """
    width = -(-n_wires // -(-n_wires // most))  # as even as can be: two passes of two wires, not of three and one
    left, passes = list(steps), list[TilePass]()
    while left:
        lead, others = _leading_phases(left)
        tile = _first_turns(others, width)
        blocking = [step for step in lead if step.axis != FIXED and tile.pattern(step) is None]
        blocking = [step for step in blocking if any(parity(mask & step.parity) for mask in tile.masks)]
        if blocking:
            tile = _tile_of_phases(blocking, n_wires)
        else:
            tile.fixed = [step for step in lead if step.axis == FIXED]
        tile.before = [step for step in lead if step.axis != FIXED and tile.pattern(step) is not None]
        done = [*tile.fixed, *tile.before]
        if not blocking:
            done += _fill(tile, _without(left, done))
        left = _without(left, done)
        passes.append(tile)
    return passes


def _without(steps: list[Rotation], done: list[Rotation]) -> list[Rotation]:
    taken = {id(step) for step in done}
    return [step for step in steps if id(step) not in taken]


def _leading_phases(steps: list[Rotation]) -> tuple[list[Rotation], list[Rotation]]:
    """Phases that can be done first, and the rotations they were found among, without them."""
    lead, others = list[Rotation](), list[Rotation]()
    for step in steps:
        turns = (other for other in others if other.turns)
        if not step.turns and all(step.commutes(other) for other in turns):
            lead.append(step)
        else:
            others.append(step)
            if len(others) > _WINDOW:
                break
    return lead, others


def _first_turns(steps: list[Rotation], width: int) -> TilePass:
    """An empty pass on the wires of the turns that can be done first."""
    earlier, wires = list[Rotation](), list[tuple[int, int]]()
    for step in steps:
        wire = (step.mask, step.parity)
        if step.turns and wire not in wires and all(step.commutes(other) for other in earlier):
            dual = not any(parity(mask & step.parity) or parity(step.mask & other) for mask, other in wires)
            if dual:
                wires.append(wire)
        if len(wires) == width:
            break
        if not step.turns or wire not in wires:
            earlier.append(step)
    return TilePass([other for _, other in wires], [mask for mask, _ in wires])


def _tile_of_phases(steps: list[Rotation], n_wires: int) -> TilePass:
    """An empty pass for some of these rotations about z, the first one among them."""
    parities = list[int]()
    for step in steps:
        if step.parity not in span(parities):
            parities.append(step.parity)
        if len(parities) == min(PHASES_WIDTH, n_wires):
            break
    masks = []
    for q, own in enumerate(parities):
        even = kernel_of(parities[:q] + parities[q + 1 :], n_wires)
        masks.append(next(mask for mask in even if parity(mask & own)))
    return TilePass(parities, masks)


def _fill(tile: TilePass, steps: list[Rotation]) -> list[Rotation]:
    """Puts rotations into a pass as long as they can be done before those that find no place."""
    taken, skipped = list[Rotation](), list[Rotation]()
    for step in steps:
        if all(step.commutes(other) for other in skipped) and tile.take(step):
            taken.append(step)
        else:
            skipped.append(step)
            if len(skipped) > _WINDOW:
                break
    return taken
