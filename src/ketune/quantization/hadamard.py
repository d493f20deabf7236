"""Fast orthonormal rotations of any width that spread what is large in one entry over all of them.

A rotation is a Kronecker product of small matrices (`ketune.quantization.hadamard_matrices`), applied one axis at a
time. The power of two is cut into Sylvester matrices of 8 to 32 rows rather than 2: a butterfly reads and writes all of
x for each factor of two, and a product with a matrix that stays in the caches costs little more than one such pass.
Up to `DENSE` entries one product is fastest. `benchmarks/hadamard.py` prints both beside ours.

Where a Hadamard matrix is known, all entries of R are +-1 / sqrt(width). For other widths (odd ones, 172 = 4 x 43) the
odd part is turned by a Hartley matrix, so that still every entry of x R depends on every entry of x. A block-diagonal
rotation, what other libraries fall back to, mixes within a block only: of width 172 that would be four entries.
`Rotation(width, block=...)` makes one where it is wanted, for the heads of an attention.
"""

from __future__ import annotations

from ast import literal_eval
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ketune.quantization.hadamard_matrices import hadamard_base, hartley, paley, sylvester

DENSE = 64
"""Powers of two up to this are one dense product (`benchmarks/hadamard.py`)."""

_PIECE = 5  # a Sylvester factor has at most 2^5 rows

Factor = tuple[str, int]
"""A kind ("sylvester", "paley", "hartley") and an order."""


def hadamard_transform(x: Tensor) -> Tensor:
    """The orthonormal Hadamard transform `x H / sqrt(width)` over the last axis.

    H is Sylvester's matrix for powers of two (in its natural order), times a Paley matrix for other widths. It can be
    differentiated any number of times, and nothing is saved for that.

    Args:
        x: (..., width), floating; half precision is computed in float32.

    Returns:
        (..., width) in the dtype of x.

    Raises:
        ValueError: when no Hadamard matrix of this width is known here; `Rotation` takes any width.

    Examples:
        >>> hadamard_transform(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    width = x.shape[-1]
    if hadamard_base(width) is None:
        raise ValueError(
            f"hadamard_transform(x of width {width}): no Hadamard matrix is known here; take Rotation({width}), which"
            " is orthonormal for any width and spreads nearly as evenly"
        )
    return _rotated(x, (width, _factors(width), None), False)


class Rotation(nn.Module):
    """An orthonormal matrix R (width, width), applied to rows: `x -> x R` over the last axis.

    It has no parameters and no buffers: R follows from the arguments, and the small matrices that it is made of are
    kept once for the whole process and device. Signs come first, `R = diag(signs) H`, so that they change which inputs
    are unlucky (signs after H would change nothing in the size of `x R`). Where there is no Hadamard matrix, the odd
    part of the width is a dense product, as wide as it is.

    Args:
        width: of the last axis, at least 2.
        block: R is block-diagonal with blocks of this width, alike up to the signs (head_dim: each head by itself).
            None: one block.
        signs_seed: random signs from this seed; None: none, the deterministic matrix.

    Raises:
        ValueError: when `block` does not divide `width`, or is less than 2, which would leave everything as it is.

    Examples:
        >>> rotation = Rotation(4864, signs_seed=0)
        >>> rotation
        Rotation(4864, sylvester 8 x sylvester 8 x paley 76, signs_seed=0)
        >>> x = torch.randn(3, 4864)
        >>> torch.allclose(rotation.inverse(rotation(x)), x, atol=1e-5)
        True
    """

    def __init__(self, width: int, *, block: int | None = None, signs_seed: int | None = None) -> None:
        super().__init__()
        self.width, self.block, self.signs_seed = width, width if block is None else block, signs_seed
        if self.block < 2 or width % self.block:
            given = f"Rotation({width}, block={block})" if block is not None else f"Rotation({width})"
            raise ValueError(f"{given}: a rotation needs blocks of at least 2 entries that divide the width")
        self._key: Key = (width, _factors(self.block), signs_seed)

    def forward(self, x: Tensor) -> Tensor:
        """`x R` of (..., width), in the dtype of x; computed in float32 or better."""
        return _rotated(x, self._key, False)

    def inverse(self, x: Tensor) -> Tensor:
        """`x R^T` of (..., width), which undoes `forward`."""
        return _rotated(x, self._key, True)

    def matrix(self, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        """R (width, width) itself, for tests and small widths."""
        return self(torch.eye(self.width, dtype=dtype, device=device))

    def settings(self) -> dict[str, int | None]:
        """The arguments that make this rotation again."""
        return {"width": self.width, "block": self.block, "signs_seed": self.signs_seed}

    def __repr__(self) -> str:
        parts = [str(self.width)] + ([f"block={self.block}"] if self.block != self.width else [])
        parts.append(" x ".join(f"{kind} {order}" for kind, order in self._key[1]))
        return f"Rotation({', '.join(parts)}{'' if self.signs_seed is None else f', signs_seed={self.signs_seed}'})"


Key = tuple[int, tuple[Factor, ...], int | None]
"""Width, the factors of a block, seed of the signs."""


class _Rotate(torch.autograd.Function):
    """x R or x R^T. Linear and orthogonal: its derivative is itself, its transpose the other of the two."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, key: Key, transposed: bool) -> Tensor:
        return _turned(x, key, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Key, bool], output: Tensor) -> None:
        _, ctx.key, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return _Rotate.apply(grads[0], ctx.key, not ctx.transposed), None, None  # pyright: ignore[reportReturnType]


