"""Machine code for the native simulator: loops over rows of samples, written as LLVM IR and compiled in the process.

Every kernel has the signature `void kernel(T* workspace, i64 block, i64* fields, void** io)`. The workspace holds the
states of one block of `lanes` samples: row k is basis state k, with the samples side by side (real parts, then
imaginary parts of a complex state). `fields` are the constants of one pass (`Field`), `io` the tensors of one call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from functools import cache, lru_cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

I32, I64, POINTER = ir.IntType(32), ir.IntType(64), ir.PointerType()


TILES_OF_A_SUM = 32
"""Tiles whose gradients are added up before they join the sum of their block: long sums lose digits in float32."""


class Field(IntEnum):
    """Positions in the record of one pass; offsets count elements of the workspace or of a tensor."""

    KERNEL = 0  # address of the code
    COUNT = 1  # tiles, or groups of columns
    BASES = 2  # int32: offset of the first row of each tile
    STEPS = 3  # int32: offsets of the rows of a tile, to be combined with its base by exclusive or
    TURNS = 4  # offset of the first tangent in Io.TURNS
    PHASES = 5  # offset of the first phase in Io.PHASES
    TURN_SUMS = 6  # workspace offset of the sums for the gradients of the tangents
    PHASE_SUMS = 7  # workspace offset of the sums for the gradients of the phases
    COTANGENT = 8  # workspace offset of the cotangent of the state
    WORDS = 9  # number of words of the readout
    SIGNS = 10  # T (tiles, words): sign of each word on the first row of a tile
    PATTERNS = 11  # int32 (words,): which rows of a tile a word turns


RECORD = len(Field)
"""Length of the record of one pass, in int64."""


class Io(IntEnum):
    """Positions of the tensors of a call."""

    IN = 0  # (samples, columns) features
    OUT = 1  # (blocks * lanes, columns)
    SUMS = 2  # (blocks, words, lanes): readouts going forward, their weights going back
    TURNS = 3  # tangents
    PHASES = 4  # phases by row, real and imaginary parts interleaved for complex states
    SHAPE = 5  # int64: last sample, columns of IN, columns of OUT, columns of WEIGHTS
    WEIGHTS = 6  # (blocks * lanes, columns) weights of the squares


class Emitter:
    """Writes one module of kernels for one floating-point type and number of samples in a block."""

    def __init__(self, bits: int, lanes: int) -> None:
        self.module = ir.Module()
        self.lanes, self.size = lanes, bits // 8
        self.scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, lanes)
        signature = ir.FunctionType(self.vector, [self.vector] * 3)
        self._fma = ir.Function(self.module, signature, f"llvm.fma.v{lanes}f{bits}")
        self.kernel_type = ir.FunctionType(ir.VoidType(), [POINTER, I64, POINTER, POINTER])
        self.b = ir.IRBuilder()
        self.workspace = self.block = self.fields = self.io = None

    def kernel(self, name: str) -> None:
        """Starts a function."""
        function = ir.Function(self.module, self.kernel_type, name)
        self.workspace, self.block, self.fields, self.io = function.args
        for argument in (function.args[0], function.args[2], function.args[3]):
            argument.add_attribute("noalias")
        self.b = ir.IRBuilder(function.append_basic_block("entry"))

    def loop(self, count: Any, body: Callable[[Any], None]) -> None:
        """`for i in range(count)`, at least once."""
        b = self.b
        before, head, done = b.block, b.append_basic_block("loop"), b.append_basic_block("done")
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(I64(0), before)
        body(index)
        following = b.add(index, I64(1))
        index.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, count), head, done)
        b.position_at_end(done)

    def field(self, which: int, kind: Any = I64) -> Any:
        """A field of the record."""
        return self.b.load(self.b.gep(self.fields, [I64(which)], source_etype=I64), typ=kind)

    def tensor(self, which: int) -> Any:
        """Pointer to a tensor of the call."""
        return self.b.load(self.b.gep(self.io, [I64(which)], source_etype=POINTER), typ=POINTER)

    def shape(self, which: int) -> Any:
        """A number of Io.SHAPE."""
        return self.b.load(self.b.gep(self.tensor(Io.SHAPE), [I64(which)], source_etype=I64), typ=I64)

    def integer(self, table: Any, index: Any) -> Any:
        """An entry of an int32 table."""
        b = self.b
        return b.sext(b.load(b.gep(table, [index], source_etype=I32), typ=I32), I64)

    def at(self, pointer: Any, offset: Any) -> Any:
        """Pointer moved by elements."""
        return self.b.gep(pointer, [offset], source_etype=self.scalar)

    def value(self, pointer: Any, offset: Any) -> Any:
        """One number."""
        return self.b.load(self.at(pointer, offset), typ=self.scalar)

    def spread(self, number: Any) -> Any:
        """One number in every lane."""
        none = ir.Constant(self.vector, ir.Undefined)
        first = self.b.insert_element(none, number, I32(0))
        return self.b.shuffle_vector(first, none, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def read(self, pointer: Any, aligned: bool = True) -> Any:
        """A row of lanes."""
        return self.b.load(pointer, typ=self.vector, align=self.lanes * self.size if aligned else self.size)

    def write(self, value: Any, pointer: Any, aligned: bool = True) -> None:
        """Stores a row of lanes."""
        self.b.store(value, pointer, align=self.lanes * self.size if aligned else self.size)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x y + z."""
        return self.b.call(self._fma, [x, y, z])

    def fnma(self, x: Any, y: Any, z: Any) -> Any:
        """z - x y."""
        return self.b.call(self._fma, [self.b.fneg(x), y, z])

    def zeros(self) -> Any:
        """A row of zeros."""
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def ones(self) -> Any:
        """A row of ones."""
        return ir.Constant(self.vector, [1.0] * self.lanes)

    def variable(self) -> Any:
        """A row that a loop may change; becomes a register."""
        place = self.b.alloca(self.vector)
        self.b.store(self.zeros(), place)
        return place

    def transpose(self, rows: list[Any]) -> list[Any]:
        """`lanes` rows with rows and lanes exchanged."""
        rows, lanes = list(rows), self.lanes
        step = 1
        while step < lanes:
            upper = [e if not e & step else lanes + e - step for e in range(lanes)]
            lower = [e + step if not e & step else lanes + e for e in range(lanes)]
            masks = [ir.Constant(ir.VectorType(I32, lanes), mask) for mask in (upper, lower)]
            for i in range(lanes):
                if not i & step:
                    first, second = rows[i], rows[i + step]
                    rows[i] = self.b.shuffle_vector(first, second, masks[0])
                    rows[i + step] = self.b.shuffle_vector(first, second, masks[1])
            step *= 2
        return rows


