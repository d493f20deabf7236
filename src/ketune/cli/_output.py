"""Where words go: results to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table


def is_main_process() -> bool:
    """Whether this process speaks for all that `accelerate launch` started."""
    return os.environ.get("RANK", "0") == "0"


def is_terminal() -> bool:
    """Whether somebody watches: both streams are a terminal, so that bars neither end up in a file nor tear lines."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def results() -> Console:
    """The console of results. A pipe or a file has no width, so nothing is wrapped or cut there."""
    return _console(stderr=False)


def messages() -> Console:
    """The console of progress and notes."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout  # fixed now, whatever `libraries_quiet` does to sys.stdout later
    width = None if stream.isatty() or os.environ.get("COLUMNS") else 200
    return Console(file=stream, stderr=stderr, width=width, highlight=False, quiet=not is_main_process())


def say(text: str = "", *, to: Console | None = None, style: str | None = None) -> None:
    """Print a text as it is: no mark-up is read in it, and it is not wrapped."""
    (to or results()).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def verbatim(text: str) -> None:
    """Write what a model wrote to standard output, character for character; a console would expand its tabs."""
    if is_main_process():
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def print_json(value: Any) -> None:
    """Print JSON to standard output; numbers that JSON does not have become null."""
    if is_main_process():
        sys.stdout.write(json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


@contextlib.contextmanager
def libraries_quiet() -> Iterator[None]:
    """Send to standard error what libraries print, so that standard output holds our result and nothing else."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def working(words: str) -> Iterator[None]:
    """A spinner while something without steps goes on, if somebody watches."""
    if is_terminal() and is_main_process():
        with messages().status(words):
            yield
    else:
        yield


def plain_table(*columns: str, numbers: int = 0) -> Table:
    """A table without a frame; the last `numbers` columns are set right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        right = i >= len(columns) - numbers
        table.add_column(column, justify="right" if right else "left", no_wrap=right or i == 0)
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them: "8 s", "1 min 20 s", "2 h 5 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def share(value: float | None) -> str:
    """A share as a percentage with three significant digits."""
    return "–" if value is None else f"{100 * value:.3g} %"


def size(n_bytes: float | None) -> str:
    """Bytes in the unit that suits."""
    if n_bytes is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes:.0f} B"
