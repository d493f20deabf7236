"""Which pairs of axes have a gate, in which order, and how large each gate is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, cycle, islice

from ketune.tensor_networks.axes import Axes

Pair = tuple[int, int]
"""Two axes, counted from the front (0 is the slowest), the front one first."""


@dataclass(frozen=True)
class PairGate:
    """A gate on two axes: a matrix from (in_m, in_n) to (out_m, out_n).

    Attributes:
        axes: the two axes, the front one first.
        inputs: their sizes before the gate.
        outputs: their sizes after it.
    """

    axes: Pair
    inputs: tuple[int, int]
    outputs: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(out_m, out_n, in_m, in_n)."""
        return (*self.outputs, *self.inputs)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


def _from_the_back(pairs: Sequence[Pair], n_axes: int) -> list[Pair]:
    """Pairs of axes that are counted 1, 2, ... from the back."""
    return [(n_axes - max(pair), n_axes - min(pair)) for pair in pairs]


def all_pairs(n_axes: int) -> list[Pair]:
    """Every pair: (-1, -2), (-1, -3), ..., (-1, -N), (-2, -3), ..., the order of QuanTA's released code."""
    return _from_the_back(list(combinations(range(1, n_axes + 1), 2)), n_axes)


def ring(n_axes: int) -> list[Pair]:
    """Neighbours from the back to the front, then the last with the first axis."""
    pairs = [(i, i + 1) for i in range(1, n_axes)]
    return _from_the_back(pairs + ([(1, n_axes)] if n_axes > 2 else []), n_axes)


def brick(n_axes: int) -> list[Pair]:
    """Two layers of neighbours, like bricks in a wall: (-1, -2), (-3, -4), ..., then (-2, -3), (-4, -5), ..."""
    return _from_the_back([(i, i + 1) for start in (1, 2) for i in range(start, n_axes, 2)], n_axes)


def tree(n_axes: int) -> list[Pair]:
    """A binary tree from the leaves to the root: neighbours, then one axis of each two neighbours, and so on."""
    alive, pairs = list(range(1, n_axes + 1)), []
    while len(alive) > 1:
        pairs += list(zip(alive[::2], alive[1::2]))
        alive = alive[1::2] + ([alive[-1]] if len(alive) % 2 else [])
    return _from_the_back(pairs, n_axes)


GRAPHS: dict[str, Callable[[int], list[Pair]]] = {"all_pairs": all_pairs, "ring": ring, "brick": brick, "tree": tree}
"""The graphs by name; each gives the pairs of N >= 2 axes in the order in which their gates act."""


def gate_pairs(graph: str, n_axes: int, n_gates: int | None = None) -> tuple[Pair, ...]:
    """The pairs of the first `n_gates` gates of a graph, round and round; None stands for one round."""
    pairs = GRAPHS[graph](n_axes)
    return tuple(islice(cycle(pairs), len(pairs) if n_gates is None else n_gates))


def place_gates(pairs: Sequence[Pair], in_axes: Axes, out_axes: Axes) -> tuple[PairGate, ...]:
    """The gates of a circuit from a tensor of `in_axes` to one of `out_axes`.

    An axis that shrinks does so in the first gate that touches it, one that grows in the last, so that what is between
    stays small.

    Raises:
        ValueError: when an axis has to change its size and no gate touches it.
    """
    touching = [[i for i, pair in enumerate(pairs) if axis in pair] for axis in range(len(in_axes))]
    turning: list[int | None] = []
    for axis, (before, after) in enumerate(zip(in_axes, out_axes, strict=True)):
        if before != after and not touching[axis]:
            raise ValueError(
                f"axis {axis} goes from {before} to {after}, and none of the {len(pairs)} gates touches it"
            )
        turning.append(None if before == after else touching[axis][0 if after < before else -1])
    sizes, gates = list(in_axes), []
    for i, (m, n) in enumerate(pairs):
        inputs = sizes[m], sizes[n]
        for axis in (m, n):
            if turning[axis] == i:
                sizes[axis] = out_axes[axis]
        gates.append(PairGate((m, n), inputs, (sizes[m], sizes[n])))
    return tuple(gates)
