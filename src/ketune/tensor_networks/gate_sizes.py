"""Axes for a wanted number of parameters."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ketune.tensor_networks.axes import Axes, balanced_axes, factorisations, near_factorisations
from ketune.tensor_networks.gate_graphs import gate_pairs, place_gates

MOST_AXES = 6
"""More axes hardly save parameters and cost many gates one after the other: six have 15 pairs."""


@dataclass(frozen=True)
class Circuit:
    """One way to lay a circuit out.

    Attributes:
        in_axes: sizes of the input's axes.
        out_axes: sizes of the output's axes.
        n_gates: number of gates.
    """

    in_axes: Axes
    out_axes: Axes
    n_gates: int


def parameters_of(graph: str, in_axes: Axes, out_axes: Axes, n_gates: int | None = None) -> int:
    """The entries of all gates together."""
    return sum(gate.size for gate in place_gates(gate_pairs(graph, len(in_axes), n_gates), in_axes, out_axes))


def circuit_for(in_features: int, out_features: int, graph: str, at_most: int, n_axes: int | None = None) -> Circuit:
    """The circuit with the most parameters up to `at_most`; the smallest there is where all are larger.

    It has one round of gates on axes that multiply to the widths, or to a little more. Below the smallest such circuit,
    gates are left out from the end of it.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        graph: which pairs have gates, see `GRAPHS`.
        at_most: largest number of parameters.
        n_axes: only circuits with this many axes.
    """
    counts, circuits = _ladder(in_features, out_features, graph, n_axes)
    return circuits[max(0, bisect_right(counts, at_most) - 1)]


@lru_cache(maxsize=256)
def _ladder(in_features: int, out_features: int, graph: str, n_axes: int | None) -> tuple[list[int], list[Circuit]]:
    """Circuits with growing numbers of parameters, one for each number."""
    found: dict[int, tuple[tuple[int, int], Circuit]] = {}

    def add(in_axes: Axes, out_axes: Axes, n_gates: int) -> None:
        count = parameters_of(graph, in_axes, out_axes, n_gates)
        waste = math.prod(in_axes) - in_features + math.prod(out_axes) - out_features
        entry = (waste, n_gates), Circuit(in_axes, out_axes, n_gates)
        if count not in found or entry[0] < found[count][0]:
            found[count] = entry

    for n in range(2, MOST_AXES + 1) if n_axes is None else (n_axes,):
        for in_axes, out_axes in _axes(in_features, out_features, n):
            add(in_axes, out_axes, len(gate_pairs(graph, n)))
    smallest = found[min(found)][1]
    changing = {m for m, (a, b) in enumerate(zip(smallest.in_axes, smallest.out_axes)) if a != b}
    for n_gates in range(1, smallest.n_gates):
        if changing <= {m for pair in gate_pairs(graph, len(smallest.in_axes), n_gates) for m in pair}:
            add(smallest.in_axes, smallest.out_axes, n_gates)
    counts = sorted(found)
    return counts, [found[count][1] for count in counts]


def _axes(in_features: int, out_features: int, n_axes: int) -> Iterator[tuple[Axes, Axes]]:
    """Sizes of the axes of input and output to choose from."""
    if n_axes == 2:  # one gate on everything, whatever the sizes
        yield balanced_axes(in_features, 2), balanced_axes(out_features, 2)
    elif in_features == out_features:
        slack = max(min(in_features // 32, 256), min(in_features // 4, 64))
        for sizes in {*near_factorisations(in_features, slack, n_axes), balanced_axes(in_features, n_axes)}:
            yield sizes, sizes
    else:
        for before in {*factorisations(in_features, n_axes, 2), balanced_axes(in_features, n_axes)}:
            for after in {*factorisations(out_features, n_axes, 2), balanced_axes(out_features, n_axes)}:
                yield before, after
