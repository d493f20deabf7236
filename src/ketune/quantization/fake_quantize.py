"""Quantising tensors, and pretending to with a gradient that passes straight through.

A group of values x gets a step s and a zero point z, a code is clamp(round(x / s) + z), and a code stands for
(code - z) s. Symmetric: s = c max|x| / (2^(b-1) - 1), z = 0. Asymmetric: s = c (max - min) / (2^b - 1),
z = round(-c min / s). That is the quantiser of RoSTE's code (arXiv 2502.09003); of ZeroQAT's (arXiv 2509.00031), whose
clipping is learned; and, with `includes_zero`, torchao's.

This is the one file that knows torchao's private names. `fake_quantize(..., backend="torchao")` goes through its
primitive; the default, plain torch, gives the same numbers to the last bit and keeps less for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ketune.quantization.schemes import QuantizationError, TensorScheme

BACKENDS = ("torch", "torchao")
_LEAST_STEP = 1e-6
"""Of the largest value: a group of nearly equal values keeps its zero point within what float32 counts exactly."""


@dataclass(frozen=True)
class Quantized:
    """A tensor as codes.

    Attributes:
        codes: The shape of the tensor; int8 if the scheme is symmetric, else uint8.
        scale: (..., groups) the steps, float32 or better.
        zero_point: (..., groups) int32 zero points, or None where all are zero.
        scheme: How the tensor was quantised.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None
    scheme: TensorScheme

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The values that the codes stand for, in the dtype of the steps unless another is asked for."""
        return dequantize(self.codes, self.scale, self.zero_point, dtype)


def quantize(x: torch.Tensor, scheme: TensorScheme, clipping: Clipping | None = None) -> Quantized:
    """The codes of a tensor.

    Args:
        x: (..., width).
        scheme: Bits, groups and range.
        clipping: Which part of its range each group keeps.
    """
    with torch.no_grad():
        groups = _in_groups(x, scheme)
        step, zero = _step_and_zero(groups, scheme, clipping)
        codes = _codes(groups, step, zero).clamp_(*scheme.bounds).reshape(x.shape)
    kind = torch.int8 if scheme.symmetric else torch.uint8
    zero_point = None if zero is None else zero.squeeze(-1).to(torch.int32)
    return Quantized(codes.to(kind), step.squeeze(-1), zero_point, scheme)


def dequantize(
    codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """The values of codes (..., width), with steps and zero points (..., groups)."""
    values = codes.reshape(*scale.shape, -1).to(scale.dtype)
    if zero_point is not None:
        values = values.sub_(zero_point.unsqueeze(-1))
    values = values.mul_(scale.unsqueeze(-1)).reshape(codes.shape)
    return values if dtype is None else values.to(dtype)


def fake_quantize(
    x: torch.Tensor,
    scheme: TensorScheme,
    clipping: Clipping | None = None,
    *,
    backend: str = "torch",
) -> torch.Tensor:
    """`quantize(x).dequantize()`, differentiable: the gradient passes as if nothing had been rounded.

    Args:
        x: (..., width); computed in float32 or better and returned in its own dtype.
        scheme: Bits, groups, range, and whether the gradient stops at clipped values (`masked`).
        clipping: Which part of its range each group keeps; learned parts get gradients too.
        backend: "torch", or "torchao" for torchao's primitive, which always masks.

    Raises:
        QuantizationError: Groups that do not fill a row, an unknown backend, or torchao where it is not installed.
    """
    groups = _in_groups(x, scheme)
    if backend == "torchao":
        y = _with_torchao(groups, scheme, clipping)
    elif backend != "torch":
        raise QuantizationError(f"backend={backend!r}: choose one of {', '.join(map(repr, BACKENDS))}")
    elif clipping is not None and any(p.requires_grad for p in clipping.parameters()):
        y = _learning(groups, scheme, clipping)
    else:
        with torch.no_grad():
            step, zero = _step_and_zero(groups, scheme, clipping)
        y = _StraightThrough.apply(groups, step, zero, scheme)[0]  # pyright: ignore
    return y.reshape(x.shape).to(x.dtype)


def step_of(x: torch.Tensor, scheme: TensorScheme, clipping: Clipping | None = None) -> torch.Tensor:
    """The step of every value: (..., groups, 1), which broadcasts over a tensor (..., groups, group size)."""
    with torch.no_grad():
        return _step_and_zero(_in_groups(x, scheme), scheme, clipping)[0]


class Clipping(nn.Module):
    """Which part of its range each group of a tensor keeps."""

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a range: lowest and highest values of all groups, in any shape."""
        raise NotImplementedError


class LearnedClipping(Clipping):
    """The part of each group's range that is kept, learned: sigmoids on its lowest and its highest value.

    From OmniQuant, as ZeroQAT's code has it: the parts start at sigmoid(3) = 0.953.

    Args:
        n_groups: Groups of the tensor: rows times groups in a row.
        start: What the sigmoids start from.
    """

    def __init__(self, n_groups: int, start: float = 3.0) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.full((n_groups,), float(start)))
        self.high = nn.Parameter(torch.full((n_groups,), float(start)))

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            low * torch.sigmoid(self.low).to(low.dtype).view(low.shape),
            high * torch.sigmoid(self.high).to(high.dtype).view(high.shape),
        )


