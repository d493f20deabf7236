"""The difference of two circuits of the same gates, without ever subtracting one from the other.

A circuit has start gates S_a and trained gates S_a + D_a. Two streams go through it: `w`, what the trained circuit
makes of the input, and `v`, by how much that differs from what the start makes of it:

    v <- S_a v + D_a w        w <- (S_a + D_a) w        from v = 0, w = x

With all D_a = 0, v is exactly zero in any number format; with small ones it keeps their relative precision, where the
difference of two circuits would lose it. `first_order` lets w go through the start gates only, which leaves the part of
v that is linear in the offsets.

Nothing is kept for the way back but the input and the gates. There w is computed again, and two streams go the other
way: p, the gradient at v, and q, the gradient at w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ketune.tensor_networks.gate_chain import GateChain, Route

Gates = list[tuple[Tensor, Tensor, Tensor]]
"""For each gate the matrices (contracted, kept) of start, offset, and that by which w moves."""


def _gates(chain: GateChain, route: Route, start: Tensor, offsets: Tensor, first_order: bool) -> Gates:
    found = []
    pieces = zip(route.steps, start.split(chain.sizes), offsets.split(chain.sizes))
    for step, s, d in pieces:
        fixed, moved = step.matrix(s), step.matrix(d)
        found.append((fixed, moved, fixed if first_order else fixed + moved))
    return found


def _forth(route: Route, gates: Gates, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """v at the end, (rows, width), and w before each gate."""
    rows, w, v, seen = len(x), x, None, []
    for i, (step, (start, offset, own)) in enumerate(zip(route.steps, gates)):
        w = step.arrange(w, rows)
        seen.append(w)
        moved = w @ offset
        v = moved if v is None else torch.addmm(moved, step.arrange(v, rows), start)
        if i + 1 < len(gates):
            w = w @ own
    assert v is not None
    return route.finish(v, rows), seen


def _leading(route: Route, gates: Gates, x: Tensor) -> list[Tensor]:
    """w before each gate alone."""
    rows, w, seen = len(x), x, []
    for step, (_, _, own) in zip(route.steps, gates):
        w = step.arrange(w, rows)
        seen.append(w)
        if len(seen) < len(gates):
            w = w @ own
    return seen


def _back(
    route: Route, gates: Gates, seen: list[Tensor], gradient: Tensor, first_order: bool, to_input: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of all offsets (n,) and of the input (rows, width), from that of v (rows, width)."""
    rows, q, found = len(gradient), None, []
    p = route.unfinish(gradient, rows)
    for i in reversed(range(len(gates))):
        step, (start, offset, own) = route.steps[i], gates[i]
        p = p.reshape(-1, step.kept)
        q = None if q is None else q.reshape(-1, step.kept)
        found.append(step.entries(seen[i].T @ (p if q is None or first_order else p + q)))
        if i == 0 and not to_input:
            return torch.cat(found[::-1]), None
        moved = p @ offset.T
        q = step.restore(moved if q is None else torch.addmm(moved, q, own.T), rows)
        if i:
            p = step.restore(p @ start.T, rows)
    assert q is not None
    return torch.cat(found[::-1]), q.flatten(1)


def _unit(chain: GateChain, like: Tensor) -> Tensor:
    return torch.eye(chain.untouched, dtype=like.dtype, device=like.device).reshape(1, -1)


def difference_matrix(chain: GateChain, start: Tensor, offsets: Tensor, first_order: bool = False) -> Tensor:
    """The difference of the two circuits as a matrix (out_features, in_features), differentiable.

    Args:
        chain: the circuit.
        start: the entries of all start gates, (n,), one gate after the other, each as (out_m, out_n, in_m, in_n).
        offsets: by how much the trained gates differ from them, (n,).
        first_order: only the part that is linear in the offsets.
    """
    gates = _gates(chain, chain.dense, start, offsets, first_order)
    return _cropped(chain, _forth(chain.dense, gates, _unit(chain, offsets))[0])


def _cropped(chain: GateChain, padded: Tensor) -> Tensor:
    return padded.reshape(chain.padded_out, chain.padded_in)[: chain.out_features, : chain.in_features]


