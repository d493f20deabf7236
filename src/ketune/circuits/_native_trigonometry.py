"""Cosines and sines in machine code, for the compiled simulator on sets of angles."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from ketune.circuits._native_code import Emitter

_REST = 6.123233995736766e-17
"""What pi / 2 has beyond the nearest float64: half of sin(pi) as float64 has it, since sin(pi - e) = e."""


def emit_cosine_and_sine(e: Emitter, angle: Any) -> tuple[Any, Any]:
    """Cosine and sine of a row of angles in radians.

    Without the nearest multiple of a quarter turn, at most an eighth of a turn is left, where a few terms of the power
    series are exact to rounding. The difference is taken in float64, so that float32 angles of any size keep it.
    """
    b, single = e.b, e.size == 4
    double = ir.VectorType(ir.DoubleType(), e.lanes)

    def number(value: float, kind: Any = double) -> Any:
        return ir.Constant(kind, [value] * e.lanes)

    def call(name: str, *arguments: Any) -> Any:
        full = f"llvm.{name}.v{e.lanes}f64"
        function = e.module.globals.get(full)
        if function is None:
            function = ir.Function(e.module, ir.FunctionType(double, [double] * len(arguments)), full)
        return b.call(function, arguments)

    wide = b.fpext(angle, double) if single else angle
    quarters = call("rint", b.fmul(wide, number(2 / math.pi)))
    rest = call("fma", quarters, number(-math.pi / 2), wide)
    rest = call("fma", quarters, number(-_REST), rest)
    turns = b.fmul(quarters, number(0.25))
    part = b.fsub(turns, call("floor", turns))  # of a whole turn: 0, 1/4, 1/2 or 3/4
    halves = b.fmul(quarters, number(0.5))
    odd = b.fcmp_ordered("!=", halves, call("floor", halves))

    x = b.fptrunc(rest, e.vector) if single else rest
    square, last = b.fmul(x, x), 11 if single else 19

    def series(first: int) -> Any:
        """Sum of (-1)^k x^(2 k) / (2 k + first)! by Horner's rule."""
        orders = range(first, last + 1, 2)
        factors = [number((-1) ** k / math.factorial(order), e.vector) for k, order in enumerate(orders)]
        total = factors[-1]
        for factor in factors[-2::-1]:
            total = e.fma(total, square, factor)
        return total

    cosine, sine = series(0), b.fmul(x, series(1))
    cosine, sine = b.select(odd, sine, cosine), b.select(odd, cosine, sine)
    left = b.and_(b.fcmp_ordered(">", part, number(0.2)), b.fcmp_ordered("<", part, number(0.6)))
    lower = b.fcmp_ordered(">", part, number(0.4))
    return b.select(left, b.fneg(cosine), cosine), b.select(lower, b.fneg(sine), sine)
