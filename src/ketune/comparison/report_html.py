"""A report as one HTML file that opens from disk: no script, nothing loaded from elsewhere, all text escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from ketune.comparison.document import Block, Bullets, Code, Details, Document, Figures, Paragraph, Sample, Table
from ketune.comparison.report_style import CSS

# Even a bug in the escaping below could then neither run a script nor load anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_html(document: Document, figures: dict[str, str]) -> str:
    """Render a report.

    Args:
        document: What to say.
        figures: For each figure's name its SVG, to be put into the page; figures without one are left out.
    """
    links = "".join(f'<a href="#{escape(s.anchor)}">{escape(s.title)}</a>' for s in document.sections)
    sections = "\n".join(
        f'<section id="{escape(section.anchor)}">\n<h2>{escape(section.title)}</h2>\n'
        + "\n".join(_block(block, figures) for block in section.blocks)
        + "\n</section>"
        for section in document.sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(document.title)}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{escape(document.title)}</h1>
<p class="lead">{_inline(document.lead)}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def _block(block: Block, figures: dict[str, str]) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Table():
            return _table(block)
        case Figures(items):
            shown = "".join(_figure(name, caption, figures[name]) for name, caption in items if name in figures)
            return f'<div class="figures">{shown}</div>' if shown else ""
        case Sample(prompt, answers):
            rows = "".join(f"<dt>{escape(who)}</dt><dd>{escape(text)}</dd>" for who, text in answers)
            return f'<article class="sample"><pre>{escape(prompt)}</pre><dl>{rows}</dl></article>'
        case Details(summary, blocks):
            inner = "\n".join(_block(inner, figures) for inner in blocks)
            return f"<details><summary>{escape(summary)}</summary>\n{inner}\n</details>"


def _table(table: Table) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        tags = ["th", *[tag] * (len(row) - 1)]
        kinds = [" class=text" if i < table.n_text else "" for i in range(len(row))]
        return "".join(f"<{tag}{kind}>{_cell(cell)}</{tag}>" for tag, kind, cell in zip(tags, kinds, row))

    body = "\n".join(
        f"<tr{f' class={mark}' if (mark := table.marks.get(i)) else ''}>{cells(list(row), 'td')}</tr>"
        for i, row in enumerate(table.rows)
    )
    caption = f'<p class="caption">{_inline(table.caption)}</p>' if table.caption else ""
    head = f"<thead><tr>{cells(table.header, 'th')}</tr></thead>"
    return f'<div class="table" tabindex="0"><table>{head}\n<tbody>\n{body}\n</tbody></table></div>{caption}'


def _cell(text: str) -> str:
    """A cell's text, with what follows a ± or stands in brackets small on a line of its own: columns stay narrow."""
    first, space, rest = text.partition(" ")
    if space and first[-1:].isdigit() and rest.startswith(("± ", "(")):
        return f"{escape(first)}<small>{escape(rest)}</small>"
    return escape(text)


def _figure(name: str, caption: str, svg: str) -> str:
    label = escape(caption.replace("`", "").split(". ")[0].rstrip("."), quote=True)
    svg = unique_ids(svg, name).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{svg}<figcaption>{_inline(caption)}</figcaption></figure>"


def unique_ids(svg: str, prefix: str) -> str:
    """The SVG with its ids and the references to them prefixed, since all figures of a page share one name space."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)


def _inline(text: str) -> str:
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a lone backtick marks nothing
        return escape(text)
    return "".join(f"<code>{escape(p)}</code>" if i % 2 else escape(p) for i, p in enumerate(pieces))
