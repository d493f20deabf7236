"""Reading a report back: its sections, its tables, and the losses that the builder put in."""

from __future__ import annotations

import re
from pathlib import Path

from tests.comparison.result_builder import build_result

from ketune.comparison.arms import read_comparison
from ketune.comparison.report_markdown import render_markdown
from ketune.comparison.report_sections import build_document

SEEDS = (0, 1, 2)


def section(markdown: str, title: str) -> str:
    """The text under a second-level heading."""
    return re.split(r"^## ", markdown.split(f"## {title}\n")[1], maxsplit=1, flags=re.M)[0]


def table(markdown: str, title: str, nth: int = 0) -> dict[str, dict[str, str]]:
    """The rows of a section's table by their first cell, each as a dictionary by column."""
    blocks = re.findall(r"(?:^\|.*\n?)+", section(markdown, title), flags=re.M)
    lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in blocks[nth].strip().splitlines()]
    return {row[0]: dict(zip(lines[0], row)) for row in lines[2:]}


def losses(method: str, control: str | None, seeds=SEEDS) -> list[float]:
    return [build_result(method, control, seed).ketune.test["loss"] for seed in seeds]


def report_text(folder: Path) -> str:
    """The Markdown without drawing its figures."""
    return render_markdown(build_document(read_comparison(folder), ()), {})