class _Tile:
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


def _tiles(
    e: Emitter, width: int, components: int, body: Callable[[_Tile], None], after: Callable[[], None] | None = None
) -> None:
    """`body` on every tile, and `after` behind every few of them."""
    bases, table = e.field(Field.BASES, POINTER), e.field(Field.STEPS, POINTER)
    steps = [e.integer(table, I64(i)) for i in range(1 << width)]
    count = e.field(Field.COUNT)

    def tile(index: Any) -> None:
        body(_Tile(e, e.integer(bases, index), steps, components))

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


def _pairs(width: int) -> list[list[tuple[int, int]]]:
    """For each wire of a tile the pairs of rows that differ in it."""
    return [[(j, j | 1 << q) for j in range(1 << width) if not j >> q & 1] for q in range(width)]


def _emit_forward(e: Emitter, width: int, components: int, phases: str) -> None:
    """Phases first ("none", "all", or "real" for an input whose imaginary parts are not there), then turns."""
    start, tangents = e.field(Field.TURNS), e.tensor(Io.TURNS)
    turns = [e.spread(e.value(tangents, e.b.add(start, I64(q)))) for q in range(width)]
    table = e.at(e.tensor(Io.PHASES), e.field(Field.PHASES)) if phases != "none" else None

    def turn(rows: list[Any]) -> list[Any]:
        for tangent, pairs in zip(turns, _pairs(width)):
            for i, j in pairs:
                rows[i], rows[j] = e.fnma(tangent, rows[j], rows[i]), e.fma(tangent, rows[i], rows[j])
        return rows

    def body(tile: _Tile) -> None:
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

    _tiles(e, width, components, body)


