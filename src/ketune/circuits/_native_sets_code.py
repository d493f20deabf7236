"""Machine code for sets of angles: every lane turns by its own angles. Kernels as in `_native_code`.

The workspace of a block holds, beside state and cotangent, rows of the angles, of their cosines and sines, of the
phases of each tile, and of the gradients of the angles.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from ketune.circuits._native_code import I64, POINTER, Emitter, Io, _pairs, _Tile, _tiles, emitter
from ketune.circuits._native_trigonometry import emit_cosine_and_sine


class SetField(IntEnum):
    """Positions in the record of one pass; COUNT, BASES, STEPS and COTANGENT are those of `_native_code.Field`."""

    COUNT = 1
    BASES = 2
    STEPS = 3
    ANGLES = 4  # int32: workspace offset of the cosine of each rotation, the sine follows
    FIXED = 5  # offset of the first fixed phase in Io.PHASES
    BEFORE = 6  # workspace offset of the phases of a tile that come first
    AFTER = 7  # of those that come last
    COTANGENT = 8
    GRADIENTS = 9  # int32: workspace offset of the gradient that each rotation adds to
    FACTORS = 10  # T: what the gradient is to be multiplied by
    SUMS = 11  # workspace offset of the sums for the phases that come first, then for those that come last


class SetIo(IntEnum):
    """Positions of the tensors of a call that `_native_code.Io` lacks."""

    ANGLES = 7  # (sets, columns)
    D_ANGLES = 8  # (blocks * lanes, columns)


class Shape(IntEnum):
    """Positions in Io.SHAPE; the first four as in `_native_code.Io`."""

    LAST = 0
    IN_COLUMNS = 1
    OUT_COLUMNS = 2
    ANGLE_COLUMNS = 4
    IN_ROWS = 5  # rows of Io.IN: sample s has row s modulo this
    SAMPLES = 6  # samples for each set of angles


def _table(e: Emitter, field: SetField, index: Any) -> Any:
    return e.integer(e.field(field, POINTER), index)


def _factor(e: Emitter, index: Any) -> Any:
    return e.value(e.field(SetField.FACTORS, POINTER), index)


def _row(e: Emitter, offset: Any) -> Any:
    """Address of a row of the workspace."""
    return e.at(e.workspace, offset)


@emitter("set_load")
def _emit_load(e: Emitter, angles: bool) -> None:
    """Columns of Io.IN or of the angles to rows: groups of `lanes` columns from STEPS on go to the rows of BASES."""
    b, lanes = e.b, e.lanes
    source = e.tensor(SetIo.ANGLES if angles else Io.IN)
    columns, last = e.shape(Shape.ANGLE_COLUMNS if angles else Shape.IN_COLUMNS), e.shape(Shape.LAST)
    first, samples = b.mul(e.block, I64(lanes)), []
    divisor = e.shape(Shape.SAMPLES if angles else Shape.IN_ROWS)
    for lane in range(lanes):
        sample = b.add(first, I64(lane))
        sample = b.select(b.icmp_signed("<", sample, last), sample, last)
        row = b.udiv(sample, divisor) if angles else b.urem(sample, divisor)
        samples.append(e.at(source, b.mul(row, columns)))

    def body(group: Any) -> None:
        column = _table(e, SetField.STEPS, group)
        rows = e.transpose([e.read(e.at(sample, column), aligned=False) for sample in samples])
        for i, row in enumerate(rows):
            e.write(row, _row(e, _table(e, SetField.BASES, b.add(b.mul(group, I64(lanes)), I64(i)))))

    e.loop(e.field(SetField.COUNT), body)


@emitter("set_store")
def _emit_store(e: Emitter, angles: bool) -> None:
    """Rows to columns of the gradients of Io.IN or of the angles: the way back of `set_load`."""
    b, lanes = e.b, e.lanes
    target = e.tensor(SetIo.D_ANGLES if angles else Io.OUT)
    columns = e.shape(Shape.ANGLE_COLUMNS if angles else Shape.OUT_COLUMNS)
    first = e.at(target, b.mul(b.mul(e.block, I64(lanes)), columns))

    def body(group: Any) -> None:
        column = _table(e, SetField.STEPS, group)
        places = [_table(e, SetField.BASES, b.add(b.mul(group, I64(lanes)), I64(i))) for i in range(lanes)]
        for lane, row in enumerate(e.transpose([e.read(_row(e, place)) for place in places])):
            e.write(row, e.at(first, b.add(b.mul(columns, I64(lane)), column)), aligned=False)

    e.loop(e.field(SetField.COUNT), body)


@emitter("set_start")
def _emit_start(e: Emitter) -> None:
    """One in the first row."""
    e.write(e.ones(), e.workspace)


@emitter("set_products")
def _emit_products(e: Emitter, back: bool) -> None:
    """Products of two angles of each lane (rows BASES and STEPS, product in ANGLES); or their gradients' way back."""
    b = e.b

    def body(i: Any) -> None:
        x, y, product = (_table(e, which, i) for which in (SetField.BASES, SetField.STEPS, SetField.ANGLES))
        if not back:
            e.write(b.fmul(e.read(_row(e, x)), e.read(_row(e, y))), _row(e, product))
            return
        shift = e.field(SetField.SUMS)  # from an angle to its gradient
        gradient = e.read(_row(e, b.add(product, shift)))
        for one, other in ((x, y), (y, x)):
            place = _row(e, b.add(one, shift))
            e.write(e.fma(gradient, e.read(_row(e, other)), e.read(place)), place)

    e.loop(e.field(SetField.COUNT), body)


