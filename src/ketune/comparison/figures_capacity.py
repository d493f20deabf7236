"""Figures of representational capacity: spectra, ranks, and what the circuits can express."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ketune.comparison.arms import Arm
from ketune.comparison.figure_labels import label_line_ends, label_points
from ketune.comparison.figure_style import colour, dashes, marker
from ketune.pictures import NEUTRAL, drawing, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SMALLEST = 1e-3  # smaller values take room in the figure and say nothing


def spectrum_figure(arms: Sequence[Arm]) -> Figure | None:
    """Singular values of each arm's change of the last hidden states over the largest, the geometric mean over seeds.

    None when no arm has a spectrum.
    """
    return _spectra([(arm, values) for arm in arms if (values := mean_spectrum(arm))])


def weight_spectrum_figure(arms: Sequence[Arm]) -> Figure | None:
    """Singular values of each arm's changed weight matrices over the largest, the mean over matrices and seeds.

    None when no arm's update is a matrix.
    """
    return _spectra([(arm, values) for arm in arms if (values := mean_weight_spectrum(arm))])


def _spectra(spectra: Sequence[tuple[Arm, list[float]]]) -> Figure | None:
    if not spectra:
        return None
    with drawing():
        figure, axes = new_axes("index of the singular value (log scale)", "singular value over the largest")
        axes.set_xscale("log")
        axes.set_yscale("log")
        for arm, values in spectra:
            axes.plot(range(1, len(values) + 1), values, color=colour(arm), linestyle=dashes(arm))
        axes.set_xlim(1, max(max(len(values) for _, values in spectra), 2))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(max(_SMALLEST, 0.7 * min(min(values) for _, values in spectra)), 1.3)
        axes.minorticks_off()
        label_line_ends(axes, [(len(values), values[-1], arm.label, colour(arm)) for arm, values in spectra])
    return figure


def mean_spectrum(arm: Arm) -> list[float]:
    """Singular values over the largest, geometric mean over seeds, as far as all seeds are above 1e-3."""
    seeds = []
    for result in arm.results:
        values = ((result.ketune.capacity or {}).get("hidden") or {}).get("singular_values") or []
        if values and values[0] and values[0] > 0:
            ratios = [value / values[0] for value in values if value is not None]
            seeds.append([ratio for ratio in ratios if ratio >= _SMALLEST])
    if not seeds:
        return []
    length = min(len(values) for values in seeds)
    return [math.exp(math.fsum(math.log(v[k]) for v in seeds) / len(seeds)) for k in range(length)]


def mean_weight_spectrum(arm: Arm) -> list[float]:
    """Singular values over the largest, mean over matrices and seeds, as far as the mean is above 1e-3."""
    spectra = []
    for result in arm.results:
        for found in ((result.ketune.capacity or {}).get("weights") or {}).values():
            values = found.get("singular_values") or [0.0]
            if values[0] > 0:
                spectra.append([value / values[0] for value in values])
    means = []
    for k in range(max((len(values) for values in spectra), default=0)):
        mean = math.fsum(values[k] for values in spectra if k < len(values)) / len(spectra)
        if mean < _SMALLEST:
            break
        means.append(mean)
    return means


def circuit_figure(arms: Sequence[Arm]) -> Figure | None:
    """Entangling capability against expressibility of each distinct circuit; None when no arm has a circuit.

    The rings show where random states stand: divergence 0 and the mean entanglement (N - 2) / (N + 1) of Haar-random
    states of N amplitudes (Meyer and Wallach 2002; the mean after Scott and Caves 2003).
    """
    points: dict[tuple, tuple[float, float, str, str, str, int]] = {}
    for arm in arms:
        circuit = next((r.ketune.circuit for r in arm.results if r.ketune.circuit), None)
        if circuit is None or arm.control == "frozen":  # the same circuit as the trained one
            continue
        x, y = circuit.get("expressibility"), circuit.get("entangling_capability")
        if x is not None and y is not None:
            name = f"{arm.label}: {circuit['n_wires']} wires, depth {circuit['depth']}"
            points[x, y, circuit["n_wires"]] = (x, y, name, colour(arm), marker(arm), circuit["n_wires"])
    if not points:
        return None
    with drawing():
        figure, axes = new_axes(
            "expressibility: divergence from random states (0 is most expressive)",
            "entangling capability (Meyer-Wallach)",
            (6.4, 3.8),
        )
        for x, y, _, tint, shape, _ in points.values():
            axes.plot([x], [y], marker=shape, markersize=9, color=tint, linestyle="none", zorder=3)
        random = {wires: (2**wires - 2) / (2**wires + 1) for *_, wires in points.values()}
        for y in random.values():
            axes.plot(
                [0], [y], marker="o", markersize=9, color=NEUTRAL, fillstyle="none", linestyle="none", clip_on=False
            )
        reach = max(x for x, *_ in points.values()) or 1.0
        axes.set_xlim(-0.04 * reach, 1.35 * reach)
        axes.set_ylim(0, 1.05)
        labels = [(x, y, name, tint) for x, y, name, tint, *_ in points.values()]
        labels += [(0, y, f"random states, {wires} wires", NEUTRAL) for wires, y in random.items()]
        label_points(axes, labels)
    return figure
