"""Write the report of a comparison: Markdown with PNG figures, and one HTML file that opens from disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ketune.comparison.arms import read_comparison
from ketune.comparison.figure_style import to_svg
from ketune.comparison.report_figures import build_figures
from ketune.comparison.report_html import render_html
from ketune.comparison.report_markdown import render_markdown
from ketune.comparison.report_sections import build_document
from ketune.files import write_atomically
from ketune.pictures import to_png


@dataclass(frozen=True)
class ReportPaths:
    """Where a report stands. As a path it is the Markdown file."""

    markdown: Path
    html: Path
    figures: tuple[Path, ...]

    def __fspath__(self) -> str:
        return str(self.markdown)


def write_report(folder: Path | str) -> ReportPaths:
    """Write the report over whatever results stand in a comparison's folder; missing and failed cells are named in it.

    The same results give the same files. Each is written whole or not at all, and `report.md` last, so that a report
    that stands has all of its figures.

    Args:
        folder: The folder that `ketune compare --out` wrote, or any folder of result files.

    Raises:
        ResultError: There is no such folder.
    """
    folder = Path(folder)
    comparison = read_comparison(folder)
    figures = build_figures(comparison)
    document = build_document(comparison, figures)
    pngs = {name: folder / "figures" / f"{name}.png" for name in figures}
    for name, path in pngs.items():
        write_atomically(path, to_png(figures[name]))
    html, markdown = folder / "report.html", folder / "report.md"
    write_atomically(html, render_html(document, {name: to_svg(figure) for name, figure in figures.items()}))
    write_atomically(markdown, render_markdown(document, {name: f"figures/{name}.png" for name in figures}))
    return ReportPaths(markdown, html, tuple(pngs.values()))
