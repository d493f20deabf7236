"""Compound matrices applied without building them.

The k-th compound C_k(Q) of an n x n matrix Q holds all its k x k minors, rows and columns of the index sets
i1 < ... < ik in lexicographic order. It is what Q does to antisymmetric tensors: for k = 2 a vector x of length C(n, 2)
is the antisymmetric matrix X with x above its diagonal, and C_2(Q) x is Q X Q^T. So instead of C(n, k)^2 minors we
write one axis out, a vector over k-sets as n vectors over (k - 1)-sets, and multiply along that axis with Q and along
the rest with C_(k - 1)(Q), which is far smaller. For length d that is O(d^1.5) at k = 2, where the rest is Q again, and
O(d^1.67) at k = 3. (Axis by axis would be O(d^1.33) at k = 3, but many small products are slower than one larger up to
widths of LLMs.) Samples lie in the last dimension, so that picking entries copies whole rows.

All of it computes the change `(C_k(I + E) - 1) x` from E, sums of products in which each term has a factor E. Nothing
large is subtracted, so the change keeps its precision in half precision, and E = 0 gives exactly zero.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 16
"""Numbers of an antisymmetric tensor written out that are worked on at once, so that they stay in a core's cache."""

Table = tuple[Tensor, Tensor, Tensor]
"""Where the entries of X[i, S] come from (n C(n, k - 1),), their signs, and which of them are x (C(n, k),)."""


@lru_cache(maxsize=128)
def compound_table(n: int, order: int) -> Table:
    """How vectors over `order`-sets of n axes are written out along one axis; on the CPU."""
    rank = {each: number for number, each in enumerate(combinations(range(n), order))}
    rests = {each: number for number, each in enumerate(combinations(range(n), order - 1))}
    source, sign = [], []
    for i in range(n):
        for rest in rests:
            source.append(0 if i in rest else rank[tuple(sorted((i, *rest)))])
            sign.append(0 if i in rest else (-1) ** sum(j < i for j in rest))
    picked = [each[0] * len(rests) + rests[each[1:]] for each in rank]
    return (
        torch.tensor(source, device="cpu"),
        torch.tensor(sign, device="cpu", dtype=torch.float32),
        torch.tensor(picked, device="cpu"),
    )


def compound_change(change: Tensor, x: Tensor, tables: list[Table]) -> Tensor:
    """`(C_k(I + E) - 1) x` for vectors over k-sets of axes, differentiable once in E and x.

    It keeps E and x only for the derivative, and works in chunks of samples.

    Args:
        change: E (blocks, n, n).
        x: (blocks, C(n, k), samples), of any floating type, in which the result is computed too.
        tables: of the orders k, k - 1, ..., 2 (see `compound_table`); none for k = 1.

    Returns:
        (blocks, C(n, k), samples).
    """
    return _forward(change.to(x.dtype), x, [tensor for table in tables for tensor in table])


# Operators, so that torch.compile takes the loop over chunks as one call, for any number of samples.
@torch.library.custom_op("ketune::compound_change", mutates_args=())
def _forward(change: Tensor, x: Tensor, flat: list[Tensor]) -> Tensor:
    tables = _tables(flat)
    with torch.autocast(x.device.type, enabled=False):
        others = _matrix(change, tables[1:])
        parts = [_change(change, others, part[:, None], tables)[:, 0] for part in _chunks(x, tables)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


@torch.library.custom_op("ketune::compound_change_back", mutates_args=())
def _backward(
    change: Tensor, x: Tensor, grad: Tensor, flat: list[Tensor], need_change: bool, need_x: bool
) -> tuple[Tensor, Tensor]:
    tables = _tables(flat)
    d_change = torch.zeros_like(change, dtype=torch.promote_types(change.dtype, torch.float32))
    d_x = [x.new_zeros(0)] if not need_x else []
    with torch.autocast(x.device.type, enabled=False):
        others = _matrix(change, tables[1:])
        for part, each in zip(_chunks(x, tables), _chunks(grad, tables)):
            if need_change:
                d_change += _pull(change, others, part[:, None], each[:, None], tables)
            if need_x:  # the compound of the transpose is the transpose of the compound
                d_x.append(_change(change.mT, others.mT, each[:, None], tables)[:, 0])
    return d_change.to(change.dtype), d_x[0] if len(d_x) == 1 else torch.cat(d_x, -1)


@_forward.register_fake
def _(change: Tensor, x: Tensor, flat: list[Tensor]) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@_backward.register_fake
def _(
    change: Tensor, x: Tensor, grad: Tensor, flat: list[Tensor], need_change: bool, need_x: bool
) -> tuple[Tensor, Tensor]:
    d_x = torch.empty(x.shape if need_x else (0,), dtype=x.dtype, device=x.device)
    return torch.empty(change.shape, dtype=change.dtype, device=change.device), d_x


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, list[Tensor]], output: Tensor) -> None:
    change, x, flat = inputs
    ctx.save_for_backward(change, x, *flat)


