"""The shapes that all pictures of methods are made of; `draw_methods.py` draws with them.

Lengths are points, from the lower left corner. What trains is filled, what is frozen is grey, what is computed from
trained numbers has a dashed edge, and what has no numbers at all is white.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
from matplotlib.textpath import TextPath

from ketune.circuits import Circuit
from ketune.pictures import GRID, INK, drawing

WIDTH = 525.0  # 700 pixels, so that 9 points are 12 pixels
SMALL, NORMAL, LARGE = 9.0, 10.5, 13.0
SLATE = "#4d5560"  # words and edges of less weight, dark enough for small letters
TRAINED_BLUE = "#0072b2"  # the blue of Okabe and Ito, which the figures of reports have too

IN, SPLIT, FROZEN_AT, SUM, OUT = 20.0, 46.0, 148.0, 478.0, 505.0
"""Where x comes in, branches, meets the frozen weight, meets the update and leaves: the same in all pictures."""


class Kind(NamedTuple):
    """How a shape looks, by what its numbers are."""

    fill: str
    edge: str
    dashes: Any
    ink: str


TRAINED = Kind(TRAINED_BLUE, TRAINED_BLUE, "-", "#ffffff")
FROZEN = Kind("#d9dde2", SLATE, "-", INK)
MADE = Kind("#e4f1fa", TRAINED_BLUE, (0, (3, 1.8)), INK)
PLAIN = Kind("#ffffff", INK, "-", INK)
DARK = Kind(INK, INK, "-", "#ffffff")


class Canvas:
    """One picture: a card of its own, so that it reads the same on white and on dark pages.

    Args:
        title: the method's name.
        formula: what it computes, beside the name, in matplotlib's mathtext.
        height: of the picture.
    """

    def __init__(self, title: str, formula: str, height: float) -> None:
        self.title, self.height = title, height
        self.top = height - 66  # the lane of the frozen weight
        self.figure = Figure(figsize=(WIDTH / 72, height / 72))
        FigureCanvasSVG(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_xlim(0, WIDTH)
        self.axes.set_ylim(0, height)
        card = FancyBboxPatch((4, 4), WIDTH - 8, height - 8, boxstyle="round,pad=0,rounding_size=8")
        card.set(facecolor="#ffffff", edgecolor=GRID, linewidth=1.2, zorder=0)
        self.axes.add_patch(card)
        self.text(16, height - 24, title, size=LARGE, ha="left", weight="bold")
        self.text(WIDTH - 16, height - 24, formula, size=NORMAL + 1, ha="right")
        self._legend()

    # ------------------------------------------------------------------------------------------------------- shapes

    def text(self, x: float, y: float, words: str, size: float = SMALL, ha: Any = "center", **style: Any) -> None:
        """Words around (x, y), or left or right of it by `ha`."""
        style = {"color": INK, "va": "center", "zorder": 6, "linespacing": 1.25, **style}
        self.axes.text(x, y, words, size=size, ha=ha, **style)

    def box(
        self, x: float, y: float, width: float, height: float, kind: Kind, label: str = "", size: float = NORMAL
    ) -> None:
        """A rectangle around (x, y)."""
        self.funnel(x, y, width, height, height, kind, label, size)

    def funnel(
        self,
        x: float,
        y: float,
        width: float,
        left: float,
        right: float,
        kind: Kind,
        label: str = "",
        size: float = NORMAL,
    ) -> None:
        """A matrix around (x, y) from a vector as long as its left side is high to one as long as its right side."""
        corners = [(-width, -left), (-width, left), (width, right), (width, -right)]
        shape = Polygon([(x + a / 2, y + b / 2) for a, b in corners], closed=True, zorder=3, joinstyle="round")
        shape.set(facecolor=kind.fill, edgecolor=kind.edge, linestyle=kind.dashes, linewidth=1.2)
        self.axes.add_patch(shape)
        if label:
            self.text(x, y, label, size, color=kind.ink)

    def dot(self, x: float, y: float, radius: float = 2.2, kind: Kind = DARK, z: int = 5) -> None:
        """A circle around (x, y): a branching of activations, the control of a gate, a core of a tensor train."""
        dot = Circle((x, y), radius, facecolor=kind.fill, edgecolor=kind.edge, linestyle=kind.dashes, zorder=z)
        self.axes.add_patch(dot)

    def panel(self, x: float, y: float, width: float, height: float) -> None:
        """The ground that a circuit stands on where its matrix as a whole is used."""
        shape = FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=5")
        shape.set(facecolor="#f4f6f8", edgecolor=GRID, linewidth=1.0, zorder=1)
        self.axes.add_patch(shape)

    def node(self, x: float, y: float, sign: str = "+") -> None:
        """Where two flows are added or subtracted."""
        self.dot(x, y, 8, PLAIN, z=4)
        self.text(x, y, {"-": "−"}.get(sign, sign), LARGE, va="center_baseline")

    def line(
        self, *points: tuple[float, float], colour: str = INK, width: float = 1.2, z: int = 2, **style: Any
    ) -> None:
        """A line through points."""
        self.axes.plot(*zip(*points), color=colour, linewidth=width, zorder=z, solid_capstyle="butt", **style)

    def arrow(self, *points: tuple[float, float], colour: str = INK) -> None:
        """A line through points with a head at the last one; blue where weights flow instead of activations."""
        if len(points) > 2:
            self.line(*points[:-1], colour=colour)
        head = FancyArrowPatch(points[-2], points[-1], arrowstyle="-|>,head_length=5,head_width=2.6", shrinkA=0)
        head.set(color=colour, linestyle="-", linewidth=1.2, mutation_scale=1, zorder=2, joinstyle="miter")
        head.shrinkB = 0
        self.axes.add_patch(head)

    # ------------------------------------------------------------------------------------------ what all methods share

    def frozen_lane(self, branch: float | None = SPLIT) -> None:
        """x, the frozen weight W0, the sum and y; with a branching in front of W0, or at `branch`, or without."""
        y = self.top
        self.text(IN, y, "$x$", LARGE)
        self.arrow((IN + 8, y), (FROZEN_AT - 36, y))
        self.box(FROZEN_AT, y, 72, 40, FROZEN, "$W_0$", LARGE)
        self.arrow((FROZEN_AT + 36, y), (SUM - 8, y))
        self.node(SUM, y)
        self.arrow((SUM + 8, y), (OUT - 6, y))
        self.text(OUT, y, "$y$", LARGE)
        if branch is not None:
            self.dot(branch, y)

    def into(self, x: float, y: float) -> None:
        """From the branching of x down to a lane and into what begins at (x, y)."""
        self.arrow((SPLIT, self.top), (SPLIT, y), (x, y))

    def out_of(self, x: float, y: float) -> None:
        """From what ends at (x, y) to the sum."""
        self.arrow((x, y), (SUM, y), (SUM, self.top - 8))

    def diagonal(self, x: float, y: float, side: float, count: int) -> None:
        """A diagonal matrix whose entries train."""
        self.box(x, y, side, side, PLAIN)
        cell = side / count
        for i in range(count):
            corner = side / 2 - (i + 0.5) * cell
            self.box(x - corner, y + corner, cell, cell, TRAINED)

    def cells(self, x: float, y: float, cell: float, shares: Sequence[Sequence[float]], kind: Kind) -> None:
        """A matrix, its entries as dark as `shares` (0 to 1) says, inside an edge of the kind."""
        rows, columns = len(shares), len(shares[0])
        self.box(x, y, cell * columns, cell * rows, Kind("#ffffff", kind.edge, kind.dashes, kind.ink))
        left, top = x - cell * columns / 2, y + cell * rows / 2
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share > 0.02:
                    low = (left + j * cell, top - (i + 1) * cell)
                    patch = Polygon(
                        [low, (low[0] + cell, low[1]), (low[0] + cell, low[1] + cell), (low[0], low[1] + cell)],
                        facecolor=TRAINED_BLUE,
                        alpha=round(float(share), 2),
                        linewidth=0,
                        zorder=3,
                    )
                    self.axes.add_patch(patch)

    def circuit(
        self,
        circuit: Circuit,
        x: float,
        y: float,
        column: float,
        pitch: float,
        fixed: Sequence[int] = (),
        lead: float = 8,
    ) -> float:
        """Draw a circuit's gates on wires around the height y, from x on; wire 0 is on top.

        Args:
            circuit: any circuit of RY, RZ, CNOT, CZ and CRZ gates.
            x: where the wires begin.
            y: the height of their middle.
            column: width of a column of gates.
            pitch: distance of the wires.
            fixed: indices of angles that are inputs and do not train.
            lead: length of wire before the first column and after the last.

        Returns:
            Where the wires end.
        """
        heights = wire_heights(circuit.n_wires, y, pitch)
        busy = [0] * circuit.n_wires
        for gate in circuit.gates:
            span = range(min(gate.wires), max(gate.wires) + 1)
            place = max(busy[wire] for wire in span)
            for wire in span:
                busy[wire] = place + 1
            self._gate(gate, x + lead + (place + 0.5) * column, heights, PLAIN if gate.angle in fixed else TRAINED)
        end = x + 2 * lead + max(busy) * column
        for height in heights:
            self.line((x, height), (end, height), width=1.0)
        return end

    def _gate(self, gate: Any, x: float, heights: Sequence[float], kind: Kind) -> None:
        at = [heights[wire] for wire in gate.wires]
        if len(at) == 2:
            self.line((x, at[0]), (x, at[1]), z=3)
            self.dot(x, at[0])
        target = at[-1]
        if gate.name == "CNOT":
            self.dot(x, target, 4.5, PLAIN)
            self.line((x - 4.5, target), (x + 4.5, target), width=1.0, z=6)
            self.line((x, target - 4.5), (x, target + 4.5), width=1.0, z=6)
        elif gate.name == "CZ":
            self.dot(x, target)
        elif gate.name in ("RY", "RZ", "CRZ"):
            self.box(x, target, 17, 15, kind, gate.name.removeprefix("C"), SMALL)
        else:
            raise ValueError(f"circuit: no symbol for {gate.name}; add one to Canvas._gate")

    # -------------------------------------------------------------------------------------------------------- the end

    def _legend(self) -> None:
        """The line below every picture that says what the shapes mean."""
        y, left, right = 18.0, 16.0, WIDTH - 16
        self.line((left, y + 13), (right, y + 13), colour=GRID)
        boxes = {"frozen": FROZEN, "trained": TRAINED, "made from it": MADE, "fixed": PLAIN}
        arrows = {"activations": INK, "weights": TRAINED_BLUE}
        words = [*boxes, "wire", *arrows]
        symbol, room = 19.0, 5.0
        lengths = [symbol + room + TextPath((0, 0), word, size=SMALL).get_extents().width for word in words]
        gap = (right - left - sum(lengths)) / (len(words) - 1)
        x = left
        for word, length in zip(words, lengths):
            if word in boxes:
                self.box(x + symbol / 2, y, symbol, 11, boxes[word])
            elif word in arrows:
                self.arrow((x, y), (x + symbol, y), colour=arrows[word])
            else:
                self.line((x, y), (x + symbol, y), width=1.0)
                self.dot(x + symbol / 2, y)
            self.text(x + symbol + room, y - 3.3, word, ha="left", va="baseline", color=SLATE)
            x += length + gap

    def to_svg(self) -> bytes:
        """The picture; the same bytes whenever it is drawn, with letters as outlines."""
        buffer = io.BytesIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        # Outlines, so that no label grows out of its box where DejaVu Sans is missing.
        with drawing(), matplotlib.rc_context({"svg.fonttype": "path"}):
            self.figure.savefig(buffer, format="svg", transparent=True, metadata={**nothing, "Title": self.title})
        return buffer.getvalue()


def wire_heights(n_wires: int, y: float, pitch: float) -> list[float]:
    """The heights of wires around y, the first on top."""
    return [y + (n_wires - 1) * pitch / 2 - wire * pitch for wire in range(n_wires)]