class FakeQuantizer(nn.Module):
    """A scheme as a module, that can be switched off.

    Args:
        scheme: How to quantise what it is called with.
        clipping: Which part of its range each group keeps, for a tensor whose shape stays the same.
    """

    def __init__(self, scheme: TensorScheme, clipping: Clipping | None = None) -> None:
        super().__init__()
        self.scheme = scheme
        self.clipping = clipping
        self.enabled = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to the same shape and dtype."""
        return fake_quantize(x, self.scheme, self.clipping) if self.enabled else x

    def quantize(self, x: torch.Tensor) -> Quantized:
        """The codes of what `forward` returns."""
        return quantize(x, self.scheme, self.clipping)

    def extra_repr(self) -> str:
        defaults = TensorScheme(self.scheme.bits)
        named = {name: value for name, value in vars(self.scheme).items() if value != getattr(defaults, name)}
        return ", ".join(f"{name}={value}" for name, value in {"bits": self.scheme.bits, **named}.items())


@contextmanager
def quantizers_off(module: nn.Module) -> Iterator[None]:
    """In this context a module computes without its fake quantisers."""
    switched = [m for m in module.modules() if isinstance(m, FakeQuantizer) and m.enabled]
    for quantizer in switched:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in switched:
            quantizer.enabled = True


def _in_groups(x: torch.Tensor, scheme: TensorScheme) -> torch.Tensor:
    """(..., groups, group size) in float32 or better."""
    size = scheme.size_of_groups(x.shape[-1])
    return x.reshape(*x.shape[:-1], -1, size).to(torch.promote_types(x.dtype, torch.float32))


def _step_and_zero(
    groups: torch.Tensor, scheme: TensorScheme, clipping: Clipping | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Steps and (rounded) zero points, (..., groups, 1); differentiable."""
    low, high = torch.aminmax(groups, dim=-1, keepdim=True)
    if clipping is not None:
        low, high = clipping(low, high)
    if scheme.clip != 1.0:
        low, high = low * scheme.clip, high * scheme.clip
    if scheme.includes_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    largest = torch.maximum(low.abs(), high.abs())
    if scheme.symmetric:
        return (largest / (2 ** (scheme.bits - 1) - 1)).clamp(min=torch.finfo(groups.dtype).tiny), None
    least = (largest.detach() * _LEAST_STEP).clamp(min=torch.finfo(groups.dtype).tiny)
    step = torch.maximum((high - low) / (2**scheme.bits - 1), least)
    return step, _round(-low / step)


def _codes(groups: torch.Tensor, step: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
    """Codes before they are clipped, as floating-point numbers. Never recorded by autograd, so it works in place."""
    codes = (groups * step.reciprocal()).round_()
    return codes if zero is None else codes.add_(zero)


class _StraightThrough(torch.autograd.Function):
    """Fake quantisation that keeps nothing for the way back, or a mask of what was not clipped."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        groups: torch.Tensor, step: torch.Tensor, zero: torch.Tensor | None, scheme: TensorScheme
    ) -> tuple[torch.Tensor, torch.Tensor]:
        codes = _codes(groups, step, zero)
        lowest, highest = scheme.bounds
        inside = (codes >= lowest) & (codes <= highest) if scheme.masked else codes.new_empty(0)
        codes = codes.clamp(lowest, highest)  # not in place: vmap has no rule for that
        if zero is not None:
            codes.sub_(zero)
        return codes.mul_(step), inside

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.masked = inputs[3].masked
        ctx.mark_non_differentiable(output[1])
        if ctx.masked:
            ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None, None]:  # pyright: ignore
        return (cotangent * ctx.saved_tensors[0] if ctx.masked else cotangent), None, None, None


def _learning(groups: torch.Tensor, scheme: TensorScheme, clipping: Clipping) -> torch.Tensor:
    """The same by operations that autograd records, so that ranges learn."""
    step, zero = _step_and_zero(groups, scheme, clipping)
    codes = _round(groups * step.reciprocal())
    if zero is not None:
        codes = codes + zero
    clamped = codes.clamp(*scheme.bounds)
    if not scheme.masked:  # clipped values pass their gradient on, to themselves and not to the step
        clamped = clamped + (groups - groups.detach()) * ((codes != clamped) / step).detach()
    return (clamped if zero is None else clamped - zero) * step


def _round(x: torch.Tensor) -> torch.Tensor:
    """Rounding whose gradient is that of the identity."""
    return x + (x.round() - x).detach()


def _with_torchao(groups: torch.Tensor, scheme: TensorScheme, clipping: Clipping | None) -> torch.Tensor:
    try:
        from torchao.quantization.quant_primitives import _fake_quantize_affine  # pyright: ignore
    except ImportError as error:
        raise QuantizationError("backend='torchao': is not installed; pip install 'ketune[quantization]'") from error
    with torch.no_grad():
        step, zero = _step_and_zero(groups, scheme, clipping)
    block = (1,) * (groups.ndim - 1) + (groups.shape[-1],)
    zero = torch.zeros_like(step) if zero is None else zero
    lowest, highest = scheme.bounds
    return _fake_quantize_affine(groups, block, step, zero, torch.int32, lowest, highest)
