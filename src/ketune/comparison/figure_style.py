"""How all figures of a report look: one colour per method, quiet axes, labels that do not overlap, PNG and SVG.

What all pictures share, those of other rooms too, is in `ketune.pictures`; here is what they say of methods, and SVG.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ketune.comparison.arms import Arm, registered_methods
from ketune.pictures import COLOURS, GRID, INK, MARKERS, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHES: dict[str | None, Any] = {None: "-", "trained": "-", "frozen": (0, (5, 2)), "classical": (0, (1.2, 1.6))}
_OTHER_DASHES = (0, (5, 2, 1.2, 2))


def colour(arm: Arm) -> str:
    """The colour of an arm's method, the same in all figures and comparisons; controls share it."""
    return COLOURS[_place(arm.method) % len(COLOURS)]


def marker(arm: Arm) -> str:
    """The marker of an arm's method, for readers who cannot tell colours apart."""
    return MARKERS[_place(arm.method) % len(MARKERS)]


def shape(number: int) -> str:
    """The marker of the `number`th of some things that are no methods."""
    return MARKERS[number % len(MARKERS)]


def dashes(arm: Arm) -> Any:
    """The line style of an arm: solid for methods, one kind of dashes for each control."""
    return _DASHES.get(arm.control, _OTHER_DASHES)


def _place(method: str) -> int:
    known = list(registered_methods())
    if method in known:
        return known.index(method)
    return len(known) + sum(method.encode())  # a method of PEFT's that we only read: some colour, always the same


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
    for i, tint in enumerate(COLOURS):
        svg = svg.replace(tint, f"var(--method-{i}, {tint})")
    return svg.replace("'DejaVu Sans'", "inherit").replace("font: 10px inherit", "font: 10px system-ui, sans-serif")


def short_number(value: float, _: object = None) -> str:
    """12345 as "12k": a tick label."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"
