"""Machine code for sets of angles: the passes over tiles, forward and back.

On the way back state and cotangent are taken back side by side, and each rotation gives its gradient on the spot: the
product of cotangent and generator times state, a number for each lane.
"""

from __future__ import annotations

from typing import Any

from ketune.circuits._native_emitter import I64, Emitter, Io
from ketune.circuits._native_passes import Tile, pairs_of, tiles
from ketune.circuits._native_sets_code import SetField, entry, number, row_at


class _Rotations:
    """The rotations of one pass, read before its loop over tiles.

    Args:
        e: the emitter.
        width: wires of a tile.
        components: 1 for real states, 2 for complex ones.
        fixed: whether there are fixed phases.
        before: whether rotations about z come first.
        xs: wires that turn about x, as bits.
        ys: wires that turn about y.
        after: whether rotations about z come last.
    """

    def __init__(
        self, e: Emitter, width: int, components: int, fixed: bool, before: bool, xs: int, ys: int, after: bool
    ) -> None:
        self.e, self.components, self.fixed, self.before, self.after = e, components, fixed, before, after
        turns = [(axis, q) for axis, wires in (("x", xs), ("y", ys)) for q in range(width) if wires >> q & 1]
        self.turns = []
        for i, (axis, q) in enumerate(turns):
            place = entry(e, SetField.ANGLES, I64(i))
            cosine, sine = e.read(row_at(e, place)), e.read(row_at(e, e.b.add(place, I64(e.lanes))))
            self.turns.append((axis, pairs_of(width)[q], cosine, sine))
        self._fixed = e.at(e.tensor(Io.PHASES), e.field(SetField.FIXED)) if fixed else None
        self._before = row_at(e, e.field(SetField.BEFORE)) if before else None
        self._after = row_at(e, e.field(SetField.AFTER)) if after else None

    def fixed_phase(self, tile: Tile, row: int) -> list[Any]:
        """Fixed phase of a row."""
        return tile.phases(self._fixed, row)

    def phase(self, after: bool, row: int) -> list[Any]:
        """Phase of a row before or after the turns."""
        start = self._after if after else self._before
        return [self.e.read(self.e.at(start, I64((2 * row + part) * self.e.lanes))) for part in range(2)]

    def multiply(self, rows: list[Any], phase: list[Any], back: bool = False) -> list[Any]:
        """The parts of a row times a phase, or times its conjugate."""
        e = self.e
        if self.components == 1:
            return [e.b.fmul(rows[0], phase[0])]
        (x, y), (cosine, sine) = rows, phase
        first, second = (e.fma, e.fnma) if back else (e.fnma, e.fma)
        return [first(sine, y, e.b.fmul(cosine, x)), second(sine, x, e.b.fmul(cosine, y))]

    def turn(self, axis: str, i: int, j: int, cosine: Any, sine: Any, parts: list[list[Any]], back: bool) -> None:
        """Turns rows i and j of all parts."""
        e = self.e
        plus, minus = (e.fnma, e.fma) if back else (e.fma, e.fnma)
        if axis == "y":
            for rows in parts:
                x, y = rows[i], rows[j]
                rows[i], rows[j] = minus(sine, y, e.b.fmul(cosine, x)), plus(sine, x, e.b.fmul(cosine, y))
            return
        real, imaginary = parts
        for a, b in ((i, j), (j, i)):
            x, y = real[a], imaginary[b]
            real[a], imaginary[b] = plus(sine, y, e.b.fmul(cosine, x)), minus(sine, x, e.b.fmul(cosine, y))


def _emit_forward(e: Emitter, width: int, components: int, *options: Any) -> None:
    """One pass."""
    rotations = _Rotations(e, width, components, *options)

    def body(tile: Tile) -> None:
        places = [tile.parts(e.workspace, part) for part in range(components)]
        columns: list[list[Any]] = [[] for _ in places]

        def read(row: int) -> None:
            values = [e.read(source[row]) for source in places]
            if rotations.fixed:
                values = rotations.multiply(values, rotations.fixed_phase(tile, row))
            if rotations.before:
                values = rotations.multiply(values, rotations.phase(False, row))
            for column, value in zip(columns, values):
                column.append(value)

        def write(row: int) -> None:
            values = [column[row] for column in columns]
            if rotations.after:
                values = rotations.multiply(values, rotations.phase(True, row))
            for value, target in zip(values, places):
                e.write(value, target[row])

        if not rotations.turns:  # row by row, for which there are registers enough
            for row in range(1 << width):
                read(row)
                write(row)
            return
        for row in range(1 << width):
            read(row)
        for axis, pairs, cosine, sine in rotations.turns:
            for i, j in pairs:
                rotations.turn(axis, i, j, cosine, sine, columns, False)
        for row in range(1 << width):
            write(row)

    tiles(e, width, components, body)


