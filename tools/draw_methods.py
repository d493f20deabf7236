"""Draw the idea of each method: one SVG per method in docs/images/methods/.

    python tools/draw_methods.py               # all of them
    python tools/draw_methods.py qaa sora      # some
    python tools/draw_methods.py --out /tmp/pictures

The same code gives the same bytes, so `tests/tools/test_draw_methods.py` can tell when a picture is out of date. Bytes
follow matplotlib's version; draw with the one in constraints.txt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ketune.pictures import drawing
from method_pictures import PICTURES

PLACE = Path(__file__).resolve().parents[1] / "docs" / "images" / "methods"


def draw(name: str) -> bytes:
    """The picture of a method as SVG.

    Args:
        name: one of `PICTURES`.
    """
    with drawing():
        return PICTURES[name]().to_svg()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"methods to draw: {', '.join(PICTURES)} (default all)"
    )
    parser.add_argument("--out", type=Path, default=PLACE, help="folder for the pictures (default docs/images/methods)")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(PICTURES)):
        parser.error(f"no picture of {unknown[0]!r}; choose from {', '.join(PICTURES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or PICTURES:
        path = arguments.out / f"{name}.svg"
        path.write_bytes(draw(name))
        print(path)


if __name__ == "__main__":
    main()