@emitter("set_cosines")
def _emit_cosines(e: Emitter) -> None:
    """Cosine and sine of each rotation, one after the other from BEFORE on: angle times factor, plus a constant."""
    b, target = e.b, e.field(SetField.BEFORE)

    def body(i: Any) -> None:
        factor, offset = (e.spread(_factor(e, b.add(b.mul(i, I64(2)), I64(k)))) for k in range(2))
        pair = emit_cosine_and_sine(e, e.fma(e.read(_row(e, _table(e, SetField.BASES, i))), factor, offset))
        for k, row in enumerate(pair):
            e.write(row, _row(e, b.add(target, b.add(b.mul(i, I64(2 * e.lanes)), I64(k * e.lanes)))))

    e.loop(e.field(SetField.COUNT), body)


@emitter("set_phases")
def _emit_phases(e: Emitter, width: int) -> None:
    """Phases of the rows of a tile: products over rotations about z, whose signs are in FACTORS."""
    b, rows = e.b, range(1 << width)
    phases = [(e.variable(), e.variable()) for _ in rows]
    for real, _ in phases:
        b.store(e.ones(), real)

    def body(i: Any) -> None:
        place = _table(e, SetField.ANGLES, i)
        cosine, sine = e.read(_row(e, place)), e.read(_row(e, b.add(place, I64(e.lanes))))
        for row, (real, imaginary) in enumerate(phases):
            sign = e.spread(_factor(e, b.add(b.mul(i, I64(1 << width)), I64(row))))
            x, y, signed = b.load(real, typ=e.vector), b.load(imaginary, typ=e.vector), b.fmul(sign, sine)
            b.store(e.fma(signed, y, b.fmul(cosine, x)), real)
            b.store(e.fnma(signed, x, b.fmul(cosine, y)), imaginary)

    e.loop(e.field(SetField.COUNT), body)
    target = _row(e, e.field(SetField.BEFORE))
    for k, place in enumerate(place for pair in phases for place in pair):
        e.write(b.load(place, typ=e.vector), e.at(target, I64(k * e.lanes)))


@emitter("set_phase_sums")
def _emit_phase_sums(e: Emitter, width: int) -> None:
    """Gradients of rotations about z from the sums by row of a tile; their signs, times factors, are in FACTORS."""
    b = e.b
    sums = [e.read(e.at(_row(e, e.field(SetField.SUMS)), I64(j * e.lanes))) for j in range(1 << width)]

    def body(i: Any) -> None:
        place = _row(e, _table(e, SetField.GRADIENTS, i))
        total = e.read(place)
        for j, row in enumerate(sums):
            total = e.fma(e.spread(_factor(e, b.add(b.mul(i, I64(1 << width)), I64(j)))), row, total)
        e.write(total, place)

    e.loop(e.field(SetField.COUNT), body)


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
            place = _table(e, SetField.ANGLES, I64(i))
            cosine, sine = e.read(_row(e, place)), e.read(_row(e, e.b.add(place, I64(e.lanes))))
            self.turns.append((axis, _pairs(width)[q], cosine, sine))
        self._fixed = e.at(e.tensor(Io.PHASES), e.field(SetField.FIXED)) if fixed else None
        self._before = _row(e, e.field(SetField.BEFORE)) if before else None
        self._after = _row(e, e.field(SetField.AFTER)) if after else None

    def fixed_phase(self, tile: _Tile, row: int) -> list[Any]:
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


@emitter("set_forward")
def _emit_forward(e: Emitter, width: int, components: int, *options: Any) -> None:
    """One pass."""
    rotations = _Rotations(e, width, components, *options)

    def body(tile: _Tile) -> None:
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

    _tiles(e, width, components, body)


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


@emitter("set_backward")
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

    def body(tile: _Tile) -> None:
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

    _tiles(e, width, components, body, sums.collect if measures else None)
    for i in range(count if measures else 0):
        place = _row(e, _table(e, SetField.GRADIENTS, I64(i)))
        e.write(e.fma(e.spread(_factor(e, I64(i))), sums.total(i), e.read(place)), place)
    start = _row(e, e.field(SetField.SUMS))
    for i in range(count, len(sums.totals)):
        e.write(sums.total(i), e.at(start, I64((i - count) * e.lanes)))
