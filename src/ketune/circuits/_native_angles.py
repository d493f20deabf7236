"""Machine code from angles to turns and phases, in double precision.

A call costs a few microseconds where the same in NumPy costs fifty.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from ketune.circuits._native_emitter import I32, I64, POINTER, Emitter, Io, Shape
from ketune.circuits._native_maps import EIGHT, GENERAL, REAL, Map, Maps, each_phase, matrix_of, spread_eight
from ketune.circuits._native_trigonometry import DOUBLE


def emit_angles(e: Emitter, lanes: int, components: int) -> None:
    """Io.ANGLES to Io.TURNS, Io.PHASES, Shape.ORIGIN and Io.NUMBERS."""
    maps = Maps(e, lanes)
    _emit_matrices(maps)
    _emit_slots(maps, components)
    _emit_signs(maps)
    _emit_turns(maps)
    _emit_phases(maps, components)


def _emit_matrices(maps: Maps) -> None:
    """The matrix of each slot: products of cosines and sines times constant matrices."""
    e, b = maps.e, maps.e.b
    slots, rotations, angles = maps.size(Map.SLOTS), maps.size(Map.ROTATIONS), e.tensor(Io.ANGLES)
    terms = b.shl(I64(1), rotations)
    table = e.field(Map.TERMS, POINTER)
    product, matrix = maps.accumulator(), maps.accumulator(EIGHT)

    def slot(number: Any) -> None:
        first = b.mul(number, rotations)

        def rotation(r: Any) -> None:
            place = b.add(b.mul(r, slots), number)
            angle = maps.to_double(e.value(angles, maps.integer(Map.INDEX, place)))
            pair = maps.one.cos_sin(b.fmul(angle, maps.double(Map.HALF, place)))
            for i, value in enumerate(pair):
                maps.put(value, Map.TRIG, b.add(b.mul(b.add(first, r), I64(2)), I64(i)))

        e.each(rotations, rotation)
        b.store(ir.Constant(EIGHT, [0.0] * 8), matrix)

        def term(t: Any) -> None:
            b.store(DOUBLE(1.0), product)

            def factor(r: Any) -> None:
                bit = b.and_(b.lshr(t, b.sub(b.sub(rotations, I64(1)), r)), I64(1))
                value = maps.get(Map.TRIG, b.add(b.mul(b.add(first, r), I64(2)), bit))
                b.store(b.fmul(b.load(product, typ=DOUBLE), value), product)

            e.each(rotations, factor)
            value, place = b.load(product, typ=DOUBLE), b.add(b.mul(number, terms), t)
            maps.put(value, Map.PRODUCTS, place)
            row = b.load(b.gep(table, [b.mul(place, I64(8))], source_etype=DOUBLE), typ=EIGHT, align=8)
            b.store(b.fadd(b.load(matrix, typ=EIGHT), b.fmul(spread_eight(b, value), row)), matrix)

        e.loop(terms, term)
        maps.put(b.load(matrix, typ=EIGHT), Map.MATRICES, b.mul(number, I64(8)))

    e.each(slots, slot)


def _emit_slots(maps: Maps, components: int) -> None:
    """Each slot as a turn between a lead and a trail phase.

    A turn beyond a quarter circle is a flip and a smaller turn.
    """
    e, b, one = maps.e, maps.e.b, maps.one
    slots = maps.size(Map.SLOTS)
    maps.zeros(Map.FLIPPED, maps.size(Map.FLIP_WORDS))  # a zero is the same as a double and as an integer

    def unit(number: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any]]:
        """Absolute value, and the number over it; 1 for 0."""
        x, y = number
        length = one.sqrt(one.fma(x, x, b.fmul(y, y)))
        nothing = b.fcmp_ordered("==", length, DOUBLE(0.0))
        divisor = b.select(nothing, DOUBLE(1.0), length)
        return length, (b.select(nothing, DOUBLE(1.0), b.fdiv(x, divisor)), b.fdiv(y, divisor))

    def slot(number: Any) -> None:
        first, second, third, fourth = (lambda m: (m[0], m[2], m[1], m[3]))(matrix_of(maps, number))
        cosine, sine, lead, trail = first[0], second[0], maps.double(Map.REFLECTED, number), DOUBLE(0.0)
        if components == 2:
            kind = maps.integer(Map.KINDS, number)
            is_real, is_general = (b.icmp_signed("==", kind, I64(which)) for which in (REAL, GENERAL))
            (above, u), (below, v) = unit(first), unit(second)
            turned = maps.multiply(v, u, conjugate=True)
            diagonal = maps.multiply(first, fourth)
            across = maps.multiply(third, second)
            determinant = b.fsub(diagonal[0], across[0]), b.fsub(diagonal[1], across[1])
            general = maps.multiply(maps.multiply(determinant, u, conjugate=True), v, conjugate=True)
            apart = maps.multiply(fourth, first, conjugate=True)
            leading = one.argument(*(b.select(is_general, x, y) for x, y in zip(general, apart)))
            lead = b.select(is_real, lead, leading)
            trail = b.select(is_general, one.argument(*turned), DOUBLE(0.0))
            for i, (value, otherwise) in enumerate(zip(turned, (1.0, 0.0))):
                maps.put(
                    b.select(is_general, value, DOUBLE(otherwise)), Map.TRAILS, b.add(b.mul(number, I64(2)), I64(i))
                )
            cosine = b.select(is_real, cosine, b.select(is_general, above, DOUBLE(1.0)))
            sine = b.select(is_real, sine, b.select(is_general, below, DOUBLE(0.0)))
        flipped = b.fcmp_ordered(">", one.abs(sine), one.abs(cosine))
        lead = b.select(flipped, b.fadd(lead, DOUBLE(math.pi)), lead)
        slope = b.fdiv(b.select(flipped, b.fneg(cosine), sine), b.select(flipped, sine, cosine))
        maps.put(lead, Map.PHASES, number)
        maps.put(trail, Map.PHASES, b.add(slots, number))
        maps.put(slope, Map.SLOPES, number)
        word = b.lshr(number, I64(6))
        bits = b.or_(maps.get(Map.FLIPPED, word, I64), b.shl(b.zext(flipped, I64), b.and_(number, I64(63))))
        maps.put(bits, Map.FLIPPED, word)

    e.each(slots, slot)
    start = b.mul(slots, I64(2))
    e.each(maps.size(Map.FIXED), lambda i: maps.put(maps.double(Map.FIXED_PHASES, i), Map.PHASES, b.add(start, i)))


def _emit_signs(maps: Maps) -> None:
    """The sign that the flips give each turn, phase, word and output, and where basis state 0 ends."""
    e, b = maps.e, maps.e.b
    words, table = maps.size(Map.FLIP_WORDS), e.field(Map.FLIPS, POINTER)
    bits = maps.accumulator(I64)

    def mask(number: Any) -> None:
        b.store(I64(0), bits)

        def add(word: Any) -> None:
            place = b.add(b.mul(number, words), word)
            mine = b.load(b.gep(table, [place], source_etype=I64), typ=I64)
            common = b.and_(mine, maps.get(Map.FLIPPED, word, I64))
            b.store(b.xor(b.load(bits, typ=I64), common), bits)

        e.each(words, add)
        odd = b.trunc(b.ctpop(b.load(bits, typ=I64)), ir.IntType(1))
        maps.put(b.select(odd, DOUBLE(-1.0), DOUBLE(1.0)), Map.SIGNS, number)

    masks, outputs = maps.size(Map.MASKS), maps.size(Map.OUTPUTS)
    e.each(masks, mask)
    b.store(I64(0), bits)

    def move(output: Any) -> None:
        sign = maps.get(Map.SIGNS, b.add(b.sub(masks, outputs), output))
        moved = b.xor(b.load(bits, typ=I64), maps.integer(Map.OUTPUT_PARITIES, output))
        b.store(b.select(b.fcmp_ordered("<", sign, DOUBLE(0.0)), moved, b.load(bits, typ=I64)), bits)

    e.each(outputs, move)
    origin = b.mul(b.load(bits, typ=I64), maps.size(Map.ROW))
    b.store(origin, b.gep(e.tensor(Io.SHAPE), [I64(Shape.ORIGIN)], source_etype=I64))


def _emit_turns(maps: Maps) -> None:
    """Tangents of the turns and signs of the words, and the cosines that the phases take over."""
    e, b, one = maps.e, maps.e.b, maps.one
    turns, target = maps.size(Map.TURNS), e.tensor(Io.TURNS)

    def turn(number: Any) -> None:
        slope = maps.get(Map.SLOPES, maps.integer(Map.TURN_SLOTS, number))
        tangent = maps.from_double(b.fmul(slope, maps.get(Map.SIGNS, number)))
        b.store(tangent, e.at(target, number))
        rounded = maps.to_double(tangent)  # the norm of the state is kept for the tangent that is used
        root = one.sqrt(one.fma(rounded, rounded, DOUBLE(1.0)))
        maps.put(b.fdiv(DOUBLE(1.0), root), Map.COSINES, number)

    e.each(turns, turn)
    first_word = b.add(turns, b.mul(maps.size(Map.STAGES), maps.size(Map.PLACES)))

    def word(number: Any) -> None:
        sign = maps.from_double(maps.get(Map.SIGNS, b.add(first_word, number)))
        b.store(sign, e.at(target, b.add(turns, number)))

    e.each(maps.size(Map.WORDS), word)
    scale = maps.accumulator()

    def stage(number: Any) -> None:
        b.store(DOUBLE(1.0), scale)
        first, last = (maps.integer(Map.FIRST_TURNS, b.add(number, I64(i))) for i in range(2))

        def take(i: Any) -> None:
            b.store(b.fmul(b.load(scale, typ=DOUBLE), maps.get(Map.COSINES, b.add(first, i))), scale)

        e.each(b.sub(last, first), take)
        maps.put(b.load(scale, typ=DOUBLE), Map.SCALES, number)

    e.each(maps.size(Map.STAGES), stage)


def _emit_phases(maps: Maps, components: int) -> None:
    """The phase of every basis state before the turns of each stage, times the stage's cosines.

    A phase that belongs to a parity turns the addresses of odd parity: half of the sum of all phases less the sum
    under their signs, which is a Walsh-Hadamard transform of the phases put at their parities.
    """
    e, b, many = maps.e, maps.e.b, maps.many
    lanes, size, dim = many.lanes, maps.size(Map.SPECTRUM_SIZE), maps.size(Map.DIM)
    total, target = maps.accumulator(), e.tensor(Io.PHASES)

    def stage(number: Any) -> None:
        maps.zeros(Map.SPECTRUM, size)
        b.store(DOUBLE(0.0), total)

        def add(place: Any, sign: Any) -> None:
            value = b.fmul(maps.get(Map.PHASES, maps.integer(Map.SOURCES, place)), sign)
            parity = maps.integer(Map.PARITIES, place)
            maps.put(b.fadd(maps.get(Map.SPECTRUM, parity), value), Map.SPECTRUM, parity)
            b.store(b.fadd(b.load(total, typ=DOUBLE), value), total)

        each_phase(maps, number, add)
        maps.walsh()
        none = ir.Constant(many.type, ir.Undefined)
        same = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)

        def spread(value: Any) -> Any:
            return b.shuffle_vector(b.insert_element(none, value, I32(0)), none, same)

        whole, scale = spread(b.load(total, typ=DOUBLE)), spread(maps.get(Map.SCALES, number))
        start = b.mul(number, dim)

        def row(index: Any) -> None:
            place = b.mul(index, I64(lanes))
            turned = b.fmul(b.fsub(whole, maps.get(Map.SPECTRUM, place, many.type)), many.constant(0.5))
            pair = [maps.from_double(b.fmul(value, scale)) for value in many.cos_sin(turned)]
            first = e.at(target, b.mul(b.add(start, place), I64(components)))
            if components == 1:
                b.store(pair[0], first, align=e.size)
                return
            order = [lanes * part + i for i in range(lanes) for part in range(2)]
            both = b.shuffle_vector(pair[0], pair[1], ir.Constant(ir.VectorType(I32, 2 * lanes), order))
            b.store(both, first, align=e.size)

        e.loop(b.udiv(size, I64(lanes)), row)

    e.each(maps.size(Map.STAGES), stage)