def _emit_backward(e: Emitter, width: int, components: int, measures: str, phases: str) -> None:
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
        for q, pairs in enumerate(_pairs(width)):
            for i, j in pairs:
                for state, adjoint in zip(states, adjoints):  # no states without measures
                    add(along_y[q], [(adjoint[j], state[i], True), (adjoint[i], state[j], False)])
                if along_x:
                    (sr, si), (ar, ai) = states, adjoints
                    for a, b in ((i, j), (j, i)):
                        add(along_x[q], [(ar[a], si[b], True), (ai[a], sr[b], False)])
                for rows in (*states, *adjoints):
                    rows[i], rows[j] = e.fma(turns[q], rows[j], rows[i]), e.fnma(turns[q], rows[i], rows[j])

    def body(tile: _Tile) -> None:
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

    _tiles(e, width, components, body, collect)
    for i, total in enumerate(totals):
        target = e.at(e.workspace, e.b.add(e.field(Field.TURN_SUMS), I64(i * e.lanes)))
        e.write(e.b.fadd(e.read(target), e.b.load(total, typ=e.vector)), target)


def _emit_load(e: Emitter, components: int, to_cotangent: bool) -> None:
    """Columns of IN to rows of the state, or of WEIGHTS to rows of the cotangent.

    They are transposed, `lanes` columns of `lanes` samples at a time. The last sample of IN stands in for samples
    beyond it.
    """
    b, lanes = e.b, e.lanes
    last, which = e.shape(0), (Io.WEIGHTS, 3) if to_cotangent else (Io.IN, 1)
    source, columns = e.tensor(which[0]), e.shape(which[1])
    target = e.at(e.workspace, e.field(Field.COTANGENT)) if to_cotangent else e.workspace
    rows_of, first = e.field(Field.BASES, POINTER), b.mul(e.block, I64(lanes))
    samples = []
    for lane in range(lanes):
        sample = b.add(first, I64(lane))
        if not to_cotangent:
            sample = b.select(b.icmp_signed("<", sample, last), sample, last)
        samples.append(e.at(source, b.mul(sample, columns)))

    def body(group: Any) -> None:
        column = b.mul(group, I64(lanes))
        rows = e.transpose([e.read(e.at(sample, column), aligned=False) for sample in samples])
        for i, row in enumerate(rows):
            e.write(row, e.at(target, e.integer(rows_of, b.add(column, I64(i)))))

    e.loop(e.field(Field.COUNT), body)


def _emit_zero(e: Emitter, components: int) -> None:
    """Zeros in the rows of BASES."""
    rows_of = e.field(Field.BASES, POINTER)
    e.loop(
        e.field(Field.COUNT), lambda i: e.write(e.zeros(), e.at(e.workspace, e.integer(rows_of, i)))
    )  # real parts only: the first pass makes the imaginary ones


def _emit_store(e: Emitter, components: int, squares: bool) -> None:
    """Rows to columns of OUT, transposed: real parts of the cotangent, or squares of the state."""
    b, lanes = e.b, e.lanes
    columns, rows_of = e.shape(2), e.field(Field.BASES, POINTER)
    origin = e.workspace if squares else e.at(e.workspace, e.field(Field.COTANGENT))
    first = e.at(e.tensor(Io.OUT), b.mul(b.mul(e.block, I64(lanes)), columns))

    def body(group: Any) -> None:
        column = b.mul(group, I64(lanes))
        rows = []
        for i in range(lanes):
            place = e.at(origin, e.integer(rows_of, b.add(column, I64(i))))
            row = e.read(place)
            if squares:
                row = b.fmul(row, row)
                if components == 2:
                    imaginary = e.read(e.at(place, I64(lanes)))
                    row = e.fma(imaginary, imaginary, row)
            rows.append(row)
        for lane, row in enumerate(e.transpose(rows)):
            e.write(row, e.at(first, b.add(b.mul(columns, I64(lane)), column)), aligned=False)

    e.loop(e.field(Field.COUNT), body)


def _walsh(e: Emitter, rows: list[Any]) -> list[Any]:
    """Sums of the rows under all patterns of signs: entry c holds the sum of (-1)^(c . j) rows[j]; None is zero."""
    rows, step = list(rows), 1
    while step < len(rows):
        for i in range(len(rows)):
            x, y = rows[i], rows[i | step]
            if i & step or y is None:
                rows[i | step] = rows[i | step] if i & step else x
            else:
                rows[i] = y if x is None else e.b.fadd(x, y)
                rows[i | step] = e.b.fneg(y) if x is None else e.b.fsub(x, y)
        step *= 2
    return rows


