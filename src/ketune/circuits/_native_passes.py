"""The passes of the native simulator: turns and phases on the rows of a block, forward and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ketune.circuits._native_emitter import I64, POINTER, Emitter, Field, Io

TILES_OF_A_SUM = 32
"""Tiles whose gradients are added up before they join the sum of their block: long sums lose digits in float32."""


class Tile:
    """The rows of one tile: addresses of their real and imaginary parts, and of their phases."""

    def __init__(self, e: Emitter, base: Any, steps: list[Any], components: int) -> None:
        self.e, self.components = e, components
        self.offsets = [e.b.xor(base, step) for step in steps]
        self._shift = I64((e.lanes * components).bit_length() - 1)

    def parts(self, start: Any, part: int) -> list[Any]:
        """Addresses of one part of all rows of a state."""
        e = self.e
        rows = [e.at(start, offset) for offset in self.offsets]
        return [e.at(row, I64(part * e.lanes)) for row in rows] if part else rows

    def phases(self, table: Any, row: int) -> list[Any]:
        """Phase of a row: one sign, or cosine and sine."""
        e = self.e
        place = e.b.lshr(self.offsets[row], self._shift)
        if self.components == 1:
            return [e.spread(e.value(table, place))]
        place = e.b.shl(place, I64(1))
        return [e.spread(e.value(table, e.b.add(place, I64(i)))) for i in range(2)]

    def sums(self, table: Any, row: int) -> Any:
        """Address of the row's sum of phase gradients."""
        e = self.e
        place = e.b.lshr(self.offsets[row], I64(self.components - 1))
        return e.at(table, place)


def tiles(
    e: Emitter, width: int, components: int, body: Callable[[Tile], None], after: Callable[[], None] | None = None
) -> None:
    """`body` on every tile, and `after` behind every few of them."""
    bases, table = e.field(Field.BASES, POINTER), e.field(Field.STEPS, POINTER)
    steps = [e.integer(table, I64(i)) for i in range(1 << width)]
    count = e.field(Field.COUNT)

    def tile(index: Any) -> None:
        body(Tile(e, e.integer(bases, index), steps, components))

    if after is None:
        e.loop(count, tile)
        return
    # The number of tiles is a power of two.
    few = e.b.select(e.b.icmp_signed("<", count, I64(TILES_OF_A_SUM)), count, I64(TILES_OF_A_SUM))

    def group(index: Any) -> None:
        first = e.b.mul(index, few)
        e.loop(few, lambda i: tile(e.b.add(first, i)))
        after()

    e.loop(e.b.udiv(count, few), group)


def pairs_of(width: int) -> list[list[tuple[int, int]]]:
    """For each wire of a tile the pairs of rows that differ in it."""
    return [[(j, j | 1 << q) for j in range(1 << width) if not j >> q & 1] for q in range(width)]


def emit_forward(e: Emitter, width: int, components: int, phases: str) -> None:
    """Phases first ("none", "all", or "real" for an input whose imaginary parts are not there), then turns."""
    start, tangents = e.field(Field.TURNS), e.tensor(Io.TURNS)
    turns = [e.spread(e.value(tangents, e.b.add(start, I64(q)))) for q in range(width)]
    table = e.at(e.tensor(Io.PHASES), e.field(Field.PHASES)) if phases != "none" else None

    def turn(rows: list[Any]) -> list[Any]:
        for tangent, pairs in zip(turns, pairs_of(width)):
            for i, j in pairs:
                rows[i], rows[j] = e.fnma(tangent, rows[j], rows[i]), e.fma(tangent, rows[i], rows[j])
        return rows

    def body(tile: Tile) -> None:
        places = [tile.parts(e.workspace, part) for part in range(components)]
        if phases == "none":
            for part in places:
                for value, place in zip(turn([e.read(place) for place in part]), part):
                    e.write(value, place)
            return
        columns: list[list[Any]] = [[] for _ in places]
        for row in range(1 << width):
            phase = tile.phases(table, row)
            real = e.read(places[0][row])
            if components == 1:
                columns[0].append(e.b.fmul(real, phase[0]))
            elif phases == "real":
                columns[0].append(e.b.fmul(real, phase[0]))
                columns[1].append(e.b.fmul(real, phase[1]))
            else:
                imaginary = e.read(places[1][row])
                columns[0].append(e.fnma(phase[1], imaginary, e.b.fmul(phase[0], real)))
                columns[1].append(e.fma(phase[1], real, e.b.fmul(phase[0], imaginary)))
        for rows, part in zip(columns, places):
            for value, place in zip(turn(rows), part):
                e.write(value, place)

    tiles(e, width, components, body)


