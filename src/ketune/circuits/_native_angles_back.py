"""Machine code from sums over samples to the cotangents of the angles, in double precision."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ketune.circuits._native_emitter import I32, I64, POINTER, Emitter, Io
from ketune.circuits._native_maps import EIGHT, Map, Maps, each_phase, matrix_of
from ketune.circuits._native_trigonometry import DOUBLE


def emit_angles_back(e: Emitter, lanes: int, components: int) -> None:
    """Io.TOTALS of `block` pieces and what `emit_angles` left to the cotangents of the angles, in Io.ANGLES."""
    maps = Maps(e, lanes)
    _emit_sums(maps)
    maps.zeros(Map.GENERATORS, e.b.mul(maps.size(Map.SLOTS), I64(8)))
    _emit_turn_generators(maps, components)
    if components == 2:
        _emit_phase_generators(maps)
    maps.zeros(Map.GRADIENT, maps.size(Map.ANGLES))
    _emit_gradient(maps)


def _emit_sums(maps: Maps) -> None:
    """The sums of all pieces, in order; TOTAL_ROWS is a multiple of the lanes."""
    e, b, many = maps.e, maps.e.b, maps.many
    rows, totals = maps.size(Map.TOTAL_ROWS), e.tensor(Io.TOTALS)
    total = maps.accumulator(many.type)

    def group(index: Any) -> None:
        first = b.mul(index, I64(many.lanes))
        b.store(many.constant(0.0), total)

        def piece(number: Any) -> None:
            place = b.gep(totals, [b.add(b.mul(number, rows), first)], source_etype=DOUBLE)
            b.store(b.fadd(b.load(total, typ=many.type), b.load(place, typ=many.type, align=8)), total)

        e.loop(e.block, piece)
        maps.put(b.load(total, typ=many.type), Map.SUMS, first)

    e.each(b.udiv(rows, I64(many.lanes)), group)


def _emit_turn_generators(maps: Maps, components: int) -> None:
    """Gradients along the generators Y and X of each turn, seen from after its trail phase.

    The sums are twice those gradients and lack the cosines of the turns that were taken back earlier, once for the
    state and once for the cotangent.
    """
    e, b = maps.e, maps.e.b
    left_out = maps.accumulator()

    def stage(number: Any) -> None:
        b.store(DOUBLE(1.0), left_out)
        first, last = (maps.integer(Map.FIRST_TURNS, b.add(number, I64(i))) for i in range(2))

        def turn(i: Any) -> None:
            t = maps.integer(Map.BACK_ORDER, b.add(first, i))
            factor, cosine = b.load(left_out, typ=DOUBLE), maps.get(Map.COSINES, t)
            b.store(b.fmul(factor, b.fmul(cosine, cosine)), left_out)
            factor = b.fmul(factor, DOUBLE(0.5))
            rows = [maps.integer(Map.SUM_ROWS, b.add(b.mul(t, I64(2)), I64(k))) for k in range(2)]
            along_y, along_x = (b.fmul(maps.get(Map.SUMS, row), factor) for row in rows)
            along_y = b.fmul(along_y, maps.get(Map.SIGNS, t))
            slot = maps.integer(Map.TURN_SLOTS, t)
            upper, lower = (b.fneg(along_y), b.fneg(along_x)), (along_y, b.fneg(along_x))
            if components == 2:
                trail = tuple(maps.get(Map.TRAILS, b.add(b.mul(slot, I64(2)), I64(k))) for k in range(2))
                upper, lower = maps.multiply(upper, trail, conjugate=True), maps.multiply(lower, trail)
            for k, value in enumerate((*upper, *lower)):
                maps.put(value, Map.GENERATORS, b.add(b.mul(slot, I64(8)), I64(2 + k)))

        e.each(b.sub(last, first), turn)

    e.each(maps.size(Map.STAGES), stage)


def _emit_phase_generators(maps: Maps) -> None:
    """Gradients along Z of the slots that turn phases; the sums lack the stage's cosines, twice."""
    e, b = maps.e, maps.e.b
    size, dim = maps.size(Map.SPECTRUM_SIZE), maps.size(Map.DIM)

    def stage(number: Any) -> None:
        start = b.add(b.mul(maps.size(Map.TURNS), I64(2)), b.mul(number, dim))
        maps.zeros(Map.SPECTRUM, size)
        e.loop(dim, lambda row: maps.put(maps.get(Map.SUMS, b.add(start, row)), Map.SPECTRUM, row))
        maps.walsh()
        scale = maps.get(Map.SCALES, number)
        factor = b.fmul(b.fmul(scale, scale), DOUBLE(-0.5))

        def add(place: Any, sign: Any) -> None:
            slot = maps.integer(Map.Z_SLOTS, place)
            with b.if_then(b.icmp_signed(">=", slot, I64(0))):
                value = maps.get(Map.SPECTRUM, maps.integer(Map.PARITIES, place))
                along_z = b.fmul(b.fmul(value, sign), factor)
                first = b.mul(slot, I64(8))
                maps.put(b.fneg(along_z), Map.GENERATORS, b.add(first, I64(1)))
                maps.put(along_z, Map.GENERATORS, b.add(first, I64(7)))

        each_phase(maps, number, add)

    e.each(maps.size(Map.STAGES), stage)


