"""Runs the code blocks of the Markdown pages and the examples in docstrings as tests (`make docs`)."""

from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE

import pytest
from sybil import Sybil
from sybil.parsers import markdown, rest


@pytest.fixture(scope="module")
def _in_scratch_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Examples write where they like; nothing of it lands in the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        yield


_pages = Sybil(
    parsers=[
        markdown.SkipParser(),
        markdown.PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE),
    ],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    fixtures=["_in_scratch_folder"],
)
_docstrings = Sybil(
    parsers=[rest.DocTestParser(optionflags=ELLIPSIS | NORMALIZE_WHITESPACE)],
    patterns=["src/ketune/**/*.py"],
    fixtures=["_in_scratch_folder"],
)
pytest_collect_file = (_pages + _docstrings).pytest()