def emit_backward(e: Emitter, width: int, components: int, measures: str, phases: str) -> None:
    """Takes turns back on state and cotangent, sums what their gradients need, then takes the phases back.

    `measures` names the generators whose gradients are summed: "y", "xy", or "" to leave the state alone and take back
    the cotangent only. `phases` is "none", "fixed" (taken back) or "trained" (their gradients are summed as well).
    """
    start, tangents = e.field(Field.TURNS), e.tensor(Io.TURNS)
    turns = [e.spread(e.value(tangents, e.b.add(start, I64(q)))) for q in range(width)]
    cotangent = e.at(e.workspace, e.field(Field.COTANGENT))
    table = e.at(e.tensor(Io.PHASES), e.field(Field.PHASES)) if phases != "none" else None
    phase_sums = e.at(e.workspace, e.field(Field.PHASE_SUMS)) if phases == "trained" else None
    along_y = [e.variable() for _ in range(width)] if measures else []
    along_x = [e.variable() for _ in range(width)] if measures == "xy" else []
    parts = range(components)

    def add(place: Any, terms: list[tuple[Any, Any, bool]]) -> None:
        total = e.b.load(place, typ=e.vector)
        for x, y, positive in terms:
            total = e.fma(x, y, total) if positive else e.fnma(x, y, total)
        e.b.store(total, place)

    def unturn(states: list[list[Any]], adjoints: list[list[Any]]) -> None:
        for q, pairs in enumerate(pairs_of(width)):
            for i, j in pairs:
                for state, adjoint in zip(states, adjoints):  # no states without measures
                    add(along_y[q], [(adjoint[j], state[i], True), (adjoint[i], state[j], False)])
                if along_x:
                    (sr, si), (ar, ai) = states, adjoints
                    for a, b in ((i, j), (j, i)):
                        add(along_x[q], [(ar[a], si[b], True), (ai[a], sr[b], False)])
                for rows in (*states, *adjoints):
                    rows[i], rows[j] = e.fma(turns[q], rows[j], rows[i]), e.fnma(turns[q], rows[i], rows[j])

    def body(tile: Tile) -> None:
        places = [tile.parts(e.workspace, part) for part in parts] if measures else []
        others = [tile.parts(cotangent, part) for part in parts]
        if phases == "none" and not along_x:  # real and imaginary parts do not meet: fewer registers at a time
            for part in parts:
                both = [places[part], others[part]] if measures else [others[part]]
                rows = [[e.read(p) for p in half] for half in both]
                unturn(rows[:-1], rows[-1:])
                for half, values in zip(both, rows):
                    for value, place in zip(values, half):
                        e.write(value, place)
            return
        states = [[e.read(p) for p in part] for part in places]
        adjoints = [[e.read(p) for p in part] for part in others]
        unturn(states, adjoints)
        for row in range(1 << width) if phases != "none" else ():
            phase = tile.phases(table, row)
            if components == 1:
                for (rows,) in filter(None, (states, adjoints)):
                    rows[row] = e.b.fmul(rows[row], phase[0])
                continue
            if phases == "trained":
                place = tile.sums(phase_sums, row)
                total = e.fma(adjoints[1][row], states[0][row], e.read(place))
                e.write(e.fnma(adjoints[0][row], states[1][row], total), place)
            for real, imaginary in filter(None, (states, adjoints)):
                x, y = real[row], imaginary[row]
                real[row] = e.fma(phase[1], y, e.b.fmul(phase[0], x))
                imaginary[row] = e.fnma(phase[1], x, e.b.fmul(phase[0], y))
        for rows, part in zip((*states, *adjoints), (*places, *others)):
            for value, place in zip(rows, part):
                e.write(value, place)

    sums = [*along_y, *along_x]
    totals = [e.variable() for _ in sums]

    def collect() -> None:
        for place, total in zip(sums, totals):
            e.b.store(e.b.fadd(e.b.load(total, typ=e.vector), e.b.load(place, typ=e.vector)), total)
            e.b.store(e.zeros(), place)

    tiles(e, width, components, body, collect)
    for i, total in enumerate(totals):
        target = e.at(e.workspace, e.b.add(e.field(Field.TURN_SUMS), I64(i * e.lanes)))
        e.write(e.b.fadd(e.read(target), e.b.load(total, typ=e.vector)), target)