def _emit_gradient(maps: Maps) -> None:
    """From generators by the matrices to products of cosines and sines, and from those to the angles."""
    e, b = maps.e, maps.e.b
    slots, rotations = maps.size(Map.SLOTS), maps.size(Map.ROTATIONS)
    terms, table = b.shl(I64(1), rotations), e.field(Map.TERMS, POINTER)
    along = maps.accumulator()

    def slot(number: Any) -> None:
        row = maps.get(Map.GENERATORS, b.mul(number, I64(8)), EIGHT)
        values = [b.extract_element(row, I32(i)) for i in range(8)]
        g, m = list(zip(values[::2], values[1::2])), matrix_of(maps, number)
        entries = []
        for i in range(2):
            for j in range(2):
                parts = (maps.multiply(g[2 * i + k], m[2 * k + j]) for k in range(2))
                entries += [b.fadd(x, y) for x, y in zip(*parts)]
        cotangent = ir.Constant(EIGHT, [0.0] * 8)
        for i, value in enumerate(entries):
            cotangent = b.insert_element(cotangent, value, I32(i))

        def rotation(r: Any) -> None:
            bit = b.shl(I64(1), b.sub(b.sub(rotations, I64(1)), r))
            b.store(DOUBLE(0.0), along)

            def term(t: Any) -> None:
                # The derivative of a cosine is minus the sine, of a sine the cosine: the product with the other one.
                other = maps.get(Map.PRODUCTS, b.add(b.mul(number, terms), b.xor(t, bit)))
                has_sine = b.icmp_signed("!=", b.and_(t, bit), I64(0))
                other = b.select(has_sine, other, b.fneg(other))
                place = b.mul(b.add(b.mul(number, terms), t), I64(8))
                matrix = b.load(b.gep(table, [place], source_etype=DOUBLE), typ=EIGHT, align=8)
                products = b.fmul(matrix, cotangent)
                d_product = e.total([b.extract_element(products, I32(i)) for i in range(8)])
                b.store(b.fadd(b.load(along, typ=DOUBLE), b.fmul(other, d_product)), along)

            e.loop(terms, term)
            place = b.add(b.mul(r, slots), number)
            d_angle = b.fmul(b.load(along, typ=DOUBLE), maps.double(Map.HALF, place))
            index = maps.integer(Map.INDEX, place)
            maps.put(b.fadd(maps.get(Map.GRADIENT, index), d_angle), Map.GRADIENT, index)

        e.each(rotations, rotation)

    e.each(slots, slot)
    target = e.tensor(Io.ANGLES)
    e.each(maps.size(Map.ANGLES), lambda i: b.store(maps.from_double(maps.get(Map.GRADIENT, i)), e.at(target, i)))
