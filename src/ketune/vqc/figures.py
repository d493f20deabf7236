"""Pictures of trained circuits: energies and accuracies against iterations, gradients against wires."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ketune.pictures import MARKERS, NEUTRAL, colour_of, drawing, new_axes, to_png
from ketune.vqc.energy_runs import EnergyRuns, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMALLEST = 1e-8  # what a logarithmic axis shows of a gap that is closed


def energy_figure(runs: EnergyRuns, results: Sequence[RunResult]) -> bytes:
    """Gap to the ground energy against iterations: the median over seeds, and a band from the least to the largest."""
    return _drawn(_energy_axes, runs, results)


def accuracy_figure(curves: Mapping[str, Sequence[Sequence[float]]], ylabel: str = "test accuracy") -> bytes:
    """Accuracy against epochs: for each name a curve per seed; means, and a band from the least to the largest."""
    return _drawn(_accuracy_axes, curves, ylabel)


def variance_figure(variances: Mapping[str, Sequence[float]], widths: Sequence[int]) -> bytes:
    """Variance of a gradient's entry at the start against the number of wires, a line for each start."""
    return _drawn(_variance_axes, variances, widths)


def _energy_axes(axes: Axes, runs: EnergyRuns, results: Sequence[RunResult]) -> None:
    for number, start in enumerate(runs.starts):
        gaps = [[max(gap, _SMALLEST) for gap in r.gaps] for r in results if r.start == start]
        if gaps:
            columns = list(zip(*gaps))
            _band(axes, number, start, [statistics.median(column) for column in columns], columns)
    axes.axhline(runs.target, color=NEUTRAL, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.annotate("target", (0.01, runs.target), xycoords=("axes fraction", "data"), ha="left", va="bottom", fontsize=8)
    axes.set_yscale("log")
    axes.set_xlabel("iterations")
    axes.set_ylabel("gap to the ground energy, share of its size")
    axes.set_title(f"{runs.problem}, {runs.optimiser} at {runs.lr:g}: medians and ranges over seeds", fontsize=10)


def _accuracy_axes(axes: Axes, curves: Mapping[str, Sequence[Sequence[float]]], ylabel: str) -> None:
    for number, (name, runs) in enumerate(curves.items()):
        columns = list(zip(*runs))
        _band(axes, number, name, [statistics.fmean(column) for column in columns], columns, first=1)
    axes.set_xlabel("epochs")
    axes.set_ylabel(ylabel)
    axes.set_title("means and ranges over seeds", fontsize=10)


def _variance_axes(axes: Axes, variances: Mapping[str, Sequence[float]], widths: Sequence[int]) -> None:
    for number, (start, values) in enumerate(variances.items()):
        shown = [max(value, 1e-30) for value in values]
        colour = colour_of(number)
        axes.plot(widths, shown, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=5, label=start)
    axes.set_yscale("log")
    axes.set_xlabel("wires")
    axes.set_xticks(list(widths))
    axes.set_ylabel("variance of a derivative at the start")


def _band(
    axes: Axes, number: int, name: str, middle: Sequence[float], columns: Sequence[Sequence[float]], first: int = 0
) -> None:
    steps = range(first, first + len(middle))
    colour = colour_of(number)
    # One marker every so often tells the lines apart without their colours.
    every = max(1, math.ceil(len(middle) / 8))
    axes.plot(
        steps,
        middle,
        color=colour,
        label=name,
        marker=MARKERS[number % len(MARKERS)],
        markersize=4,
        markevery=(number % every, every),
    )
    if len(columns[0]) > 1:
        axes.fill_between(
            steps, list(map(min, columns)), list(map(max, columns)), color=colour, alpha=0.14, linewidth=0
        )


def _drawn(draw: Any, *args: Any) -> bytes:
    with drawing():
        figure, axes = new_axes("", "")
        draw(axes, *args)
        axes.legend(frameon=False, fontsize=8)
    return to_png(figure)
