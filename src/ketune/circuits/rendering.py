"""A circuit as something to look at or to hand on: text, a picture, LaTeX or OpenQASM."""

import difflib
import io

from torch import Tensor

from ketune.circuits.circuit import Circuit
from ketune.circuits.export import draw, to_openqasm3
from ketune.errors import KetuneError

STYLES = ("text", "mpl", "latex", "qasm")
PICTURES = ("png", "svg", "pdf")


class RenderError(KetuneError):
    """A drawing that cannot be made as asked."""


def render(circuit: Circuit, style: str = "text", picture: str = "png", angles: Tensor | None = None) -> str | bytes:
    """Draw a circuit, or write it as a program.

    Args:
        circuit: the circuit.
        style: "text", "latex" or "qasm" (OpenQASM 3) give text; "mpl" gives the bytes of a picture.
        picture: format of that picture: "png", "svg" or "pdf".
        angles: (n_angles,) values to show or write; None leaves them free.

    Raises:
        RenderError: for an unknown style or format, and without Qiskit, with the command that installs it.
    """
    if style not in STYLES:
        near = difflib.get_close_matches(style, STYLES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise RenderError(f"style {style!r}: choose one of {', '.join(map(repr, STYLES))}{hint}")
    if picture not in PICTURES:
        raise RenderError(f"a picture of format {picture!r}: choose one of {', '.join(map(repr, PICTURES))}")
    try:
        if style == "qasm":
            return to_openqasm3(circuit, angles)
        drawing = draw(circuit, angles, style=style)
    except ImportError as error:  # MissingOptionalLibraryError of Qiskit (pylatexenc) is one too
        raise RenderError(" ".join(str(error).split())) from error
    if style != "mpl":
        return str(drawing)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format=picture, bbox_inches="tight", dpi=150)
    return buffer.getvalue()


def fold(drawing: str, width: int) -> str:
    """Break a text drawing into blocks of at most `width` columns, one below the other, as a long score is printed."""
    lines = drawing.splitlines()
    longest = max(map(len, lines), default=0)
    if longest <= width or width < 2:
        return drawing
    # A column of marks on both sides of a break shows that the wires go on.
    step = width - 1
    blocks = []
    for start in range(0, longest, step):
        goes_on = start + step < longest
        blocks.append("\n".join(f"{line[start : start + step]}{'»' if goes_on else ''}" for line in lines))
    return "\n\n".join(blocks)
