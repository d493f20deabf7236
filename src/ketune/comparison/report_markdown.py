"""A report as Markdown: reads well as text, on a code host and under MkDocs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ketune.comparison.document import Block, Bullets, Code, Details, Document, Figures, Paragraph, Sample, Table

_SPECIAL = re.compile(r"([\\*_\[\]|#~`])")


def render_markdown(document: Document, figure_paths: dict[str, str]) -> str:
    """Render a report.

    Args:
        document: What to say.
        figure_paths: For each figure's name its file, relative to the report; figures without one are left out.
    """
    parts = [f"# {_escape(document.title)}", _inline(document.lead)]
    for section in document.sections:
        parts.append(f"## {_escape(section.title)}")
        parts += [_block(block, figure_paths) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, figure_paths: dict[str, str]) -> str:
    match block:
        case Paragraph(text):
            return _inline(text)
        case Bullets(items):
            return "\n".join(f"- {_inline(item)}" for item in items)
        case Code(text):
            return _fenced(text)
        case Table():
            return _table(block)
        case Figures(items):
            shown = [(figure_paths[name], caption) for name, caption in items if name in figure_paths]
            return "\n\n".join(f"![{_alt(caption)}]({path})\n\n{_inline(caption)}" for path, caption in shown)
        case Sample(prompt, answers):
            return f"{_fenced(prompt)}\n\n{_table(Table(['From', 'Text'], answers, n_text=2))}"
        case Details(summary, blocks):
            inner = "\n\n".join(part for inner in blocks if (part := _block(inner, figure_paths)))
            return f"<details><summary>{_escape(summary)}</summary>\n\n{inner}\n\n</details>"


def _table(table: Table) -> str:
    rule = ["---" if i < table.n_text else "---:" for i in range(len(table.header))]
    rows: list[Sequence[str]] = [[_escape(cell) for cell in row] for row in (table.header, *table.rows)]
    lines = ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]
    return "\n".join(lines) + (f"\n\n{_inline(table.caption)}" if table.caption else "")


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line, with no HTML in it."""
    one_line = " ".join(text.split())
    return _SPECIAL.sub(r"\\\1", one_line.replace("&", "&amp;").replace("<", "&lt;"))


def _inline(text: str) -> str:
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a lone backtick marks nothing
        return _escape(text)
    spaced = [_keep_ends(piece) if i % 2 == 0 else f"`{' '.join(piece.split())}`" for i, piece in enumerate(pieces)]
    return "".join(spaced)


def _keep_ends(text: str) -> str:
    """Escaped text with one space at each end that had any, since code stands beside it."""
    if not text.strip():
        return " " if text else ""
    return (" " if text[0].isspace() else "") + _escape(text) + (" " if text[-1].isspace() else "")


def _alt(caption: str) -> str:
    return _escape(caption.replace("`", "").split(". ")[0].rstrip("."))


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.rstrip()}\n{fence}"