class _Sums:
    """Rows that are added up over the tiles of a pass: few tiles at a time, so that float32 keeps its digits."""

    def __init__(self, e: Emitter, count: int) -> None:
        self.e = e
        self.parts, self.totals = ([e.variable() for _ in range(count)] for _ in range(2))

    def add(self, index: int, terms: list[tuple[Any, Any, bool]]) -> None:
        """Adds products, each with its sign."""
        e, place = self.e, self.parts[index]
        total = e.b.load(place, typ=e.vector)
        for x, y, positive in terms:
            total = e.fma(x, y, total) if positive else e.fnma(x, y, total)
        e.b.store(total, place)

    def collect(self) -> None:
        """Joins the sums of a few tiles to the totals."""
        e = self.e
        for part, total in zip(self.parts, self.totals):
            e.b.store(e.b.fadd(e.b.load(total, typ=e.vector), e.b.load(part, typ=e.vector)), total)
            e.b.store(e.zeros(), part)

    def total(self, index: int) -> Any:
        return self.e.b.load(self.totals[index], typ=self.e.vector)


def _emit_backward(e: Emitter, width: int, components: int, measures: bool, *options: Any) -> None:
    """Takes one pass back on the cotangent and, with `measures`, on the state, and adds up the gradients."""
    rotations = _Rotations(e, width, components, *options)
    cotangent, rows = e.at(e.workspace, e.field(SetField.COTANGENT)), range(1 << width)
    count = len(rotations.turns)
    sums = _Sums(e, count + (rotations.before + rotations.after) * len(rows) if measures else 0)

    def phase_back(both: list[list[list[Any]]], row: int, after: bool) -> None:
        """One row of state and cotangent."""
        if measures:
            (sr, si), (ar, ai) = ([part[row] for part in parts] for parts in both)
            index = count + row + (len(rows) if after and rotations.before else 0)
            sums.add(index, [(ar, si, True), (ai, sr, False)])
        multiply_back(both, row, rotations.phase(after, row))

    def multiply_back(both: list[list[list[Any]]], row: int, phase: list[Any]) -> None:
        for parts in both:
            for part, value in zip(parts, rotations.multiply([part[row] for part in parts], phase, back=True)):
                part[row] = value

    def turn_back(both: list[list[list[Any]]]) -> None:
        for index in range(count - 1, -1, -1):
            axis, pairs, cosine, sine = rotations.turns[index]
            for i, j in pairs:
                if measures and axis == "y":
                    for state, adjoint in zip(*both):
                        sums.add(index, [(adjoint[j], state[i], True), (adjoint[i], state[j], False)])
                elif measures:
                    (sr, si), (ar, ai) = both
                    for a, b in ((i, j), (j, i)):
                        sums.add(index, [(ar[a], si[b], True), (ai[a], sr[b], False)])
                for parts in both:
                    rotations.turn(axis, i, j, cosine, sine, parts, True)

    def body(tile: Tile) -> None:
        starts = [e.workspace, cotangent] if measures else [cotangent]
        places = [[tile.parts(start, part) for part in range(components)] for start in starts]
        both: list[list[list[Any]]] = [[[None] * len(rows) for _ in parts] for parts in places]

        def read(row: int) -> None:
            for parts, sources in zip(both, places):
                for part, source in zip(parts, sources):
                    part[row] = e.read(source[row])
            if rotations.after:
                phase_back(both, row, True)

        def write(row: int) -> None:
            if rotations.before:
                phase_back(both, row, False)
            if rotations.fixed:
                multiply_back(both, row, rotations.fixed_phase(tile, row))
            for parts, targets in zip(both, places):
                for part, target in zip(parts, targets):
                    e.write(part[row], target[row])

        if count == 0:  # row by row, for which there are registers enough
            for row in rows:
                read(row)
                write(row)
            return
        for row in rows:
            read(row)
        turn_back(both)
        for row in rows:
            write(row)

    tiles(e, width, components, body, sums.collect if measures else None)
    for i in range(count if measures else 0):
        place = row_at(e, entry(e, SetField.GRADIENTS, I64(i)))
        e.write(e.fma(e.spread(number(e, I64(i))), sums.total(i), e.read(place)), place)
    start = row_at(e, e.field(SetField.SUMS))
    for i in range(count, len(sums.totals)):
        e.write(sums.total(i), e.at(start, I64((i - count) * e.lanes)))


EMITTERS = {"set_forward": _emit_forward, "set_backward": _emit_backward}
