"""What the code between angles and turns works with: sizes, tables and numbers of a circuit, and a Walsh transform.

The tables are made by `ketune.circuits._native_tables`, which also says what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from llvmlite import ir

from ketune.circuits._native_emitter import I32, I64, POINTER, Emitter, Io
from ketune.circuits._native_trigonometry import DOUBLE, Trigonometry

DIAGONAL, REAL, GENERAL = 0, 1, 2
"""Kinds of slots in the table KINDS."""

EIGHT = ir.VectorType(DOUBLE, 8)


class Map(IntEnum):
    """Positions in the record of a circuit: sizes, addresses of tables, offsets in Io.NUMBERS (counted in doubles)."""

    ANGLES = 0  # how many angles
    ROTATIONS = 1  # most rotations in a slot
    SLOTS = 2
    TURNS = 3
    STAGES = 4
    DIM = 5  # basis states
    SPECTRUM_SIZE = 6  # the same, but at least a vector of doubles
    PLACES = 7  # phases in each stage, padded with phases that are zero
    WORDS = 8
    OUTPUTS = 9  # wires whose flips move the row of basis state 0; none unless the readout is "probabilities"
    FLIP_WORDS = 10  # int64 words that hold one bit a slot
    MASKS = 11  # number of masks of flips: of the turns, the phases, the words, the outputs
    FIXED = 12  # number of fixed phases
    ROW = 13  # workspace elements of a row, for Shape.ORIGIN
    TOTAL_ROWS = 14  # rows of Io.TOTALS
    INDEX = 15  # int32 (rotations, slots): which angle
    HALF = 16  # double (rotations, slots): factor on it
    TERMS = 17  # double (slots, 2 ** rotations, 8): the matrices that products of cosines and sines multiply
    KINDS = 18  # int32 (slots,)
    REFLECTED = 19  # double (slots,): pi for a real matrix of determinant -1
    TURN_SLOTS = 20  # int32 (turns,)
    FIRST_TURNS = 21  # int32 (stages + 1,)
    BACK_ORDER = 22  # int32 (turns,): the turns of each stage in the order in which they are taken back
    SUM_ROWS = 23  # int32 (turns, 2): rows of Io.TOTALS with the sums along Y and X
    SOURCES = 24  # int32 (stages, places): lead phases of the slots, trail phases, fixed ones
    PARITIES = 25  # int32 (stages, places)
    Z_SLOTS = 26  # int32 (stages, places): slot that the phase turns about Z, or -1
    FLIPS = 27  # int64 (masks, words)
    FIXED_PHASES = 28  # double (fixed,)
    OUTPUT_PARITIES = 29  # int32 (outputs,)
    TRIG = 30  # offset (slots, rotations, 2)
    PRODUCTS = 31  # offset (slots, 2 ** rotations)
    MATRICES = 32  # offset (slots, 8)
    PHASES = 33  # offset (2 slots + fixed,): lead, trail, fixed
    TRAILS = 34  # offset (slots, 2): cosine and sine of the trail phase
    SLOPES = 35  # offset (slots,): tangents
    FLIPPED = 36  # offset (flip words,), int64
    SIGNS = 37  # offset (masks,)
    COSINES = 38  # offset (turns,): what each turn leaves out
    SCALES = 39  # offset (stages,): product of the cosines
    SPECTRUM = 40  # offset (spectrum size,)
    GENERATORS = 41  # offset (slots, 8)
    GRADIENT = 42  # offset (angles,)
    SUMS = 43  # offset (total rows,)


class Maps:
    """Sizes, tables and numbers of a call."""

    def __init__(self, e: Emitter, lanes: int) -> None:
        self.e, self.one, self.many = e, Trigonometry(e), Trigonometry(e, lanes)
        self.numbers = e.tensor(Io.NUMBERS)

    def size(self, which: Map) -> Any:
        return self.e.field(which)

    def integer(self, table: Map, index: Any) -> Any:
        """An entry of an int32 table."""
        return self.e.integer(self.e.field(table, POINTER), index)

    def double(self, table: Map, index: Any) -> Any:
        """An entry of a table of doubles."""
        b = self.e.b
        return b.load(b.gep(self.e.field(table, POINTER), [index], source_etype=DOUBLE), typ=DOUBLE)

    def place(self, which: Map, index: Any) -> Any:
        """Address of one of the numbers."""
        b = self.e.b
        return b.gep(self.numbers, [b.add(self.e.field(which), index)], source_etype=DOUBLE)

    def get(self, which: Map, index: Any, kind: Any = DOUBLE) -> Any:
        """One of the numbers, or a vector from there on."""
        return self.e.b.load(self.place(which, index), typ=kind, align=8)

    def put(self, value: Any, which: Map, index: Any) -> None:
        self.e.b.store(value, self.place(which, index), align=8)

    def zeros(self, which: Map, count: Any) -> None:
        self.e.each(count, lambda i: self.put(DOUBLE(0.0), which, i))

    def accumulator(self, kind: Any = DOUBLE) -> Any:
        with self.e.b.goto_entry_block():
            return self.e.b.alloca(kind)

    def to_double(self, value: Any) -> Any:
        return self.e.b.fpext(value, DOUBLE) if self.e.size == 4 else value

    def from_double(self, value: Any) -> Any:
        if self.e.size == 8:
            return value
        kind = value.type
        target = self.e.scalar if kind == DOUBLE else ir.VectorType(self.e.scalar, kind.count)
        return self.e.b.fptrunc(value, target)

    def multiply(self, a: tuple[Any, Any], c: tuple[Any, Any], conjugate: bool = False) -> tuple[Any, Any]:
        """Product of complex numbers; `conjugate` takes the conjugate of the second."""
        b, (x, y), (u, v) = self.e.b, a, c
        v = b.fneg(v) if conjugate else v
        return b.fsub(b.fmul(x, u), b.fmul(y, v)), b.fadd(b.fmul(x, v), b.fmul(y, u))

    def walsh(self) -> None:
        """The spectrum: from numbers at parities to sums under the signs of each address, in place.

        Entry k becomes the sum of (-1)^parity(k & j) times entry j; the same leads back, up to a factor.
        """
        b, many = self.e.b, self.many
        lanes, size = many.lanes, self.size(Map.SPECTRUM_SIZE)

        def inside(index: Any) -> None:
            place = b.mul(index, I64(lanes))
            row = self.get(Map.SPECTRUM, place, many.type)
            step = 1
            while step < lanes:
                mask = ir.Constant(ir.VectorType(I32, lanes), [i ^ step for i in range(lanes)])
                signs = ir.Constant(many.type, [-1.0 if i & step else 1.0 for i in range(lanes)])
                row = many.fma(row, signs, b.shuffle_vector(row, row, mask))
                step *= 2
            self.put(row, Map.SPECTRUM, place)

        vectors = b.udiv(size, I64(lanes))
        self.e.loop(vectors, inside)
        half = self.accumulator(I64)
        b.store(I64(lanes), half)

        def across(_: Any) -> None:
            width = b.load(half, typ=I64)
            below = b.sub(width, I64(1))

            def pair(index: Any) -> None:
                place = b.mul(index, I64(lanes))
                low = b.and_(place, below)
                first = b.add(b.mul(b.sub(place, low), I64(2)), low)
                second = b.add(first, width)
                x, y = (self.get(Map.SPECTRUM, at, many.type) for at in (first, second))
                self.put(b.fadd(x, y), Map.SPECTRUM, first)
                self.put(b.fsub(x, y), Map.SPECTRUM, second)

            self.e.loop(b.udiv(vectors, I64(2)), pair)
            b.store(b.mul(width, I64(2)), half)

        # The loop runs once for each bit of an address beyond those inside a vector.
        levels = b.sub(b.cttz(size, ir.IntType(1)(0)), I64(lanes.bit_length() - 1))
        self.e.each(levels, across)


def spread_eight(b: Any, value: Any) -> Any:
    none = ir.Constant(EIGHT, ir.Undefined)
    return b.shuffle_vector(b.insert_element(none, value, I32(0)), none, ir.Constant(ir.VectorType(I32, 8), [0] * 8))


def matrix_of(maps: Maps, slot: Any) -> list[tuple[Any, Any]]:
    """The four entries of a slot's matrix, row by row."""
    b = maps.e.b
    row = maps.get(Map.MATRICES, b.mul(slot, I64(8)), EIGHT)
    values = [b.extract_element(row, I32(i)) for i in range(8)]
    return list(zip(values[::2], values[1::2]))


def each_phase(maps: Maps, stage: Any, body: Callable[[Any, Any], None]) -> None:
    """`body(place, sign)` on the phases of a stage."""
    e, b = maps.e, maps.e.b
    count = maps.size(Map.PLACES)

    def each(i: Any) -> None:
        place = b.add(b.mul(stage, count), i)
        body(place, maps.get(Map.SIGNS, b.add(maps.size(Map.TURNS), place)))

    e.each(count, each)