class _Words:
    """The words of a readout: each is a pattern of signs in a tile, times the sign of the tile's first row.

    Few words (`patterns` not empty) are written out one after the other and stay in registers; many are a loop.
    """

    def __init__(self, e: Emitter, width: int, components: int, patterns: tuple[int, ...]) -> None:
        self.e, self.width, self.components, self.patterns = e, width, components, patterns
        self.count, self.signs = e.field(Field.WORDS), e.field(Field.SIGNS, POINTER)
        self.sums = e.at(e.tensor(Io.SUMS), e.b.mul(e.block, e.b.mul(self.count, I64(e.lanes))))
        self._bases, steps = e.field(Field.BASES, POINTER), e.field(Field.STEPS, POINTER)
        self._steps = [e.integer(steps, I64(i)) for i in range(1 << width)]
        self.table = e.field(Field.PATTERNS, POINTER)
        self.room = None if patterns else e.b.alloca(e.vector, size=I32(1 << width))
        if self.room is not None:
            self.room.align = e.lanes * e.size  # type: ignore[assignment]

    def tile(self, number: Any) -> _Tile:
        """Rows of a tile."""
        return _Tile(self.e, self.e.integer(self._bases, number), self._steps, self.components)

    def sign(self, tile: Any, word: Any) -> Any:
        """Sign of a word on the first row of a tile."""
        e = self.e
        return e.spread(e.value(self.signs, e.b.add(e.b.mul(tile, self.count), word)))

    def sum(self, word: Any) -> Any:
        """Address of the row of a word in Io.SUMS."""
        return self.e.at(self.sums, self.e.b.mul(word, I64(self.e.lanes)))

    def row(self, pattern: Any) -> Any:
        """Address of the row of a pattern."""
        return self.e.b.gep(self.room, [pattern], source_etype=self.e.vector)

    def pattern(self, word: Any) -> Any:
        """Address of the row of a word's pattern."""
        return self.row(self.e.integer(self.table, word))


def _emit_readout(e: Emitter, width: int, components: int, patterns: tuple[int, ...]) -> None:
    """Sums of squares under the signs of each word."""
    words = _Words(e, width, components, patterns)
    totals = [e.variable() for _ in patterns]
    if not patterns:
        e.loop(words.count, lambda word: e.write(e.zeros(), words.sum(word), aligned=False))

    def body(number: Any) -> None:
        tile = words.tile(number)
        squares = [e.b.fmul(x, x) for x in (e.read(p) for p in tile.parts(e.workspace, 0))]
        if components == 2:
            imaginary = [e.read(p) for p in tile.parts(e.workspace, 1)]
            squares = [e.fma(x, x, square) for x, square in zip(imaginary, squares)]
        rows = _walsh(e, squares)
        for i, (total, pattern) in enumerate(zip(totals, patterns)):
            e.b.store(e.fma(words.sign(number, I64(i)), rows[pattern], e.b.load(total, typ=e.vector)), total)
        if patterns:
            return
        for i, row in enumerate(rows):
            e.write(row, words.row(I64(i)))

        def add(word: Any) -> None:
            place = words.sum(word)
            total = e.read(place, aligned=False)
            e.write(e.fma(words.sign(number, word), e.read(words.pattern(word)), total), place, aligned=False)

        e.loop(words.count, add)

    e.loop(e.field(Field.COUNT), body)
    for i, total in enumerate(totals):
        e.write(e.b.load(total, typ=e.vector), words.sum(I64(i)), aligned=False)


def _emit_seed(e: Emitter, width: int, components: int, patterns: tuple[int, ...]) -> None:
    """The cotangent of the state: each row times the signed sum of the words' weights."""
    words = _Words(e, width, components, patterns)
    cotangent = e.at(e.workspace, e.field(Field.COTANGENT))

    def body(number: Any) -> None:
        tile = words.tile(number)
        rows: list[Any] = [None] * (1 << width)
        for i, pattern in enumerate(patterns):
            weight = (words.sign(number, I64(i)), e.read(words.sum(I64(i)), aligned=False))
            rows[pattern] = e.b.fmul(*weight) if rows[pattern] is None else e.fma(*weight, rows[pattern])
        if not patterns:
            for i in range(1 << width):
                e.write(e.zeros(), words.row(I64(i)))

            def add(word: Any) -> None:
                place = words.pattern(word)
                e.write(e.fma(words.sign(number, word), e.read(words.sum(word), aligned=False), e.read(place)), place)

            e.loop(words.count, add)
            rows = [e.read(words.row(I64(i))) for i in range(1 << width)]
        factors = _walsh(e, rows)
        for part in range(components):
            for factor, source, target in zip(factors, tile.parts(e.workspace, part), tile.parts(cotangent, part)):
                e.write(e.b.fmul(factor, e.read(source)), target)

    e.loop(e.field(Field.COUNT), body)