def _rotated(x: Tensor, key: Key, transposed: bool) -> Tensor:
    if x.shape[-1] != key[0]:
        raise ValueError(f"x of shape {tuple(x.shape)}: the rotation is {key[0]} wide; pass (..., {key[0]})")
    if not x.is_floating_point():
        raise TypeError(f"x of {x.dtype}: a rotation takes floating-point numbers; convert x first")
    if torch.compiler.is_compiling():
        return _rotate_operator(x, repr(key), transposed)
    return _Rotate.apply(x, key, transposed)  # pyright: ignore[reportReturnType]


def _turned(x: Tensor, key: Key, transposed: bool) -> Tensor:
    width, factors, seed = key
    dtype, device = torch.promote_types(x.dtype, torch.float32), x.device
    signs = None if seed is None else _signs(width, seed, dtype, str(device))
    matrices = [_matrix(factor, dtype, str(device)) for factor in factors]
    casts = torch.amp.is_autocast_available(device.type)
    with torch.autocast(device.type, enabled=False) if casts else nullcontext():
        y = x.to(dtype)
        if signs is not None and not transposed:
            y = y * signs
        y = _apply(y, matrices, transposed)
        if signs is not None and transposed:
            y = y * signs
    return y.to(x.dtype)


# What the compiler sees: an operator as a whole, so that it need not know how matrices are made and kept.
@torch.library.custom_op("ketune::rotate", mutates_args=())
def _rotate_operator(x: Tensor, key: str, transposed: bool) -> Tensor:
    return _turned(x, _read_key(key), transposed)


@_rotate_operator.register_fake
def _(x: Tensor, key: str, transposed: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _remember(ctx: Any, inputs: tuple[Tensor, str, bool], output: Tensor) -> None:
    _, ctx.key, ctx.transposed = inputs


def _turn_back(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
    return _rotate_operator(cotangent, ctx.key, not ctx.transposed), None, None


_rotate_operator.register_autograd(_turn_back, setup_context=_remember)


@lru_cache(maxsize=128)
def _read_key(key: str) -> Key:
    return literal_eval(key)


def _apply(x: Tensor, matrices: list[Tensor], transposed: bool) -> Tensor:
    """The Kronecker product of `matrices`, or its transpose, on each block of the last axis."""
    y, rest = x, 1
    for matrix in reversed(matrices):
        size = len(matrix)
        if rest == 1:
            y = y.reshape(-1, size) @ (matrix.mT if transposed else matrix)
        else:
            y = (matrix if transposed else matrix.mT) @ y.view(-1, size, rest)
        rest *= size
    return y.view(x.shape)


def _factors(width: int) -> tuple[Factor, ...]:
    """The matrices whose Kronecker product is the rotation of this width, the last of them on neighbouring entries."""
    base = hadamard_base(width)
    odd = next(width >> k for k in range(width.bit_length()) if (width >> k) % 2)
    last: tuple[Factor, ...] = ()
    if base != 1:
        last = (("hartley", odd),) if base is None else (("paley", base),)
    bits = (width // (last[0][1] if last else 1)).bit_length() - 1
    if not last and width <= DENSE:
        return (("sylvester", width),)
    pieces = -(-bits // _PIECE)
    sizes = [(bits + i) // pieces for i in range(pieces)]
    return (*(("sylvester", 1 << size) for size in sizes), *last)


@lru_cache(maxsize=128)
def _matrix(factor: Factor, dtype: torch.dtype, device: str) -> Tensor:
    """An orthonormal matrix on the device."""
    kind, order = factor
    with torch.inference_mode(False):
        if kind == "hartley":
            return hartley(order).to(device, dtype)
        whole = sylvester(order) if kind == "sylvester" else paley(order)
        return (whole.double() / order**0.5).to(device, dtype)


@lru_cache(maxsize=128)
def _signs(width: int, seed: int, dtype: torch.dtype, device: str) -> Tensor:
    """Random signs (width,), the same on every device."""
    with torch.inference_mode(False):
        bits = torch.randint(2, (width,), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        return (2 * bits - 1).to(device, dtype)
