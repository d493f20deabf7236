from __future__ import annotations

import pytest
import torch

from ketune import load
from ketune.circuits import Circuit, draw, ry_ring


def test_json_counts_what_is_in_the_circuit(ketune):
    (row,) = ketune("circuit", "--ansatz", "ry_ring", "--wires", "4", "--layers", "2", "--json").json
    assert row["gates"] == {"RY": 8, "CNOT": 8}
    assert (row["n_wires"], row["n_angles"], row["n_two_qubit"], row["is_real"]) == (4, 8, 8, True)
    assert row["depth"] == ry_ring(4, 2).depth()


def test_in_features_choose_the_wires(ketune):
    (row,) = ketune("circuit", "--in-features", "768", "--json").json
    assert (row["n_wires"], row["in_features"]) == (10, 768)


def test_a_model_has_a_circuit_for_each_width(ketune, model_folder):
    found = ketune("circuit", "--model", model_folder, "--set", "target_modules=q_proj,down_proj", "--json").json
    assert {(row["in_features"], row["n_wires"], len(row["layers"])) for row in found} == {(32, 5, 2), (48, 6, 2)}


def test_expressibility_is_that_of_the_library(ketune):
    from ketune.circuits import entangling_capability, expressibility

    options = ["--ansatz", "ry_ring", "--wires", "2", "--expressibility"]
    (row,) = ketune("circuit", *options, "--json").json
    assert row["expressibility"] == expressibility(ry_ring(2))
    assert row["entangling_capability"] == entangling_capability(ry_ring(2))
    assert f"expressibility {row['expressibility']:.4f}" in ketune("circuit", *options).out


def test_the_drawing_and_the_program_are_qiskits(ketune, tmp_path):
    qiskit = pytest.importorskip("qiskit")
    answer = ketune("circuit", "--ansatz", "ry_ring", "--wires", "3")
    assert draw(ry_ring(3)).rstrip() in answer.out
    out = tmp_path / "my circuit.qasm"
    program = ketune("circuit", "--ansatz", "ry_ring", "--wires", "3", "--qasm").out
    assert program.startswith("OPENQASM 3.0;")
    assert ketune("circuit", "--ansatz", "ry_ring", "--wires", "3", "--qasm", "--out", out).code == 0
    assert out.read_text().strip() == program.strip()
    assert qiskit is not None


def test_a_drawing_goes_into_the_file_that_was_named(ketune, tmp_path):
    pytest.importorskip("qiskit")
    out = tmp_path / "drawing.txt"
    (row,) = ketune("circuit", "--ansatz", "ry_ring", "--wires", "2", "--out", out, "--json").json
    assert "drawing" not in row
    assert out.read_text().rstrip() == draw(ry_ring(2)).rstrip()
    (row,) = ketune("circuit", "--ansatz", "ry_ring", "--wires", "2", "--draw", "text", "--json").json
    assert row["drawing"].rstrip() == draw(ry_ring(2)).rstrip()


def test_without_qiskit_the_numbers_come_with_a_note(ketune, monkeypatch):
    from ketune.circuits import rendering

    def missing(circuit: Circuit, angles: object = None, style: str = "text"):
        raise ImportError('qiskit is not installed; run: pip install "ketune[devices]"')

    monkeypatch.setattr(rendering, "draw", missing)
    answer = ketune("circuit", "--wires", "2")
    assert answer.code == 0
    assert "wires 2" in answer.out
    assert answer.err.count("\n") == 1
    assert "ketune[devices]" in answer.err
    asked = ketune("circuit", "--wires", "2", "--draw", "text")
    assert (asked.code, asked.out) == (2, "")
    assert "ketune[devices]" in asked.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ansatz", "ry_rin"], ["'ry_rin'", "'ry_ring'"]),
        (["--wires", "0"], ["n_wires=0"]),
        (["--wires", "15"], ["n_wires=15", "14"]),
        (["--layers", "0"], ["n_layers=0"]),
        (["--entangler", "rng"], ["'rng'", "ring"]),
        (["--in-features", "0"], ["in_features=0"]),
        (["--wires", "2", "--in-features", "4"], ["--wires", "one of them"]),
        (["--wires", "2", "--model", "builtin:base"], ["--wires", "--model", "--set"]),
        (["--set", "n_layers=2"], ["--set", "--model"]),
        (["--qasm", "--draw", "text"], ["--qasm", "--draw text"]),
        (["--draw", "mpl"], ["--out"]),
        (["--draw", "svg"], ["'svg'", "'mpl'"]),
        (["--draw", "mpl", "--out", "x.gif"], ["'gif'", "'png'"]),
        (["--model", "builtin:base", "--method", "lora"], ["lora", "qaa"]),
        (["--qasm", "--out", "/nowhere/at all/x.qasm"], ["cannot be written"]),
    ],
)
def test_bad_input_is_answered_in_one_line(ketune, options, words):
    answer = ketune("circuit", *options)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1, answer.err
    for word in words:
        assert word in answer.err


def test_a_trained_circuit_goes_out_with_its_angles(ketune, trained, tmp_path):
    from ketune.circuits import evolve, from_openqasm3

    folder, out = trained("qaa"), tmp_path / "trained.qasm"
    assert ketune("circuit", "--adapter", folder, "--qasm", "--out", out).code == 0
    program = from_openqasm3(out.read_text()).circuit
    (row,) = ketune("circuit", "--adapter", folder, "--json").json
    model = load(folder / "adapter")
    update = model.get_submodule(row["layers"][0]).update_of("default")
    assert row["angles"] == pytest.approx(update.angles.tolist())
    expected = evolve(update.features.circuit, update.angles.detach().double())
    assert torch.allclose(evolve(program, torch.zeros(0, dtype=torch.float64)).real, expected.real, atol=1e-6)
    (other,) = ketune("circuit", "--adapter", folder, "--layer", "layers.1.self_attn.v_proj", "--json").json
    assert other["layers"][0].endswith("layers.1.self_attn.v_proj")
    assert other["angles"] != row["angles"]
    for options, words in (
        (["--layer", "q_proj"], "circuits' layers end so"),
        (["--layer", "lm_head"], "no circuit stands beside it"),
        (["--wires", "3"], "--adapter has its circuit and model"),
    ):
        answer = ketune("circuit", "--adapter", folder, *options)
        assert answer.code == 2
        assert words in " ".join(answer.err.split())
    assert "name it with --adapter" in " ".join(ketune("circuit", "--layer", "x").err.split())
