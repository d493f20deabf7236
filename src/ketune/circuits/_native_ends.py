"""Kernels that move features, probabilities and sums of gradients between samples and rows of a block."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ketune.circuits._native_emitter import I32, I64, POINTER, Emitter, Field, Io, Shape

SMALLEST_SQUARED_NORM = 1e-30
"""Squared norms below this count as this, so that a zero vector has zero readouts and finite gradients."""


def samples(e: Emitter) -> list[Any]:
    """The samples of a block; the last one stands in for those beyond it."""
    b, last, first = e.b, e.shape(Shape.LAST), e.b.mul(e.block, I64(e.lanes))
    numbers = [b.add(first, I64(lane)) for lane in range(e.lanes)]
    return [b.select(b.icmp_signed("<", sample, last), sample, last) for sample in numbers]


def counted(e: Emitter, norm: Any) -> Any:
    """The squared norm that counts."""
    least = ir.Constant(e.vector, [SMALLEST_SQUARED_NORM] * e.lanes)
    return e.b.select(e.b.fcmp_ordered("<", norm, least), least, norm)


def constant(e: Emitter, value: float) -> Any:
    """A row of one number."""
    return ir.Constant(e.vector, [value] * e.lanes)


def _origin(e: Emitter, offset: Any) -> Any:
    """A row's offset, moved by flips that the angles decided."""
    return e.b.xor(offset, e.shape(Shape.ORIGIN))


def write_factor(e: Emitter, norm: Any) -> None:
    """2 / squared norm to FACTOR, zero for samples beyond the last."""
    b, lanes = e.b, e.lanes
    numbers = ir.VectorType(I64, lanes)
    none = ir.Constant(numbers, ir.Undefined)
    left = b.sub(e.shape(Shape.LAST), b.mul(e.block, I64(lanes)))
    spread = b.shuffle_vector(
        b.insert_element(none, left, I32(0)), none, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    )
    exists = b.icmp_signed("<=", ir.Constant(numbers, list(range(lanes))), spread)
    factor = b.fdiv(constant(e, 2.0), counted(e, norm))
    e.write(b.select(exists, factor, e.zeros()), e.at(e.workspace, e.field(Field.FACTOR)))


def emit_load(e: Emitter, components: int, what: str) -> None:
    """Columns of samples to rows, transposed, `lanes` columns of `lanes` samples at a time.

    `what` is "features" (to the state), "features and norms" (also 2 / squared norm to FACTOR, zero for samples beyond
    the last), or "weights" (of the probabilities, to the cotangent).
    """
    b, lanes = e.b, e.lanes
    is_weights = what == "weights"
    source, columns = e.tensor(Io.WEIGHTS if is_weights else Io.IN), e.shape(Shape.WEIGHTS if is_weights else Shape.IN)
    target = e.at(e.workspace, e.field(Field.COTANGENT)) if is_weights else e.workspace
    rows_of = e.field(Field.BASES, POINTER)
    sources = [e.at(source, b.mul(sample, columns)) for sample in samples(e)]
    norm = e.variable()

    def body(group: Any) -> None:
        column = b.mul(group, I64(lanes))
        rows = e.transpose([e.read(e.at(sample, column), aligned=False) for sample in sources])
        for i, row in enumerate(rows):
            offset = e.integer(rows_of, b.add(column, I64(i)))
            e.write(row, e.at(target, _origin(e, offset) if is_weights else offset))
        if what == "features and norms":
            squares = e.total([b.fmul(row, row) for row in rows])
            b.store(b.fadd(b.load(norm, typ=e.vector), squares), norm)

    e.loop(e.field(Field.COUNT), body)
    if what == "features and norms":
        write_factor(e, b.load(norm, typ=e.vector))


def emit_zero(e: Emitter, components: int) -> None:
    """Zeros in the rows of BASES; real parts only, the first pass makes the imaginary ones."""
    rows_of = e.field(Field.BASES, POINTER)
    e.loop(e.field(Field.COUNT), lambda i: e.write(e.zeros(), e.at(e.workspace, e.integer(rows_of, i))))


def square_of(e: Emitter, place: Any, components: int) -> Any:
    """Squared absolute value of a row of the state."""
    real = e.read(place)
    square = e.b.fmul(real, real)
    if components == 2:
        imaginary = e.read(e.at(place, I64(e.lanes)))
        square = e.fma(imaginary, imaginary, square)
    return square


