"""Figures of efficiency: quality against parameters, memory, time, and the difference to LoRA."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ketune.comparison.arms import Arm
from ketune.comparison.figure_labels import label_line_ends, label_points
from ketune.comparison.figure_style import colour, dashes, marker, shape, short_number
from ketune.comparison.statistics import PairedTest, pareto_front
from ketune.pictures import INK, NEUTRAL, drawing, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def quality_figure(arms: Sequence[Arm], base_loss: float | None = None) -> Figure | None:
    """Test loss against trainable parameters with the Pareto front marked; bars are 95 % intervals over seeds.

    None when no arm has both numbers.
    """
    points = [(arm, n, mean) for arm in arms if (n := arm.n_trainable) and (mean := arm.mean("loss")) is not None]
    if not points:
        return None
    from matplotlib.ticker import LogLocator

    front = [points[i] for i in pareto_front([(n, mean.mean) for _, n, mean in points])]
    with drawing():
        figure, axes = new_axes("trainable parameters (log scale)", "test loss (nats per token)", (6.8, 4.4))
        axes.set_xscale("log")
        for arm, n, mean in points:
            style = {"color": colour(arm), "marker": marker(arm), "markersize": 8, "linestyle": "none"}
            if arm.is_control:
                style |= {"markerfacecolor": "#ffffff", "markeredgewidth": 1.5}
            axes.errorbar([n], [mean.mean], [[mean.half_width or 0.0]] * 2, elinewidth=1.2, zorder=3, **style)
        if len(front) > 1:
            axes.plot(
                [n for _, n, _ in front],
                [mean.mean for _, _, mean in front],
                color=INK,
                linewidth=1.1,
                linestyle=(0, (4, 3)),
                drawstyle="steps-post",
                alpha=0.6,
                zorder=1,
            )
        low, high = (pick(n for _, n, _ in points) for pick in (min, max))
        axes.set_xlim(low / 2.5, high * 2.5)
        axes.margins(y=0.14)
        axes.autoscale_view(scalex=False)
        _base_line(axes, base_loss)
        if high < 30 * low:  # powers of ten alone would be one tick or none
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(short_number)
        axes.minorticks_off()
        label_points(axes, [(n, mean.mean, arm.label, colour(arm)) for arm, n, mean in points])
    return figure


def size_figure(arms: Sequence[Arm], base_loss: float | None = None) -> Figure | None:
    """Test loss against the size of the model that was tested; None unless some model was quantised.

    Colours tell methods apart and shapes ways of quantising; names stand in a legend, because models of one way have
    one size.
    """
    points = [(arm, size, loss) for arm in arms if (size := arm.mean("model_bytes")) and (loss := arm.mean("loss"))]
    ways = list(dict.fromkeys(arm.quantization for arm, _, _ in points))
    if not any(ways):
        return None
    with drawing():
        figure, axes = new_axes("size of the model (MiB)", "test loss (nats per token)", (6.8, 4.4))
        for arm, size, loss in points:
            style = {"color": colour(arm), "marker": shape(ways.index(arm.quantization)), "markersize": 8}
            if arm.quantization:
                style |= {"markerfacecolor": "#ffffff", "markeredgewidth": 1.6}
            half = [[loss.half_width or 0.0]] * 2
            axes.errorbar(
                [size.mean / 2**20], [loss.mean], half, elinewidth=1.2, linestyle="none", label=arm.label, **style
            )
        axes.margins(x=0.1, y=0.14)
        axes.set_xlim(left=0)
        _base_line(axes, base_loss)
        bars: list[Any] = axes.get_legend_handles_labels()[0]
        handles = [bar[0] for bar in bars]  # the marker alone
        labels = [arm.label for arm, _, _ in points]
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
    return figure


def _base_line(axes, base_loss: float | None) -> None:
    """The untouched base as a dotted line where it is near the others, as a remark where it is far above."""
    if base_loss is None:
        return
    low, high = axes.get_ylim()
    if base_loss <= high + 0.5 * (high - low):
        axes.axhline(base_loss, color=NEUTRAL, linewidth=1, linestyle=":")
        axes.set_ylim(low, max(high, base_loss + 0.06 * (high - low)))
        text, y, va = f"base {base_loss:.3f}", base_loss, "bottom"
        axes.annotate(text, (0.01, y), xycoords=("axes fraction", "data"), color=NEUTRAL, fontsize=9, va=va)
    else:
        text = f"base, above: {base_loss:.3f}"
        axes.annotate(text, (0.01, 0.985), xycoords="axes fraction", color=NEUTRAL, fontsize=9, va="top")


def bar_figure(arms: Sequence[Arm], metric: str, xlabel: str, scale: float, floor: str | None = None) -> Figure | None:
    """Horizontal bars of the mean of one measure, written beside them, with whiskers to the lowest and highest seed.

    None when no arm has it. Whiskers are no confidence intervals: what a cell costs varies with what else the machine
    did, which is not the chance that Student's t is about.

    Args:
        arms: One bar each, the first on top.
        metric: A measure of `Arm.mean`.
        xlabel: Name and unit.
        scale: Factor from the measure's unit to that of the label.
        floor: A measure that stands for what was there before (e.g. the base model's memory); drawn as a lighter part.
    """
    bars = [(arm, sorted(values)) for arm in arms if (values := arm.values(metric).values())]
    if not bars:
        return None
    with drawing():
        figure, axes = new_axes(xlabel, "", (6.4, 0.9 + 0.36 * len(bars)))
        longest = max(values[-1] for _, values in bars) * scale
        for row, (arm, values) in enumerate(bars):
            mean, low, high = (value * scale for value in (math.fsum(values) / len(values), values[0], values[-1]))
            tint = colour(arm)
            start = 0.0
            if floor is not None and (below := arm.mean(floor)) is not None:
                start = min(below.mean * scale, mean)
                axes.barh(row, start, height=0.62, color=tint, alpha=0.3)
            axes.barh(row, mean - start, left=start, height=0.62, color=tint, alpha=0.55 if arm.is_control else 1.0)
            if high > low:
                axes.plot([low, high], [row, row], color=INK, linewidth=1.2, marker="|", markersize=5)
            name = f"{mean:,.0f}" if mean >= 100 else f"{mean:#.3g}"
            axes.text(high + 0.012 * longest, row, name, va="center", fontsize=9)
        axes.set_yticks(range(len(bars)), [arm.label for arm, _ in bars])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.set_xlim(0, longest * 1.12 or 1.0)
        axes.set_ylim(len(bars) - 0.4, -0.6)
    return figure


def difference_figure(
    tests: Mapping[str, PairedTest], arms: Sequence[Arm], reference: str, reverse: bool = False
) -> Figure | None:
    """Paired differences of test loss with their 95 % intervals; None when there are none.

    Args:
        tests: By label of the arm.
        arms: All arms, for order and colour.
        reference: Label of what all are compared with.
        reverse: The tests are of `reference` minus arm, not of arm minus `reference`.
    """
    rows = [(arm, test) for arm in arms if (test := tests.get(arm.label)) is not None and test.difference is not None]
    if not rows:
        return None
    with drawing():
        xlabel = f"test loss minus that of {reference}, same seed (nats per token)"
        if reverse:
            xlabel = f"test loss of {reference} minus that of the control, same seed"
        figure, axes = new_axes(xlabel, "", (6.4, 1.1 + 0.4 * len(rows)))
        axes.axvline(0, color=INK, linewidth=1)
        for row, (arm, test) in enumerate(rows):
            assert test.difference is not None
            mean, width, tint = test.difference.mean, test.difference.half_width, colour(arm)
            if width is not None:
                axes.plot([mean - width, mean + width], [row, row], color=tint, linewidth=2.2, alpha=0.55)
            face = "#ffffff" if arm.is_control else tint
            axes.plot([mean], [row], marker=marker(arm), markersize=8, color=tint, markerfacecolor=face, zorder=3)
        axes.set_yticks(range(len(rows)), [arm.label for arm, _ in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(len(rows) - 0.4, -0.9)
        reach = max(abs(limit) for limit in axes.get_xlim())
        axes.set_xlim(-reach, reach)
        who = f"{reference} " if reverse else ""
        for text, x, ha in ((f"{who}better", 0.0, "left"), (f"{who}worse", 1.0, "right")):
            axes.text(x, 1.0, text, transform=axes.transAxes, fontsize=9, ha=ha, va="bottom", alpha=0.75)
    return figure


def learning_rate_figure(arms: Sequence[Arm]) -> Figure | None:
    """Validation loss of each learning rate that was tried; None unless some method tried two or more."""
    curves = [(arm, trials) for arm in arms if len(trials := learning_rate_trials(arm)) > 1]
    if not curves:
        return None
    with drawing():
        figure, axes = new_axes("learning rate (log scale)", "validation loss (nats per token)")
        axes.set_xscale("log")
        for arm, trials in curves:
            rates, losses = zip(*trials)
            axes.plot(rates, losses, color=colour(arm), linestyle=dashes(arm), marker=marker(arm), markersize=5)
            best = min(trials, key=lambda trial: trial[1])
            axes.plot([best[0]], [best[1]], marker="o", markersize=12, color=colour(arm), fillstyle="none")
        axes.set_xticks(sorted({rate for _, trials in curves for rate, _ in trials}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        ends = [(trials[-1][0], trials[-1][1], arm.label, colour(arm)) for arm, trials in curves]
        axes.margins(x=0.03)
        label_line_ends(axes, ends)
    return figure


def learning_rate_trials(arm: Arm) -> list[tuple[float, float]]:
    """(learning rate, validation loss) of the trials that chose the rate of an arm, by rate; diverged ones left out."""
    trials = next((r.ketune.lr_trials for r in arm.results if r.ketune.lr_trials), [])
    pairs = ((trial.get("learning_rate"), trial.get("eval_loss")) for trial in trials)
    return sorted((rate, loss) for rate, loss in pairs if rate and loss is not None and math.isfinite(loss))
