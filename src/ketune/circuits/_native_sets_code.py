"""Machine code for sets of angles: every lane turns by its own angles. Kernels as in `_native_code`.

The workspace of a block holds, beside state and cotangent, rows of the angles, of their cosines and sines, of the
phases of each tile, and of the gradients of the angles.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from llvmlite import ir

from ketune.circuits._native_emitter import I32, I64, POINTER, Emitter, Field, Io, Shape
from ketune.circuits._native_ends import constant, samples, write_factor
from ketune.circuits._native_trigonometry import Trigonometry


class SetField(IntEnum):
    """Positions in the record of one pass; COUNT, BASES, STEPS, COTANGENT and FACTOR are those of `Field`."""

    COUNT = Field.COUNT
    BASES = Field.BASES
    STEPS = Field.STEPS
    ANGLES = 4  # int32: workspace offset of the cosine of each rotation, the sine follows
    FIXED = 5  # offset of the first fixed phase in Io.PHASES
    BEFORE = 6  # workspace offset of the phases of a tile that come first
    AFTER = 7  # of those that come last
    COTANGENT = Field.COTANGENT
    GRADIENTS = 9  # int32: workspace offset of the gradient that each rotation adds to
    FACTORS = 10  # T: what the gradient is to be multiplied by
    SUMS = 11  # workspace offset of the sums for the phases that come first, then for those that come last


class SetIo(IntEnum):
    """Positions of the tensors of a call that mean something else than in `Io`."""

    ANGLES = Io.ANGLES  # (sets, columns)
    D_ANGLES = Io.NUMBERS  # (blocks * lanes, columns)


class SetShape(IntEnum):
    """Positions in Io.SHAPE beyond those of `Shape`."""

    ANGLE_COLUMNS = len(Shape)
    IN_ROWS = len(Shape) + 1  # rows of Io.IN: sample s has row s modulo this
    SAMPLES = len(Shape) + 2  # samples for each set of angles


def entry(e: Emitter, field: SetField, index: Any) -> Any:
    """An entry of a table of int32."""
    return e.integer(e.field(field, POINTER), index)


def number(e: Emitter, index: Any) -> Any:
    """An entry of the table of factors."""
    return e.value(e.field(SetField.FACTORS, POINTER), index)


def row_at(e: Emitter, offset: Any) -> Any:
    """Address of a row of the workspace."""
    return e.at(e.workspace, offset)


def _emit_load(e: Emitter, angles: bool) -> None:
    """Columns of Io.IN or of the angles to rows: groups of `lanes` columns from STEPS on go to the rows of BASES."""
    b, lanes = e.b, e.lanes
    source, columns = (
        e.tensor(SetIo.ANGLES if angles else Io.IN),
        e.shape(SetShape.ANGLE_COLUMNS if angles else Shape.IN),
    )
    divide, divisor = (b.udiv, SetShape.SAMPLES) if angles else (b.urem, SetShape.IN_ROWS)
    rows_of = [divide(sample, e.shape(divisor)) for sample in samples(e)]
    sources = [e.at(source, b.mul(row, columns)) for row in rows_of]

    def body(group: Any) -> None:
        column = entry(e, SetField.STEPS, group)
        rows = e.transpose([e.read(e.at(sample, column), aligned=False) for sample in sources])
        for i, row in enumerate(rows):
            e.write(row, row_at(e, entry(e, SetField.BASES, b.add(b.mul(group, I64(lanes)), I64(i)))))

    e.loop(e.field(SetField.COUNT), body)


def _emit_store(e: Emitter, angles: bool) -> None:
    """Rows to columns of the gradients of Io.IN or of the angles: the way back of `set_load`."""
    b, lanes = e.b, e.lanes
    target = e.tensor(SetIo.D_ANGLES if angles else Io.OUT)
    columns = e.shape(SetShape.ANGLE_COLUMNS if angles else Shape.OUT)
    first = e.at(target, b.mul(b.mul(e.block, I64(lanes)), columns))

    def body(group: Any) -> None:
        column = entry(e, SetField.STEPS, group)
        places = [entry(e, SetField.BASES, b.add(b.mul(group, I64(lanes)), I64(i))) for i in range(lanes)]
        for lane, row in enumerate(e.transpose([e.read(row_at(e, place)) for place in places])):
            e.write(row, e.at(first, b.add(b.mul(columns, I64(lane)), column)), aligned=False)

    e.loop(e.field(SetField.COUNT), body)


def _emit_start(e: Emitter) -> None:
    """One in the first row."""
    e.write(constant(e, 1.0), e.workspace)


def _emit_products(e: Emitter, back: bool) -> None:
    """Products of two angles of each lane (rows BASES and STEPS, product in ANGLES); or their gradients' way back."""
    b = e.b

    def body(i: Any) -> None:
        x, y, product = (entry(e, which, i) for which in (SetField.BASES, SetField.STEPS, SetField.ANGLES))
        if not back:
            e.write(b.fmul(e.read(row_at(e, x)), e.read(row_at(e, y))), row_at(e, product))
            return
        shift = e.field(SetField.SUMS)  # from an angle to its gradient
        gradient = e.read(row_at(e, b.add(product, shift)))
        for one, other in ((x, y), (y, x)):
            place = row_at(e, b.add(one, shift))
            e.write(e.fma(gradient, e.read(row_at(e, other)), e.read(place)), place)

    e.loop(e.field(SetField.COUNT), body)


