"""What a report says, apart from how it looks: sections of blocks that Markdown and HTML render each in its way.

Text is plain: renderers escape all of it, since samples and errors come from models and users. The one mark-up is a
pair of backticks around code, in `Paragraph`, `Bullets` and captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; backticks mark code."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; backticks mark code."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Lines to be shown as they are."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of plain text under a header; the first `n_text` columns are set left, the others, numbers, right.

    `marks` names rows to be set apart, by index, with "base" (a reference row) or "control".
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_text: int = 1
    caption: str = ""
    marks: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """Figures side by side where there is room: pairs of the name of a figure and its caption."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Sample:
    """What several models answered to one prompt: (who, text) pairs, the references among them first."""

    prompt: str
    answers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until asked for."""

    summary: str
    blocks: Sequence[Block]


Block = Paragraph | Bullets | Code | Table | Figures | Sample | Details


@dataclass(frozen=True)
class Section:
    """A heading with its blocks."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    lead: str
    sections: Sequence[Section]