class _Function(torch.autograd.Function):
    """What both ways to compute the difference keep for the way back."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, start, offsets, ctx.chain, ctx.first_order = inputs
        ctx.save_for_backward(x, start, offsets)


class _Factored(_Function):
    """Gate after gate on the activations."""

    @staticmethod
    def forward(x: Tensor, start: Tensor, offsets: Tensor, chain: GateChain, first_order: bool) -> Tensor:
        gates = _gates(chain, chain.factored, start, offsets, first_order)
        padded = F.pad(x, (0, chain.padded_in - chain.in_features))
        return _forth(chain.factored, gates, padded)[0][:, : chain.out_features]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x, start, offsets), chain = ctx.saved_tensors, ctx.chain
        gates = _gates(chain, chain.factored, start, offsets, ctx.first_order)
        padded = F.pad(x, (0, chain.padded_in - chain.in_features))
        seen = _leading(chain.factored, gates, padded)
        gradient = F.pad(gradients[0], (0, chain.padded_out - chain.out_features))
        found, dx = _back(chain.factored, gates, seen, gradient, ctx.first_order, ctx.needs_input_grad[0])
        return None if dx is None else dx[:, : chain.in_features], None, found, None, None


class _Materialised(_Function):
    """The matrix once, then one product; the way back makes it again."""

    @staticmethod
    def forward(x: Tensor, start: Tensor, offsets: Tensor, chain: GateChain, first_order: bool) -> Tensor:
        return x @ difference_matrix(chain, start, offsets, first_order).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x, start, offsets), chain, (gradient,) = ctx.saved_tensors, ctx.chain, gradients
        gates = _gates(chain, chain.dense, start, offsets, ctx.first_order)
        unit, dx = _unit(chain, offsets), None
        if ctx.needs_input_grad[0]:
            matrix, seen = _forth(chain.dense, gates, unit)
            dx = gradient @ _cropped(chain, matrix)
        else:
            seen = _leading(chain.dense, gates, unit)
        missing = chain.padded_in - chain.in_features, chain.padded_out - chain.out_features
        felt = F.pad(gradient.T @ x, (0, missing[0], 0, missing[1])).reshape(1, -1)
        found, _ = _back(chain.dense, gates, seen, felt, ctx.first_order, False)
        return dx, None, found, None, None


def difference(
    chain: GateChain, x: Tensor, start: Tensor, offsets: Tensor, *, dense: bool, first_order: bool = False
) -> Tensor:
    """What the trained circuit makes of x less what its start makes of it.

    Args:
        chain: the circuit.
        x: (..., in_features).
        start: the entries of all start gates, (n,), one gate after the other, each as (out_m, out_n, in_m, in_n).
        offsets: by how much the trained gates differ from them, (n,), of the same dtype as x and `start`.
        dense: make the matrix and multiply by it, instead of going gate by gate.
        first_order: only the part that is linear in the offsets.

    Returns:
        (..., out_features). Differentiable in x and `offsets`, twice as well; for the way back x and the gates are kept
        and nothing else.
    """
    kind = _Materialised if dense else _Factored
    out = kind.apply(x.reshape(-1, chain.in_features), start, offsets, chain, first_order)
    return out.reshape(*x.shape[:-1], chain.out_features)


MOVING = 64
"""What it costs to bring one number into order, in multiply-adds of a large product; `benchmarks/gate_adapters.py`
shows what this choice costs against the better of the two ways, on the machine where it runs."""


def is_cheaper_dense(chain: GateChain, tokens: int, training: bool) -> bool:
    """Whether making the matrix costs less than going gate by gate, counted in multiply-adds.

    The streams of the module's docstring cost three products a gate; the way back five more, and six where it needs v
    again for the matrix itself. A product by the matrix is three on the way back and forth, one without the way back.

    Args:
        chain: the circuit.
        tokens: number of vectors that go through it.
        training: whether there will be a way back.
    """

    def per_row(route: Route) -> int:
        return sum(step.n_products + MOVING * step.n_moved for step in route.steps)

    by_gates = (8 if training else 3) * per_row(chain.factored) * tokens
    product = (3 if training else 1) * chain.in_features * chain.out_features * tokens
    return (10 if training else 3) * per_row(chain.dense) + product < by_gates
