"""A circuit of two-axis gates as a sequence of matrix products, on activations or on its own as one dense matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ketune.tensor_networks.axes import Axes
from ketune.tensor_networks.gate_graphs import Pair, PairGate, place_gates


@dataclass(frozen=True)
class Step:
    """One gate on a tensor: bring the axes that it contracts to the end, multiply by a matrix.

    Attributes:
        shape: of the tensor that comes in, without its first dimension, the rows.
        order: brings the axes that are contracted to the end, rows first.
        back: the inverse of `order`.
        gate_shape: (out_m, out_n, in_m, in_n).
        gate_order: brings a gate to (contracted, ..., kept, ...).
        contracted: width of what is contracted.
        kept: width of what comes out instead.
        n_products: multiply-adds for each row.
        n_moved: numbers that are brought into order for each row.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    back: tuple[int, ...]
    gate_shape: tuple[int, int, int, int]
    gate_order: tuple[int, ...]
    contracted: int
    kept: int
    n_products: int
    n_moved: int

    def arrange(self, tensor: Tensor, rows: int) -> Tensor:
        """(rows, ...) as the matrix (rows x rest, contracted)."""
        return tensor.reshape(rows, *self.shape).permute(self.order).reshape(-1, self.contracted)

    def restore(self, matrix: Tensor, rows: int) -> Tensor:
        """The inverse of `arrange`."""
        arranged = [(rows, *self.shape)[i] for i in self.order]
        return matrix.reshape(arranged).permute(self.back)

    def matrix(self, gate: Tensor) -> Tensor:
        """The entries (n,) of a gate as the matrix (contracted, kept)."""
        return gate.reshape(self.gate_shape).permute(self.gate_order).reshape(self.contracted, self.kept)

    def entries(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        arranged = [self.gate_shape[i] for i in self.gate_order]
        back = sorted(range(4), key=self.gate_order.__getitem__)
        return matrix.reshape(arranged).permute(back).reshape(-1)


@dataclass(frozen=True)
class Route:
    """A circuit as steps.

    Attributes:
        steps: one for each gate.
        shape: what comes out of the last step, without rows.
        order: brings it to (rows, output axes, ...).
        back: the inverse of `order`.
    """

    steps: tuple[Step, ...]
    shape: tuple[int, ...]
    order: tuple[int, ...]
    back: tuple[int, ...]

    def finish(self, tensor: Tensor, rows: int) -> Tensor:
        """What comes out of the last step, as (rows, width)."""
        return tensor.reshape(rows, *self.shape).permute(self.order).reshape(rows, math.prod(self.shape))

    def unfinish(self, tensor: Tensor, rows: int) -> Tensor:
        """The inverse of `finish`."""
        arranged = [(rows, *self.shape)[i] for i in self.order]
        return tensor.reshape(arranged).permute(self.back)


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def _route(gates: Sequence[PairGate], in_axes: Axes, dense: bool) -> Route:
    """The steps on a tensor of `in_axes`, or (`dense`) those that make the circuit's matrix.

    The matrix is made without ever applying a gate to a unit matrix: an axis that no gate has touched yet is not there,
    and the gate that touches it first brings it in, with an index for the column. Only axes that no gate ever touches
    start as a unit matrix. Labels: m for axis m as it is now, n_axes + m for the column.
    """
    n_axes = len(in_axes)
    labels = list(range(n_axes))
    if dense:
        untouched = sorted(set(labels).difference(*(gate.axes for gate in gates)))
        labels = [*untouched, *(n_axes + m for m in untouched)]
    sizes = dict(enumerate(in_axes)) | {n_axes + m: size for m, size in enumerate(in_axes)}
    steps: list[Step] = []
    for gate in gates:
        contracted = [m for m in gate.axes if m in labels]
        fresh = [m for m in gate.axes if m not in labels]
        rest = sorted(set(labels) - set(contracted))
        arranged = rest + contracted
        order = (0, *(1 + labels.index(label) for label in arranged))
        gate_order = (*(2 + gate.axes.index(m) for m in contracted), 0, 1, *(2 + gate.axes.index(m) for m in fresh))
        width = math.prod(sizes[m] for m in contracted)
        kept = math.prod(gate.outputs) * math.prod(sizes[n_axes + m] for m in fresh)
        shape = tuple(sizes[label] for label in labels)
        n_products = math.prod(sizes[label] for label in rest) * width * kept
        n_moved = math.prod(shape)
        steps.append(Step(shape, order, _inverse(order), gate.shape, gate_order, width, kept, n_products, n_moved))
        labels = [*rest, *gate.axes, *(n_axes + m for m in fresh)]
        sizes |= dict(zip(gate.axes, gate.outputs))
    final = sorted(labels)
    order = (0, *(1 + labels.index(label) for label in final))
    return Route(tuple(steps), tuple(sizes[label] for label in labels), order, _inverse(order))


class GateChain:
    """A circuit of gates on pairs of axes, from `in_features` to `out_features` numbers.

    The input is padded with zeros at its end up to the product of `in_axes` and read as a tensor of those axes in
    row-major order; the output is the beginning of the product of `out_axes`.

    Args:
        pairs: the axes of each gate, first gate first.
        in_axes: sizes of the axes of the input.
        out_axes: sizes of the axes of the output, as many.
        in_features: length of the input, at most the product of `in_axes`.
        out_features: length of the output, at most the product of `out_axes`.

    Attributes:
        gates: the gates, first gate first.
        sizes: number of entries of each gate.
        padded_in: the product of the input axes.
        padded_out: the product of the output axes.
        untouched: the product of the sizes of the axes that no gate touches.
        factored: the steps on activations, one row for each token.
        dense: the steps that make the circuit's matrix.

    Raises:
        ValueError: when an axis changes its size and no gate touches it.
    """

    def __init__(
        self, pairs: Sequence[Pair], in_axes: Axes, out_axes: Axes, in_features: int, out_features: int
    ) -> None:
        self.in_axes, self.out_axes = in_axes, out_axes
        self.in_features, self.out_features = in_features, out_features
        self.gates = place_gates(pairs, in_axes, out_axes)
        self.sizes = [gate.size for gate in self.gates]
        self.padded_in, self.padded_out = math.prod(in_axes), math.prod(out_axes)
        touched = {axis for pair in pairs for axis in pair}
        self.untouched = math.prod(size for axis, size in enumerate(in_axes) if axis not in touched)
        self.factored = _route(self.gates, in_axes, dense=False)
        self.dense = _route(self.gates, in_axes, dense=True)