def _emit_scale(e: Emitter, components: int) -> None:
    """Every row of the cotangent's real parts, a weight, becomes weight times state."""
    cotangent = e.at(e.workspace, e.field(Field.COTANGENT))

    def body(row: Any) -> None:
        offset = e.b.mul(row, I64(e.lanes * components))
        weight = e.read(e.at(cotangent, offset))
        for part in range(components):
            place = e.b.add(offset, I64(part * e.lanes))
            e.write(e.b.fmul(weight, e.read(e.at(e.workspace, place))), e.at(cotangent, place))

    e.loop(e.field(Field.COUNT), body)


_EMITTERS: dict[str, Callable[..., None]] = {
    "forward": _emit_forward,
    "backward": _emit_backward,
    "load": _emit_load,
    "zero": _emit_zero,
    "store": _emit_store,
    "readout": _emit_readout,
    "seed": _emit_seed,
    "scale": _emit_scale,
}


def emitter(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enters a function among those whose kernels `kernel` knows by name."""

    def enter(function: Callable[..., None]) -> Callable[..., None]:
        _EMITTERS[name] = function
        return function

    return enter


def _emit_driver(e: Emitter) -> None:
    """`void drive(workspace, first block, records, io, number of records, end)`: all passes on each block in turn."""
    kinds = [POINTER, I64, POINTER, POINTER, I64, I64]
    function = ir.Function(e.module, ir.FunctionType(ir.VoidType(), kinds), "drive")
    workspace, begin, records, io, count, end = function.args
    e.b = b = ir.IRBuilder(function.append_basic_block("entry"))

    def block(index: Any) -> None:
        def step(number: Any) -> None:
            fields = b.gep(records, [b.mul(number, I64(RECORD))], source_etype=I64)
            kernel = b.load(fields, typ=I64)
            call = b.inttoptr(kernel, e.kernel_type.as_pointer())
            b.call(call, [workspace, b.add(begin, index), fields, io])

        e.loop(count, step)

    e.loop(b.sub(end, begin), block)
    b.ret_void()


@lru_cache(maxsize=1)
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=2)


@lru_cache(maxsize=1)
def vector_bytes() -> int:
    """Width of the processor's vector registers."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


@lru_cache(maxsize=1)
def n_registers() -> int:
    """Number of vector registers."""
    return 32 if vector_bytes() != 32 else 16


_engines: list[Any] = []  # code lives as long as its engine


def _compile(e: Emitter) -> Any:
    module = llvm.parse_assembly(str(e.module))
    module.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    llvm.create_pass_builder(_machine(), tuning).getModulePassManager().run(module, _builder(tuning))
    engine = llvm.create_mcjit_compiler(module, _machine())
    engine.finalize_object()
    _engines.append(engine)
    return engine


def _builder(tuning: Any) -> Any:
    return llvm.create_pass_builder(_machine(), tuning)


@cache
def kernel(bits: int, lanes: int, name: str, *options: Any) -> int:
    """Address of a kernel, compiled on first use.

    Args:
        bits: 32 or 64, the floating-point type.
        lanes: samples in a block.
        name: a key of `_EMITTERS`.
        options: the arguments of that emitter.
    """
    e = Emitter(bits, lanes)
    e.kernel(name)
    _EMITTERS[name](e, *options)
    e.b.ret_void()
    return _compile(e).get_function_address(name)


@lru_cache(maxsize=1)
def driver() -> Callable[..., None]:
    """The function that runs passes on blocks; it releases Python's lock."""
    e = Emitter(32, 4)
    _emit_driver(e)
    address = _compile(e).get_function_address("drive")
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    return ctypes.CFUNCTYPE(None, pointer, number, pointer, pointer, number, number)(address)