def _emit_cosines(e: Emitter) -> None:
    """Cosine and sine of each rotation, one after the other from BEFORE on: angle times factor, plus a constant."""
    b, target, single = e.b, e.field(SetField.BEFORE), e.size == 4
    double = ir.VectorType(ir.DoubleType(), e.lanes)

    def body(i: Any) -> None:
        factor, offset = (e.spread(number(e, b.add(b.mul(i, I64(2)), I64(k)))) for k in range(2))
        angle = e.fma(e.read(row_at(e, entry(e, SetField.BASES, i))), factor, offset)
        pair = Trigonometry(e, e.lanes).cos_sin(b.fpext(angle, double) if single else angle)
        for k, row in enumerate(b.fptrunc(row, e.vector) if single else row for row in pair):
            e.write(row, row_at(e, b.add(target, b.add(b.mul(i, I64(2 * e.lanes)), I64(k * e.lanes)))))

    e.loop(e.field(SetField.COUNT), body)


def _emit_phases(e: Emitter, width: int) -> None:
    """Phases of the rows of a tile: products over rotations about z, whose signs are in FACTORS."""
    b, rows = e.b, range(1 << width)
    phases = [(e.variable(), e.variable()) for _ in rows]
    for real, _ in phases:
        b.store(constant(e, 1.0), real)

    def body(i: Any) -> None:
        place = entry(e, SetField.ANGLES, i)
        cosine, sine = e.read(row_at(e, place)), e.read(row_at(e, b.add(place, I64(e.lanes))))
        for row, (real, imaginary) in enumerate(phases):
            sign = e.spread(number(e, b.add(b.mul(i, I64(1 << width)), I64(row))))
            x, y, signed = b.load(real, typ=e.vector), b.load(imaginary, typ=e.vector), b.fmul(sign, sine)
            b.store(e.fma(signed, y, b.fmul(cosine, x)), real)
            b.store(e.fnma(signed, x, b.fmul(cosine, y)), imaginary)

    e.loop(e.field(SetField.COUNT), body)
    target = row_at(e, e.field(SetField.BEFORE))
    for k, place in enumerate(place for pair in phases for place in pair):
        e.write(b.load(place, typ=e.vector), e.at(target, I64(k * e.lanes)))


def _emit_phase_sums(e: Emitter, width: int) -> None:
    """Gradients of rotations about z from the sums by row of a tile; their signs, times factors, are in FACTORS."""
    b = e.b
    sums = [e.read(e.at(row_at(e, e.field(SetField.SUMS)), I64(j * e.lanes))) for j in range(1 << width)]

    def body(i: Any) -> None:
        place = row_at(e, entry(e, SetField.GRADIENTS, i))
        total = e.read(place)
        for j, row in enumerate(sums):
            total = e.fma(e.spread(number(e, b.add(b.mul(i, I64(1 << width)), I64(j)))), row, total)
        e.write(total, place)

    e.loop(e.field(SetField.COUNT), body)


def _emit_factor(e: Emitter) -> None:
    """2 / squared norm of each sample to FACTOR, from the norms of the way forward."""
    row = e.zeros()
    for lane, sample in enumerate(samples(e)):
        row = e.b.insert_element(row, e.value(e.tensor(Io.NORMS), sample), I32(lane))
    write_factor(e, row)


EMITTERS = {
    "set_load": _emit_load,
    "set_store": _emit_store,
    "set_start": _emit_start,
    "set_products": _emit_products,
    "set_cosines": _emit_cosines,
    "set_phases": _emit_phases,
    "set_phase_sums": _emit_phase_sums,
    "set_factor": _emit_factor,
}
