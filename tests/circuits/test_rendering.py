import pytest

from ketune.circuits import Circuit, Gate, ry_ring
from ketune.circuits.description import describe
from ketune.circuits.rendering import RenderError, fold, render


def test_a_description_counts_gates_by_hand():
    circuit = Circuit(3, (Gate("RY", (0,), 0), Gate("CNOT", (0, 1)), Gate("RZ", (2,), 1), Gate("CNOT", (1, 2))))
    assert describe(circuit) == {
        "n_wires": 3,
        "n_angles": 2,
        "n_gates": 4,
        "n_two_qubit": 2,
        "depth": 3,
        "is_real": False,
        "gates": {"RY": 1, "CNOT": 2, "RZ": 1},
    }


def test_the_estimates_come_only_when_asked_for():
    sampled = describe(ry_ring(2, entangler="none"), sample=True)
    assert sampled.keys() - describe(ry_ring(2)).keys() == {"expressibility", "entangling_capability"}
    assert sampled["entangling_capability"] == pytest.approx(0, abs=1e-6)


def test_text_latex_and_a_program_are_text():
    pytest.importorskip("qiskit")
    assert "wire_0" in render(ry_ring(2), "text")
    assert render(ry_ring(2), "qasm").startswith("OPENQASM 3.0")
    assert r"\begin{document}" in render(ry_ring(2), "latex")


@pytest.mark.parametrize(("picture", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_have_the_format_that_was_asked_for(picture, start):
    pytest.importorskip("qiskit")
    pytest.importorskip("pylatexenc")
    assert render(ry_ring(2), "mpl", picture).startswith(start)


@pytest.mark.parametrize(("style", "picture"), [("txt", "png"), ("mpl", "gif")])
def test_other_formats_are_refused(style, picture):
    with pytest.raises(RenderError, match="choose one of"):
        render(ry_ring(2), style, picture)


def test_a_wide_drawing_is_broken_into_blocks_that_lose_nothing():
    drawing = "\n".join("".join(chr(65 + (i + row) % 26) for i in range(95)) for row in range(3))
    folded = fold(drawing, 30)
    blocks = [block.splitlines() for block in folded.split("\n\n")]
    assert all(len(line) <= 30 for block in blocks for line in block)
    assert len(blocks) == 4
    joined = ["".join(block[row].rstrip("»") for block in blocks) for row in range(3)]
    assert "\n".join(joined) == drawing


def test_a_narrow_drawing_stays_as_it_is():
    assert fold("ab\ncd", 80) == "ab\ncd"