def write_norm(e: Emitter, norm: Any) -> None:
    """Squared norms of a block to their tensor."""
    e.write(norm, e.at(e.tensor(Io.NORMS), e.b.mul(e.block, I64(e.lanes))), aligned=False)


def emit_store(e: Emitter, components: int, squares: bool) -> None:
    """Rows to columns of OUT, transposed: real parts of the cotangent, or probabilities, with their norms."""
    b, lanes = e.b, e.lanes
    columns, rows_of = e.shape(Shape.OUT), e.field(Field.BASES, POINTER)
    origin = e.workspace if squares else e.at(e.workspace, e.field(Field.COTANGENT))
    first = e.at(e.tensor(Io.OUT), b.mul(b.mul(e.block, I64(lanes)), columns))
    scale = None
    if squares:
        norm = e.variable()

        def add(row: Any) -> None:
            square = square_of(e, e.at(origin, b.mul(row, I64(lanes * components))), components)
            b.store(b.fadd(b.load(norm, typ=e.vector), square), norm)

        e.loop(e.field(Field.WORDS), add)
        total = counted(e, b.load(norm, typ=e.vector))
        write_norm(e, total)
        scale = b.fdiv(constant(e, 1.0), total)

    def body(group: Any) -> None:
        column = b.mul(group, I64(lanes))
        rows = []
        for i in range(lanes):
            offset = e.integer(rows_of, b.add(column, I64(i)))
            if scale is None:
                rows.append(e.read(e.at(origin, offset)))
            else:
                rows.append(b.fmul(square_of(e, e.at(origin, _origin(e, offset)), components), scale))
        for lane, row in enumerate(e.transpose(rows)):
            e.write(row, e.at(first, b.add(b.mul(columns, I64(lane)), column)), aligned=False)

    e.loop(e.field(Field.COUNT), body)


def emit_scale(e: Emitter, components: int) -> None:
    """Every row of the cotangent, a weight of a probability, becomes the cotangent of the state."""
    b, cotangent = e.b, e.at(e.workspace, e.field(Field.COTANGENT))
    factor, mean = e.read(e.at(e.workspace, e.field(Field.FACTOR))), e.variable()

    def offset(row: Any) -> Any:
        return b.mul(row, I64(e.lanes * components))

    def add(row: Any) -> None:
        square = square_of(e, e.at(e.workspace, offset(row)), components)
        b.store(e.fma(e.read(e.at(cotangent, offset(row))), square, b.load(mean, typ=e.vector)), mean)

    e.loop(e.field(Field.COUNT), add)
    half = b.fmul(factor, constant(e, 0.5))  # 1 / squared norm
    of_norm = b.fmul(b.load(mean, typ=e.vector), half)

    def body(row: Any) -> None:
        weight = b.fmul(b.fsub(e.read(e.at(cotangent, offset(row))), of_norm), factor)
        for part in range(components):
            place = b.add(offset(row), I64(part * e.lanes))
            e.write(b.fmul(weight, e.read(e.at(e.workspace, place))), e.at(cotangent, place))

    e.loop(e.field(Field.COUNT), body)


def emit_clear(e: Emitter) -> None:
    """Zeros in the sums of the gradients: COUNT groups of `lanes` rows."""
    sums = e.at(e.workspace, e.field(Field.TURN_SUMS))
    rows = e.b.mul(e.field(Field.COUNT), I64(e.lanes))
    e.loop(rows, lambda row: e.write(e.zeros(), e.at(sums, e.b.mul(row, I64(e.lanes)))))


def emit_collect(e: Emitter) -> None:
    """The sums of the gradients, added over lanes, to the row of the piece in TOTALS."""
    b, lanes = e.b, e.lanes
    double = ir.DoubleType()
    sums, groups = e.at(e.workspace, e.field(Field.TURN_SUMS)), e.field(Field.COUNT)
    target = b.gep(e.tensor(Io.TOTALS), [b.mul(b.mul(e.block, groups), I64(lanes))], source_etype=double)

    def body(group: Any) -> None:
        first = b.mul(group, I64(lanes))
        rows = [e.read(e.at(sums, b.mul(b.add(first, I64(i)), I64(lanes)))) for i in range(lanes)]
        total = e.total(e.transpose(rows))
        if e.size == 4:
            total = b.fpext(total, ir.VectorType(double, lanes))
        b.store(total, b.gep(target, [first], source_etype=double), align=8)

    e.loop(groups, body)