def _derive(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, list[None]]:
    change, x, *flat = ctx.saved_tensors
    need_change, need_x = ctx.needs_input_grad[:2]
    d_change, d_x = _backward(change, x, grad, flat, need_change, need_x)
    return d_change if need_change else None, d_x if need_x else None, [None] * len(flat)


_forward.register_autograd(_derive, setup_context=_keep)


def _tables(flat: Any) -> list[Table]:
    return [tuple(flat[i : i + 3]) for i in range(0, len(flat), 3)]


def _chunks(x: Tensor, tables: list[Table]) -> tuple[Tensor, ...]:
    """x in pieces along its samples."""
    each = x.shape[0] * (len(tables[0][0]) if tables else x.shape[1])
    return x.split(max(64, CHUNK // max(each, 1)), -1)


def _write_out(x: Tensor, table: Table, n: int) -> Tensor:
    """(blocks, a, C(n, k), samples) to (blocks, a, n, C(n, k - 1), samples), zero where the axes repeat."""
    source, sign, _ = table
    return (x.index_select(2, source) * sign.to(x.dtype)[:, None]).unflatten(2, (n, -1))


def _along(matrix: Tensor, tensor: Tensor) -> Tensor:
    """A matrix (blocks, n, n) on axis 2 of (blocks, a, n, ...)."""
    return (matrix[:, None] @ tensor.flatten(3)).view(tensor.shape)


def _along_rest(matrix: Tensor, tensor: Tensor) -> Tensor:
    """A matrix (blocks, s, s) on axis 3 of (blocks, a, n, s, samples)."""
    blocks, a, n = tensor.shape[:3]
    return (matrix[:, None] @ tensor.flatten(1, 2)).view(blocks, a, n, *tensor.shape[3:])


def _matrix(change: Tensor, tables: list[Table]) -> Tensor:
    """`C_k(Q) - 1` as matrices (blocks, C(n, k), C(n, k)); of the orders below the one in hand these are small."""
    if not tables:
        return change
    size = len(tables[0][2])
    identity = torch.eye(size, dtype=change.dtype, device=change.device)
    return _change(change, _matrix(change, tables[1:]), identity.expand(len(change), 1, -1, -1), tables)[:, 0]


def _change(change: Tensor, others: Tensor, x: Tensor, tables: list[Table]) -> Tensor:
    """The change of (blocks, a, C(n, k), samples), from E and from `_matrix` of one order less."""
    if not tables:
        return change[:, None] @ x
    tensor = _write_out(x, tables[0], change.shape[-1])
    rest = _along_rest(others, tensor)
    whole = rest + _along(change, tensor + rest)
    return whole.flatten(2, 3).index_select(2, tables[0][2])


def _pull(change: Tensor, others: Tensor, x: Tensor, grad: Tensor, tables: list[Table]) -> Tensor:
    """The cotangent of E, (blocks, n, n), from that of the change.

    By antisymmetry all axes contribute alike, and the sum over the other axes' sets, each once, has the factor right.
    """
    if not tables:
        return (grad @ x.mT).sum(1)
    n = change.shape[-1]
    tensor = _write_out(x, tables[0], n)
    turned = tensor + _along_rest(others, tensor)
    return (_write_out(grad, tables[0], n).flatten(3) @ turned.flatten(3).mT).sum(1)


def largest_axes(width: int, orders: tuple[int, ...]) -> int:
    """The largest n with `sum_k C(n, k) <= width` over the orders k; 0 when there is none."""
    n = 0
    while sum(math.comb(n + 1, k) for k in orders) <= width and n < width:
        n += 1
    return n
