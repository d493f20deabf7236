"""Names written beside lines and points instead of a legend, moved so that they do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def label_line_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names to the right of the plot at the height where their lines end, moved apart where they would touch.

    Args:
        axes: Its limits and scales must stand.
        ends: For each line the x and y of its last point, its name and its colour.
    """
    if not ends:
        return
    axes.autoscale_view()
    height = axes.get_window_extent().height
    gap = 13.5 * axes.figure.dpi / 72 / height  # a line of text, as a share of the height
    to_axes = axes.transData + axes.transAxes.inverted()
    points = [tuple(to_axes.transform((x, y))) for x, y, _, _ in ends]
    heights = spread([min(max(y, 0.0), 1.0) for _, y in points], gap)
    for (x, y), at, (_, _, name, tint) in zip(points, heights, ends):
        y = min(max(y, 0.0), 1.0)
        style = {"color": tint, "linewidth": 1, "linestyle": ":"}
        axes.plot([x, 1.012, 1.03], [y, at, at], transform=axes.transAxes, clip_on=False, **style)
        axes.text(1.038, at, name, transform=axes.transAxes, color=tint, va="center", fontsize=9.5)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved as little as needed, in their order, so that neighbours are at least `gap` apart.

    Neighbours that touch are merged into a block around their common mean, until no two blocks touch.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[list[int]] = []
    centres: list[float] = []
    for i in order:
        blocks.append([i])
        centres.append(heights[i])
        while len(blocks) > 1 and centres[-1] - centres[-2] < gap * (len(blocks[-1]) + len(blocks[-2])) / 2 - 1e-9:
            merged = blocks[-2] + blocks[-1]
            blocks[-2:] = [merged]
            centres[-2:] = [sum(heights[j] for j in merged) / len(merged)]
    placed = [0.0] * len(heights)
    for block, centre in zip(blocks, centres):
        for k, i in enumerate(block):
            placed[i] = centre + gap * (k - (len(block) - 1) / 2)
    return placed


def label_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names beside points; points above each other get theirs in one column, moved apart where they would touch.

    A column stands to the right of its points, or to the left where the plot ends before the names do.

    Args:
        axes: Its limits and scales must stand.
        points: x, y, name and colour of each point.
    """
    axes.autoscale_view()
    frame = axes.get_window_extent()
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    inch = axes.figure.dpi
    column: list[int] = []
    pixels = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    for i in sorted(range(len(points)), key=lambda i: pixels[i][0]):
        if column and pixels[i][0] - pixels[column[0]][0] > 0.35 * inch:
            _label_column(axes, [points[j] for j in column], [pixels[j] for j in column], frame, renderer)
            column = []
        column.append(i)
    if column:
        _label_column(axes, [points[j] for j in column], [pixels[j] for j in column], frame, renderer)


def _label_column(axes: Axes, points: Sequence[Any], pixels: Sequence[Any], frame: Any, renderer: Any) -> None:
    """Names of one column of points."""
    inch = axes.figure.dpi
    gap = 13.5 * inch / 72
    heights = spread([y for _, y in pixels], gap)
    # Keep the whole column inside the plot.
    shift = max(frame.y0 + gap / 2 - min(heights), 0.0) or min(frame.y1 - gap / 2 - max(heights), 0.0)
    heights = [height + shift for height in heights]
    texts = []
    for (x, y, name, tint), (_, pixel_y), height in zip(points, pixels, heights):
        up = (height - pixel_y) * 72 / inch
        text = axes.annotate(name, (x, y), (14, up), textcoords="offset points", va="center", fontsize=9.5, color=tint)
        text.set_bbox({"boxstyle": "square,pad=0.08", "facecolor": "#ffffff", "edgecolor": "none", "alpha": 0.8})
        texts.append((text, up))
    right = max(text.get_window_extent(renderer).x1 for text, _ in texts) < frame.x1 + 0.1 * inch
    for (x, y, _, tint), (text, up) in zip(points, texts):
        side = 1 if right else -1
        text.set_position((14 * side, up))
        text.set_horizontalalignment("left" if right else "right")
        if abs(up) > 2:
            line = {"arrowstyle": "-", "color": tint, "linewidth": 0.7, "alpha": 0.7, "shrinkA": 0, "shrinkB": 5}
            axes.annotate("", (x, y), (13 * side, up), textcoords="offset points", arrowprops=line)
