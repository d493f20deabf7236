"""How all pictures look: colours that everybody can tell apart, quiet axes, PNG on white. Below all rooms.

matplotlib is imported when a picture is drawn, and only through its object interface: no pyplot, no global state that
an application around us would notice.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design" (2008), without its yellow (too pale on white) and with slate in place of its
# black (invisible on a dark page), then four of Tol's "muted" scheme for more methods than that.
COLOURS = (
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
MARKERS = "osD^vPX*<>"

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


def colour_of(number: int) -> str:
    """The colour of the `number`th of some things that are no methods; slate, the reference's, comes last."""
    return COLOURS[(number + 1) % len(COLOURS)]


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
