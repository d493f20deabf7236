"""Pictures of trained circuits: energies and accuracies against iterations, gradients against wires.

matplotlib is imported when a picture is drawn, and only through its object interface.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ketune.vqc.energy_runs import EnergyRuns, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design" (2008), without yellow and black.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d5560", "#882255")
_MARKERS = "osD^vPX*"
_STYLE: dict[str, Any] = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "lines.linewidth": 1.8,
}
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
    axes.axhline(runs.target, color="#808890", linewidth=1.0, linestyle=(0, (4, 3)))
    axes.annotate("target", (1.0, runs.target), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
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
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(widths, shown, color=colour, marker=_MARKERS[number % len(_MARKERS)], markersize=5, label=start)
    axes.set_yscale("log")
    axes.set_xlabel("wires")
    axes.set_xticks(list(widths))
    axes.set_ylabel("variance of a derivative at the start")


def _band(
    axes: Axes, number: int, name: str, middle: Sequence[float], columns: Sequence[Sequence[float]], first: int = 0
) -> None:
    steps = range(first, first + len(middle))
    colour = _COLOURS[number % len(_COLOURS)]
    # One marker every so often tells the lines apart without their colours.
    every = max(1, math.ceil(len(middle) / 8))
    axes.plot(
        steps,
        middle,
        color=colour,
        label=name,
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=4,
        markevery=(number % every, every),
    )
    if len(columns[0]) > 1:
        axes.fill_between(
            steps, list(map(min, columns)), list(map(max, columns)), color=colour, alpha=0.14, linewidth=0
        )


def _drawn(draw: Any, *args: Any) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(cast(Any, _STYLE)):
        figure: Figure = Figure(figsize=(6.4, 4.0))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes, *args)
        axes.legend(frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, facecolor="white", bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()
