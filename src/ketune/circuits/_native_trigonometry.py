"""Sines, cosines and arguments of complex numbers in double precision, written as LLVM IR.

Ours, because the code must not depend on which mathematics library a process happens to have loaded, and because a
vector of numbers costs as much as one. Errors stay below 3e-16 for arguments up to 1e9.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from ketune.circuits._native_emitter import I64, Emitter

DOUBLE = ir.DoubleType()
_QUARTER = math.pi / 2
_QUARTER_REST = 6.123233995736766e-17
"""Pi / 2 beyond its double: half of sin(pi), which the double of pi misses."""
_TO_INTEGER = 1.5 * 2.0**52
"""Added to a number this rounds it to an integer, which then stands in the lowest bits."""
_SINE = [(-1) ** k / math.factorial(2 * k + 1) for k in range(8)]
_COSINE = [(-1) ** k / math.factorial(2 * k) for k in range(9)]
_ARCTANGENT = (0.9998660, -0.3302995, 0.1801410, -0.0851330, 0.0208351)
"""Odd terms on [0, 1], good to 1e-5: Abramowitz and Stegun, 4.4.49."""


class Trigonometry:
    """Writes into the function that an emitter is at.

    Args:
        e: the emitter.
        lanes: numbers side by side; 1 for plain doubles.
    """

    def __init__(self, e: Emitter, lanes: int = 1) -> None:
        self.e, self.lanes = e, lanes
        self.type = DOUBLE if lanes == 1 else ir.VectorType(DOUBLE, lanes)
        self._whole = I64 if lanes == 1 else ir.VectorType(I64, lanes)
        suffix = "f64" if lanes == 1 else f"v{lanes}f64"
        self._fma, self._abs, self._sqrt = (
            e.module.declare_intrinsic(f"llvm.{name}.{suffix}", (), ir.FunctionType(self.type, [self.type] * count))
            for name, count in (("fma", 3), ("fabs", 1), ("sqrt", 1))
        )

    def constant(self, value: float) -> Any:
        """A number, in every lane."""
        return ir.Constant(self.type, value if self.lanes == 1 else [value] * self.lanes)

    def _integer(self, value: int) -> Any:
        return ir.Constant(self._whole, value if self.lanes == 1 else [value] * self.lanes)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x y + z."""
        return self.e.b.call(self._fma, [x, y, z])

    def abs(self, x: Any) -> Any:
        """|x|."""
        return self.e.b.call(self._abs, [x])

    def sqrt(self, x: Any) -> Any:
        """Square root."""
        return self.e.b.call(self._sqrt, [x])

    def polynomial(self, coefficients: Any, x: Any) -> Any:
        """Sum of c_k x^k."""
        value = self.constant(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            value = self.fma(value, x, self.constant(coefficient))
        return value

    def cos_sin(self, x: Any) -> tuple[Any, Any]:
        """Cosine and sine: the nearest multiple of a quarter circle, and series in what is left."""
        b = self.e.b
        shifted = self.fma(x, self.constant(1 / _QUARTER), self.constant(_TO_INTEGER))
        turns = b.fneg(b.fsub(shifted, self.constant(_TO_INTEGER)))
        rest = self.fma(turns, self.constant(_QUARTER), x)
        rest = self.fma(turns, self.constant(_QUARTER_REST), rest)
        square = b.fmul(rest, rest)
        cosine, sine = self.polynomial(_COSINE, square), b.fmul(rest, self.polynomial(_SINE, square))
        quadrant = b.bitcast(shifted, self._whole)
        odd = b.icmp_signed("!=", b.and_(quadrant, self._integer(1)), self._integer(0))
        results = []
        for number, signs in (
            (b.select(odd, sine, cosine), b.add(quadrant, self._integer(1))),
            (b.select(odd, cosine, sine), quadrant),
        ):
            negative = b.icmp_signed("!=", b.and_(signs, self._integer(2)), self._integer(0))
            results.append(b.select(negative, b.fneg(number), number))
        return results[0], results[1]

    def argument(self, real: Any, imaginary: Any) -> Any:
        """Argument of a complex number, 0 for 0: an estimate by a short series, and one step of Newton's method."""
        b, zero = self.e.b, self.constant(0.0)
        x, y = self.abs(real), self.abs(imaginary)
        steep = b.fcmp_ordered(">", y, x)
        slope = b.fdiv(b.select(steep, x, y), self._not_zero(b.select(steep, y, x)))
        angle = b.fmul(slope, self.polynomial(_ARCTANGENT, b.fmul(slope, slope)))
        angle = b.select(steep, b.fsub(self.constant(_QUARTER), angle), angle)
        angle = b.select(b.fcmp_ordered("<", real, zero), b.fsub(self.constant(math.pi), angle), angle)
        angle = b.select(b.fcmp_ordered("<", imaginary, zero), b.fneg(angle), angle)
        cosine, sine = self.cos_sin(angle)
        across = b.fsub(b.fmul(imaginary, cosine), b.fmul(real, sine))
        along = self.fma(real, cosine, b.fmul(imaginary, sine))
        miss = b.fdiv(across, self._not_zero(along))
        return b.fadd(angle, self.fma(b.fmul(b.fmul(miss, miss), miss), self.constant(-1 / 3), miss))

    def _not_zero(self, x: Any) -> Any:
        """A divisor; a zero becomes 1, whose dividend is zero as well."""
        b = self.e.b
        return b.select(b.fcmp_ordered("==", x, self.constant(0.0)), self.constant(1.0), x)
