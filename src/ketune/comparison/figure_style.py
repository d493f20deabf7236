"""How all figures of a report look: one colour per method, quiet axes, labels that do not overlap, PNG and SVG.

matplotlib is imported when a figure is drawn, and only through its object interface: no pyplot, no global state that an
application around us would notice.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from ketune.comparison.arms import Arm, registered_methods

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design" (2008), without its yellow (too pale on white) and with slate in place of its
# black (invisible on a dark page), then four of Tol's "muted" scheme for more methods than that.
_COLOURS = (
    "#4d5560",
    "#0072b2",
    "#009e73",
    "#cc79a7",
    "#d55e00",
    "#56b4e9",
    "#e69f00",
    "#882255",
    "#999933",
    "#44aa99",
    "#aa4499",
)
_MARKERS = "osD^vPX*<>"
_DASHES: dict[str | None, Any] = {None: "-", "trained": "-", "frozen": (0, (5, 2)), "classical": (0, (1.2, 1.6))}
_OTHER_DASHES = (0, (5, 2, 1.2, 2))

INK = "#22262b"
GRID = "#e4e7eb"
NEUTRAL = "#808890"

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "ketune",  # the same figure gives the same bytes
    "path.simplify": True,
}


def colour(arm: Arm) -> str:
    """The colour of an arm's method, the same in all figures and comparisons; controls share it."""
    return _COLOURS[_place(arm.method) % len(_COLOURS)]


def marker(arm: Arm) -> str:
    """The marker of an arm's method, for readers who cannot tell colours apart."""
    return _MARKERS[_place(arm.method) % len(_MARKERS)]


def shape(number: int) -> str:
    """The marker of the `number`th of some things that are no methods."""
    return _MARKERS[number % len(_MARKERS)]


def dashes(arm: Arm) -> Any:
    """The line style of an arm: solid for methods, one kind of dashes for each control."""
    return _DASHES.get(arm.control, _OTHER_DASHES)


def _place(method: str) -> int:
    known = list(registered_methods())
    if method in known:
        return known.index(method)
    return len(known) + sum(method.encode())  # a method of PEFT's that we only read: some colour, always the same


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in our style; matplotlib's settings are as before afterwards."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, _STYLE)):
        yield


def new_axes(xlabel: str, ylabel: str, size: tuple[float, float] = (6.4, 4.0)) -> tuple[Figure, Axes]:
    """A figure with one empty plot; size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.patch.set_alpha(0)
    return figure, axes


def to_png(figure: Figure) -> bytes:
    """The figure on white, for Markdown."""
    buffer = io.BytesIO()
    with drawing():
        figure.savefig(buffer, format="png", dpi=160, facecolor="white", bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element whose ink, grid and halos follow the colours of the page around it."""
    buffer = io.StringIO()
    with drawing():
        figure.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.06, metadata={"Date": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg ") :]
    start = svg.find("<metadata>")
    if start >= 0:
        svg = svg[:start] + svg[svg.index("</metadata>") + len("</metadata>") :]
    for hex_colour, variable in ((INK, "currentColor"), (GRID, "var(--grid)"), ("#ffffff", "var(--halo)")):
        svg = svg.replace(hex_colour, variable)
    for i, tint in enumerate(_COLOURS):
        svg = svg.replace(tint, f"var(--method-{i}, {tint})")
    return svg.replace("'DejaVu Sans'", "inherit").replace("font: 10px inherit", "font: 10px system-ui, sans-serif")


def short_number(value: float, _: object = None) -> str:
    """12345 as "12k": a tick label."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"
