"""Writing loops over rows of samples as LLVM IR.

Every kernel has the signature `void kernel(T* workspace, i64 block, i64* fields, void** io)`. The workspace holds the
states of one block of `lanes` samples: row k is basis state k, with the samples side by side (real parts, then
imaginary parts of a complex state). `fields` are the constants of one pass (`Field`), `io` the tensors of one call.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from llvmlite import ir

I32, I64, POINTER = ir.IntType(32), ir.IntType(64), ir.PointerType()


class Field(IntEnum):
    """Positions in the record of one pass; offsets count elements of the workspace or of a tensor."""

    KERNEL = 0  # address of the code
    COUNT = 1  # tiles, or groups of columns or of rows
    BASES = 2  # int32: offset of the first row of each tile
    STEPS = 3  # int32: offsets of the rows of a tile, to be combined with its base by exclusive or
    TURNS = 4  # offset of the first tangent, or of the first sign of a word, in Io.TURNS
    PHASES = 5  # offset of the first phase in Io.PHASES
    TURN_SUMS = 6  # workspace offset of the sums for the gradients of the tangents
    PHASE_SUMS = 7  # workspace offset of the sums for the gradients of the phases
    COTANGENT = 8  # workspace offset of the cotangent of the state
    WORDS = 9  # number of words of the readout with the norm, or of rows of the state
    SIGNS = 10  # T (tiles, words): sign of each word on the first row of a tile
    PATTERNS = 11  # int32 (words,): which rows of a tile a word turns
    SUMS = 12  # workspace offset of a row for each word, and one more for each on the way back
    FACTOR = 13  # workspace offset of a row: 2 / squared norm, zero for samples beyond the last


RECORD = len(Field)
"""Length of the record of one pass, in int64."""


class Io(IntEnum):
    """Positions of the tensors of a call."""

    IN = 0  # (samples, columns) features
    OUT = 1  # (blocks * lanes, columns) probabilities or cotangents of the features
    READOUTS = 2  # (samples, words) readouts, written going forward and read going back
    TURNS = 3  # tangents, then signs of words
    PHASES = 4  # phases by row, real and imaginary parts interleaved for complex states
    SHAPE = 5  # int64, see `Shape`
    WEIGHTS = 6  # cotangents of the readouts, (samples, words), or of the probabilities, (samples, columns)
    NORMS = 7  # (blocks * lanes,) squared norms, written going forward
    ANGLES = 8  # angles, and on the way back their cotangents
    NUMBERS = 9  # double: what `_native_angles` works with
    TOTALS = 10  # double (pieces, rows): sums over the samples of each piece


class Shape(IntEnum):
    """Positions in Io.SHAPE."""

    LAST = 0  # the last sample
    IN = 1  # columns of Io.IN
    OUT = 2  # columns of Io.OUT
    WEIGHTS = 3  # columns of Io.WEIGHTS
    ORIGIN = 4  # workspace offset of the row that holds basis state 0 at the end


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

    def loop(self, count: Any, body: Callable[[Any], object]) -> None:
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

    def each(self, count: Any, body: Callable[[Any], object]) -> None:
        """`for i in range(count)`, where the count may be zero."""
        with self.b.if_then(self.b.icmp_signed(">", count, I64(0))):
            self.loop(count, body)

    def field(self, which: int, kind: Any = I64) -> Any:
        """A field of the record: one of `Field`, or of the `Map` of a circuit."""
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

    def variable(self) -> Any:
        """A row that a loop may change; becomes a register."""
        with self.b.goto_entry_block():
            place = self.b.alloca(self.vector)
        self.b.store(self.zeros(), place)
        return place

    def total(self, rows: list[Any]) -> Any:
        """Sum of rows, added in pairs."""
        while len(rows) > 1:
            rows = [self.b.fadd(*rows[i : i + 2]) if i + 1 < len(rows) else rows[i] for i in range(0, len(rows), 2)]
        return rows[0]

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
