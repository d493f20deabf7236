"""The pictures of the methods in the documentation are those that the present code draws."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "docs" / "images" / "methods"
DRAWN = ["compass", "prequant", "qaa", "qpa", "qtha", "quanta", "quantum_peft", "quic", "sora"]


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def draw_into(folder, monkeypatch, *names):
    import draw_methods

    monkeypatch.setattr(sys, "argv", ["draw_methods.py", *names, "--out", str(folder)])
    draw_methods.main()


@pytest.mark.parametrize("name", DRAWN)
def test_the_committed_picture_is_what_the_tool_draws(name, tmp_path, monkeypatch):
    pinned = re.search(r"^matplotlib==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    if matplotlib.__version__ != pinned[1]:
        pytest.skip(f"bytes follow matplotlib's version; pictures are drawn with {pinned[1]}")
    draw_into(tmp_path, monkeypatch, name)
    same = (tmp_path / f"{name}.svg").read_bytes() == (PLACE / f"{name}.svg").read_bytes()
    assert same, (
        f"docs/images/methods/{name}.svg is out of date; run python tools/draw_methods.py {name}, and look at it"
    )


def test_every_picture_is_on_the_page_of_its_method_and_in_the_index():
    from method_pictures import PICTURES

    assert sorted(PICTURES) == DRAWN == sorted(path.stem for path in PLACE.glob("*.svg"))
    index = (ROOT / "docs" / "methods" / "README.md").read_text()
    for name in PICTURES:
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
        picture = re.search(rf"!\[([^\]]*)\]\(\.\./images/methods/{name}\.svg\)", page)
        assert picture is not None, f"{name}.md shows no picture"
        assert len(picture[1]) > 100, f"{name}.md: the picture's description says too little"
        assert f"({name}.md)" in index


def test_every_method_of_ours_has_a_picture():
    from ketune.adapters.base import AdapterConfig
    from ketune.adapters.registry import METHODS
    from method_pictures import PICTURES

    configs = {name: method.configure(method.default_size) for name, method in METHODS.items() if method.configure}
    ours = {config.method for config in configs.values() if isinstance(config, AdapterConfig)}
    assert ours == set(PICTURES)


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_700_pixels_wide_and_holds_its_letters_as_outlines(name):
    svg = ElementTree.parse(PLACE / f"{name}.svg").getroot()
    assert svg.get("width") == "525pt"
    assert not svg.findall(".//{*}text")


def test_words_and_shapes_lie_within_the_card():
    from ketune.pictures import drawing
    from method_pictures import PICTURES
    from method_shapes import WIDTH

    for name, picture in PICTURES.items():
        with drawing():
            canvas = picture()
            canvas.figure.draw_without_rendering()
            inverse = canvas.axes.transData.inverted()
            for artist in (*canvas.axes.texts, *canvas.axes.patches[1:], *canvas.axes.lines):
                extent = artist.get_window_extent().transformed(inverse)
                where = f"{name}: {artist}"
                assert extent.x0 >= 11, where
                assert extent.x1 <= WIDTH - 11, where
                assert extent.y0 >= 8, where
                assert extent.y1 <= canvas.height - 8, where


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        draw_into(tmp_path, monkeypatch, "lora")
    assert "no picture of 'lora'; choose from sora, qaa" in capsys.readouterr().err
