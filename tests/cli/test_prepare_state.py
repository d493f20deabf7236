"""`ketune prepare-state`: vectors from files and models, circuits and pictures to files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ketune.circuits import Circuit, evolve, from_openqasm3
from ketune.finetuning.layer_vectors import LayerError, layer_vectors
from ketune.state_preparation import as_states


@pytest.fixture
def vector(tmp_path):
    x = np.linspace(-2, 2, 8)
    np.save(tmp_path / "vector.npy", np.exp(-(x**2)) * (1 + 0.3 * x))
    return tmp_path / "vector.npy"


def left_out(file, state):
    wanted = as_states(torch.from_numpy(np.load(file)))
    return 1 - float((wanted.conj() @ state.to(torch.complex128)).abs()) ** 2


def test_the_program_that_is_saved_loads_the_vector(ketune, vector, tmp_path):
    out = tmp_path / "loader.qasm"
    answer = ketune("prepare-state", vector, "--max-infidelity", "0.05", "--steps", "50", "--out", out)
    assert answer.code == 0
    assert "entanglement S" in answer.out
    assert answer.out.rstrip().endswith(f"saved: {out}")
    circuit = from_openqasm3(out.read_text()).circuit
    assert left_out(vector, evolve(circuit, torch.zeros(0, dtype=torch.float64))) <= 0.05


def test_json_has_the_circuit_and_what_it_costs(ketune, vector, tmp_path):
    out = tmp_path / "loader.json"
    options = ["--method", "aqer", "--max-cnots", "4", "--block", "rzz", "--basis", "rzz", "--steps", "20"]
    found = ketune("prepare-state", vector, *options, "--out", out, "--json").json
    assert (found["method"], found["basis"], found["n_two_wire"]) == ("aqer", "rzz", 2)
    saved = json.loads(out.read_text())
    circuit = Circuit.from_text(json.dumps(saved["circuit"]))
    state = evolve(circuit, torch.tensor(saved["angles"], dtype=torch.float64))
    assert left_out(vector, state) == pytest.approx(found["infidelity"], abs=1e-9)


def test_all_methods_are_compared_in_a_table_and_a_picture(ketune, vector, tmp_path):
    out = tmp_path / "loaders.png"
    answer = ketune("prepare-state", vector, "--compare", "2,4", "--steps", "10", "--out", out)
    assert out.read_bytes().startswith(b"\x89PNG")
    for method in ("low_rank", "mps", "aqce", "hardware_efficient", "aqer"):
        assert method in answer.out
    rows = ketune("prepare-state", vector, "--compare", "4", "--steps", "5", "--json").json
    assert {row["max_cnots"] for row in rows} == {4}


def test_what_a_layer_is_given_can_be_loaded(ketune, model_folder):
    options = ["--layer", "layers.0.mlp.down_proj", "--text", "a dog", "--max-cnots", "6", "--steps", "5", "--json"]
    found = ketune("prepare-state", "--model", model_folder, *options).json
    assert found["n_wires"] == 6
    rows = layer_vectors(model_folder, "model.layers.0.mlp.down_proj", "a dog and a cat")
    assert rows.shape[1] == 48
    assert len(layer_vectors(model_folder, "layers.0.mlp.down_proj", "a dog and a cat", max_length=2)) == 2
    with pytest.raises(LayerError, match="layers end so; choose one of"):
        layer_vectors(model_folder, "down_proj", "a dog")
    with pytest.raises(LayerError, match="the model has no such layer"):
        layer_vectors(model_folder, "attention", "a dog")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name a FILE with a vector, or a --model"),
        (["--model", "m"], "--model needs --layer"),
        (["FILE", "--out", "x.pt"], "must end in .qasm or .json"),
        (["FILE", "--compare", "4", "--out", "x.qasm"], "must end in .png or .json"),
        (["FILE", "--compare", "4", "--max-cnots", "4"], "--compare has its own numbers"),
        (["FILE", "--compare", "few"], "write whole numbers"),
        (["FILE", "--row", "3"], "there are 1 rows"),
        (["FILE", "--method", "magic"], "method='magic'"),
        (["FILE", "--method", "isometry", "--max-cnots", "1"], "4 CNOTs; 1 CNOTs were asked for"),
        (["missing.npy"], "No such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(ketune, vector, options, words):
    answer = ketune("prepare-state", *[vector if option == "FILE" else option for option in options])
    assert answer.code == 2
    assert words in " ".join(answer.err.split())
