"""Kernels of readouts that are sums of squares under the signs of words, and of the cotangents that they start."""

from __future__ import annotations

from typing import Any

from ketune.circuits._native_emitter import I32, I64, POINTER, Emitter, Field, Io, Shape
from ketune.circuits._native_ends import constant, counted, square_of, write_norm
from ketune.circuits._native_passes import Tile


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

    The last one is the squared norm. Few words (`patterns` not empty) are written out one after the other and stay in
    registers; many are a loop.
    """

    def __init__(self, e: Emitter, width: int, components: int, patterns: tuple[int, ...]) -> None:
        self.e, self.width, self.components, self.patterns = e, width, components, patterns
        self.count, self.signs = e.field(Field.WORDS), e.field(Field.SIGNS, POINTER)
        self.n_words = e.b.sub(self.count, I64(1))
        self.sums = e.at(e.workspace, e.field(Field.SUMS))
        self._bases, steps = e.field(Field.BASES, POINTER), e.field(Field.STEPS, POINTER)
        self._steps = [e.integer(steps, I64(i)) for i in range(1 << width)]
        self.table = e.field(Field.PATTERNS, POINTER)
        self.room = None if patterns else e.b.alloca(e.vector, size=I32(1 << width))
        if self.room is not None:
            self.room.align = e.lanes * e.size  # type: ignore[assignment]

    def tile(self, number: Any) -> Tile:
        """Rows of a tile."""
        return Tile(self.e, self.e.integer(self._bases, number), self._steps, self.components)

    def sign(self, tile: Any, word: Any) -> Any:
        """Sign of a word on the first row of a tile."""
        e = self.e
        return e.spread(e.value(self.signs, e.b.add(e.b.mul(tile, self.count), word)))

    def sum(self, word: Any) -> Any:
        """Address of the row of a word."""
        return self.e.at(self.sums, self.e.b.mul(word, I64(self.e.lanes)))

    def out(self, word: Any) -> Any:
        """Address of the row of a word's readout, on the way back."""
        return self.sum(self.e.b.add(self.count, word))

    def flip(self, word: Any) -> Any:
        """The sign that the angles gave a word."""
        e = self.e
        return e.spread(e.value(e.tensor(Io.TURNS), e.b.add(e.field(Field.TURNS), word)))

    def row(self, pattern: Any) -> Any:
        """Address of the row of a pattern."""
        return self.e.b.gep(self.room, [pattern], source_etype=self.e.vector)

    def pattern(self, word: Any) -> Any:
        """Address of the row of a word's pattern."""
        return self.row(self.e.integer(self.table, word))


def emit_readout(e: Emitter, width: int, components: int, patterns: tuple[int, ...]) -> None:
    """Sums of squares under the signs of each word, over the squared norm."""
    b, lanes, words = e.b, e.lanes, _Words(e, width, components, patterns)
    totals = [e.variable() for _ in patterns]
    if not patterns:
        e.loop(words.count, lambda word: e.write(e.zeros(), words.sum(word)))

    def body(number: Any) -> None:
        tile = words.tile(number)
        rows = _walsh(e, [square_of(e, place, components) for place in tile.parts(e.workspace, 0)])
        for i, (total, pattern) in enumerate(zip(totals, patterns)):
            b.store(e.fma(words.sign(number, I64(i)), rows[pattern], b.load(total, typ=e.vector)), total)
        if patterns:
            return
        for i, row in enumerate(rows):
            e.write(row, words.row(I64(i)))

        def add(word: Any) -> None:
            place = words.sum(word)
            e.write(e.fma(words.sign(number, word), e.read(words.pattern(word)), e.read(place)), place)

        e.loop(words.count, add)

    e.loop(e.field(Field.COUNT), body)
    for i, total in enumerate(totals):
        e.write(b.load(total, typ=e.vector), words.sum(I64(i)))
    norm = counted(e, e.read(words.sum(words.n_words)))
    write_norm(e, norm)
    scale = b.fdiv(constant(e, 1.0), norm)

    def divide(word: Any) -> None:
        e.write(b.fmul(e.read(words.sum(word)), b.fmul(scale, words.flip(word))), words.sum(word))

    e.loop(words.n_words, divide)
    first = b.mul(e.block, I64(lanes))
    left = b.add(b.sub(e.shape(Shape.LAST), first), I64(1))
    target = e.tensor(Io.READOUTS)

    def sample(lane: Any) -> None:
        row = b.mul(b.add(first, lane), words.n_words)
        e.loop(words.n_words, lambda word: b.store(e.value(words.sum(word), lane), e.at(target, b.add(row, word))))

    e.loop(b.select(b.icmp_signed("<", left, I64(lanes)), left, I64(lanes)), sample)


def _read_weights(e: Emitter, words: _Words) -> None:
    """Cotangents of the readouts to the weights of the words, and that of the norm, which every square carries too."""
    b, lanes = e.b, e.lanes
    cotangents, readouts = e.tensor(Io.WEIGHTS), e.tensor(Io.READOUTS)
    last, first = e.shape(Shape.LAST), b.mul(e.block, I64(lanes))

    def sample(lane: Any) -> None:
        number = b.add(first, lane)
        row = b.mul(b.select(b.icmp_signed("<", number, last), number, last), words.n_words)

        def copy(word: Any) -> None:
            place = b.add(row, word)
            b.store(e.value(cotangents, place), e.at(words.sum(word), lane))
            b.store(e.value(readouts, place), e.at(words.out(word), lane))

        e.loop(words.n_words, copy)

    e.loop(I64(lanes), sample)
    factor, of_norm = e.read(e.at(e.workspace, e.field(Field.FACTOR))), e.variable()

    def weigh(word: Any) -> None:
        weight = b.fmul(e.read(words.sum(word)), factor)
        b.store(e.fnma(weight, e.read(words.out(word)), b.load(of_norm, typ=e.vector)), of_norm)
        e.write(b.fmul(weight, words.flip(word)), words.sum(word))

    e.loop(words.n_words, weigh)
    e.write(b.load(of_norm, typ=e.vector), words.sum(words.n_words))


def emit_seed(e: Emitter, width: int, components: int, patterns: tuple[int, ...]) -> None:
    """The cotangent of the state: each row times the signed sum of the words' weights."""
    words = _Words(e, width, components, patterns)
    cotangent = e.at(e.workspace, e.field(Field.COTANGENT))
    _read_weights(e, words)

    def body(number: Any) -> None:
        tile = words.tile(number)
        rows: list[Any] = [None] * (1 << width)
        for i, pattern in enumerate(patterns):
            weight = (words.sign(number, I64(i)), e.read(words.sum(I64(i))))
            rows[pattern] = e.b.fmul(*weight) if rows[pattern] is None else e.fma(*weight, rows[pattern])
        if not patterns:
            for i in range(1 << width):
                e.write(e.zeros(), words.row(I64(i)))

            def add(word: Any) -> None:
                place = words.pattern(word)
                e.write(e.fma(words.sign(number, word), e.read(words.sum(word)), e.read(place)), place)

            e.loop(words.count, add)
            rows = [e.read(words.row(I64(i))) for i in range(1 << width)]
        factors = _walsh(e, rows)
        for part in range(components):
            for factor, source, target in zip(factors, tile.parts(e.workspace, part), tile.parts(cotangent, part)):
                e.write(e.b.fmul(factor, e.read(source)), target)

    e.loop(e.field(Field.COUNT), body)
