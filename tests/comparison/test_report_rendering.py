"""Markdown and HTML: all text escaped, nothing loaded from elsewhere, no two ids alike."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import markdown_it
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.comparison.document import (
    Bullets,
    Code,
    Details,
    Document,
    Figures,
    Paragraph,
    Sample,
    Section,
    Table,
)
from ketune.comparison.report_html import render_html, unique_ids
from ketune.comparison.report_markdown import render_markdown

EVIL = "<script>alert('x')</script> & \"q\" | *b* `c` ``` <img src=http://evil.example/x onerror=y>"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; complains about tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def document(text: str) -> Document:
    """A document with `text` in every place that text can stand."""
    blocks = [
        Paragraph(text),
        Bullets([text, "plain"]),
        Code(text),
        Table([text, "n"], [[text, "1"], ["b", "2"]], caption=text, marks={1: "control"}),
        Figures([("figure", f"{text}. More")]),
        Sample(text, [(text, text)]),
        Details(text, [Paragraph(text)]),
    ]
    return Document(text, text, [Section(text, blocks)])


SVG = '<svg width="1" height="1"><defs><path id="p"/></defs><use href="#p"/><g clip-path="url(#p)"></g></svg>'


def test_html_shows_hostile_text_as_text():
    page = Page(render_html(document(EVIL), {"figure": SVG}))
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert "img" not in tags
    assert page.text.count("<script>alert('x')</script>") >= 12


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40))
def test_html_stays_well_formed_whatever_the_text(text):
    page = Page(render_html(document(text), {"figure": SVG}))
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_html_loads_nothing():
    html = render_html(document(EVIL), {"figure": SVG})
    for tag, attributes in Page(html).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    style = re.search(r"<style>(.*?)</style>", html, flags=re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "default-src 'none'" in html


def test_html_knows_phones_and_dark_pages():
    html = render_html(document("x"), {})
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "@media (prefers-color-scheme: dark)" in html


def test_ids_of_two_figures_do_not_meet():
    one, two = unique_ids(SVG, "one"), unique_ids(SVG, "two")
    assert 'id="one-p"' in one
    assert 'href="#one-p"' in one
    assert "url(#one-p)" in one
    assert not set(re.findall(r'id="([^"]+)"', one)) & set(re.findall(r'id="([^"]+)"', two))


def test_markdown_shows_hostile_text_as_text():
    text = render_markdown(document(EVIL), {"figure": "figures/figure.png"})
    html = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    page = Page(html)
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == ["figures/figure.png"]
    assert set(tags) >= {"table", "details", "pre", "li"}
    assert page.text.count("<script>alert('x')</script>") >= 11


def test_a_pipe_does_not_break_a_table():
    text = render_markdown(Document("t", "", [Section("s", [Table(["a|b", "n"], [["x|y", "1"]])])]), {})
    html = markdown_it.MarkdownIt("commonmark").enable("table").render(text)
    assert "<td>x|y</td>" in html
    assert html.count("<td") == 2


@pytest.mark.parametrize("text", ["``` fence", "`````", "a\n```\nb"])
def test_code_stays_in_its_fence(text):
    rendered = render_markdown(Document("t", "", [Section("s", [Code(text), Paragraph("after")])]), {})
    page = Page(markdown_it.MarkdownIt().render(rendered))
    assert [tag for tag, _ in page.tags].count("pre") == 1
    assert text in page.text


def test_backticks_mark_code_and_a_lone_one_marks_nothing():
    html = render_html(Document("t", "run `a < b` now", [Section("s", [Paragraph("a ` lone")])]), {})
    assert "run <code>a &lt; b</code> now" in html
    assert "<p>a ` lone</p>" in html
    markdown = render_markdown(Document("t", "run `a < b` now", [Section("s", [Paragraph("a ` lone")])]), {})
    assert "run `a < b` now" in markdown
    assert "a \\` lone" in markdown


def test_numbers_are_set_right_and_uncertainty_small():
    html = render_html(
        Document("t", "", [Section("s", [Table(["m", "x"], [["a", "1.5 ± 0.2"], ["b", "7 (3 %)"]])])]), {}
    )
    assert "<th class=text>a</th><td>1.5<small>± 0.2</small></td>" in html
    assert "<td>7<small>(3 %)</small></td>" in html


def test_a_figure_that_was_not_drawn_leaves_no_gap():
    shown = document("x")
    assert "<figure>" not in render_html(shown, {})
    assert "![" not in render_markdown(shown, {})
