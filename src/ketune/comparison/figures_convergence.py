"""Figures of convergence: loss against steps, tokens and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ketune.comparison.arms import Arm
from ketune.comparison.figure_labels import label_line_ends
from ketune.comparison.figure_style import colour, dashes, marker, short_number
from ketune.pictures import NEUTRAL, drawing, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What a loss may be drawn against: the key in a result's history and the name of the axis.
AXES = {"step": "optimiser steps", "tokens": "tokens seen in training", "seconds": "seconds of training"}

_GRID_POINTS = 120


def loss_figure(arms: Sequence[Arm], against: str) -> Figure | None:
    """Training loss of each arm, the mean over seeds with a band from the lowest to the highest seed.

    Each seed's loss is smoothed by a running mean first. None when no arm has a history.

    Args:
        arms: Arms to draw.
        against: A key of `AXES`.
    """
    curves = [(arm, curve) for arm in arms if (curve := mean_curve(arm, against)) is not None]
    if not curves:
        return None
    with drawing():
        figure, axes = new_axes(AXES[against], "training loss (nats per token)")
        for arm, (x, mean, low, high) in curves:
            axes.fill_between(x, low, high, color=colour(arm), alpha=0.14, linewidth=0)
            axes.plot(x, mean, color=colour(arm), linestyle=dashes(arm))
        lowest = min(min(low) for _, (_, _, low, _) in curves)
        # The first steps fall steeply and alike; what differs comes after, so the axis starts at a tenth of the way.
        highest = max(mean[len(mean) // 10] for _, (_, mean, _, _) in curves)
        pad = 0.05 * (highest - lowest) or 0.1
        axes.set_ylim(lowest - pad, highest + pad)
        axes.set_xlim(0, max(x[-1] for _, (x, *_) in curves))
        axes.xaxis.set_major_formatter(short_number)
        label_line_ends(axes, [(x[-1], mean[-1], arm.label, colour(arm)) for arm, (x, mean, _, _) in curves])
    return figure


def eval_figure(arms: Sequence[Arm], base_loss: float | None = None) -> Figure | None:
    """Validation loss of each arm against steps, the mean over seeds with a bar from the lowest to the highest seed.

    None unless some arm was evaluated at two or more steps.
    """
    curves = [(arm, points) for arm in arms if len(points := _evaluations(arm)) > 1]
    if not curves:
        return None
    with drawing():
        figure, axes = new_axes(AXES["step"], "validation loss (nats per token)")
        ends = []
        for arm, points in curves:
            steps = sorted(points)
            means = [math.fsum(points[step]) / len(points[step]) for step in steps]
            spread = [
                [mean - min(points[step]) for step, mean in zip(steps, means)],
                [max(points[step]) - mean for step, mean in zip(steps, means)],
            ]
            style = {"color": colour(arm), "linestyle": dashes(arm), "marker": marker(arm), "markersize": 5}
            axes.errorbar(steps, means, spread, elinewidth=1.0, **style)
            ends.append((steps[-1], means[-1], arm.label, colour(arm)))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(short_number)
        if base_loss is not None and base_loss < axes.get_ylim()[1]:
            axes.axhline(base_loss, color=NEUTRAL, linewidth=1, linestyle=":")
        label_line_ends(axes, ends)
    return figure


def mean_curve(arm: Arm, against: str) -> tuple[list[float], list[float], list[float], list[float]] | None:
    """x, and mean, lowest and highest smoothed loss over the seeds of an arm on a common grid; None without a history.

    The grid ends where the first seed ends, so that every point is a mean over the same seeds.
    """
    seeds = [_history(result.ketune.history, against) for result in arm.results]
    seeds = [(x, smooth(y)) for x, y in seeds if len(x) > 1]
    if not seeds:
        return None
    start, end = max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds)
    grid = [start + (end - start) * i / (_GRID_POINTS - 1) for i in range(_GRID_POINTS)]
    columns = list(zip(*(_interpolate(grid, x, y) for x, y in seeds)))
    return grid, [math.fsum(c) / len(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns]


def smooth(values: Sequence[float]) -> list[float]:
    """Running mean over a centred window of a fifteenth of the length, shorter at both ends to stay centred."""
    reach = max(1, len(values) // 30)
    smoothed = []
    for i in range(len(values)):
        near = min(reach, i, len(values) - 1 - i)
        window = values[i - near : i + near + 1]
        smoothed.append(math.fsum(window) / len(window))
    return smoothed


def _history(history: Sequence[dict], against: str) -> tuple[list[float], list[float]]:
    entries = [e for e in history if _is_number(e.get("loss")) and _is_number(e.get(against))]
    entries.sort(key=lambda entry: entry[against])
    return [float(e[against]) for e in entries], [float(e["loss"]) for e in entries]


def _evaluations(arm: Arm) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for result in arm.results:
        for entry in result.ketune.history:
            if _is_number(entry.get("eval_loss")) and _is_number(entry.get("step")):
                found.setdefault(entry["step"], []).append(entry["eval_loss"])
    return found


def _interpolate(grid: Sequence[float], x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Values of the line through (x, y) at the points of a rising grid within [x[0], x[-1]]."""
    found = []
    right = 1
    for point in grid:
        while right < len(x) - 1 and x[right] < point:
            right += 1
        width = x[right] - x[right - 1]
        share = (point - x[right - 1]) / width if width > 0 else 1.0
        found.append(y[right - 1] + (y[right] - y[right - 1]) * min(max(share, 0.0), 1.0))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
