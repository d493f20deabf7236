"""One call for all loaders, its budgets, and what it reports."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from qiskit.quantum_info import Statevector
from safetensors.torch import save_file

from ketune.state_preparation import (
    COMPARED,
    METHODS,
    LoadingError,
    LoadingOptions,
    VectorFileError,
    as_states,
    compare_loaders,
    counts,
    loaders_picture,
    prepare_state,
    read_vectors,
)

FAST = LoadingOptions(n_steps=30, lr=0.05)


def random_vector(n_wires=3, dtype=torch.float64):
    return torch.randn(2**n_wires, dtype=dtype, generator=torch.Generator().manual_seed(n_wires))


def left_out(vector, state):
    return 1 - float((as_states(vector).conj() @ state.to(torch.complex128)).abs()) ** 2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_loads_as_well_as_it_says(method):
    vector = random_vector(3, torch.complex128)
    found = prepare_state(vector, method, options=FAST)
    assert left_out(vector, found.state()) == pytest.approx(found.infidelity, abs=1e-9)
    assert left_out(vector, torch.from_numpy(Statevector(found.to_qiskit()).data)) == pytest.approx(
        found.infidelity, abs=1e-9
    )
    assert found.infidelity < 0.5
    assert f"infidelity {found.infidelity:.3g}" in str(found)
    if method in ("auto", "isometry", "multiplexor", "low_rank"):
        assert found.infidelity < 1e-10


@pytest.mark.parametrize("method", ["auto", "low_rank", "mps", "aqer", "aqce"])
def test_infidelities_are_met_with_fewer_gates_than_exactness_takes(method):
    vector = torch.exp(-(torch.linspace(-2, 2, 16, dtype=torch.float64) ** 2)) + 0.1 * random_vector(4)
    found = prepare_state(vector, method, max_infidelity=0.05, options=FAST)
    assert left_out(vector, found.state()) <= 0.05
    assert found.counts.n_cnots < 11
    if method == "auto":
        assert found.method in ("product", "low_rank", "mps", "aqer")


@pytest.mark.parametrize("method", ["auto", "low_rank", "mps", "aqer", "aqce", "hardware_efficient"])
def test_budgets_of_cnots_are_kept(method):
    vector = random_vector(4)
    found = prepare_state(vector, method, max_cnots=6, options=FAST)
    assert found.counts.n_cnots <= 6
    assert found.infidelity < 0.6


def test_budgets_that_cannot_be_met_say_what_was_reached():
    with pytest.raises(LoadingError, match=r"isometry reached an infidelity of 0 with 11 CNOTs; 4 CNOTs were asked"):
        prepare_state(random_vector(4), "isometry", max_cnots=4)
    with pytest.raises(LoadingError, match=r"aqer reached .* with 2 CNOTs; an infidelity of 0.001 and 2 CNOTs were"):
        prepare_state(random_vector(4), "aqer", max_cnots=2, max_infidelity=1e-3, options=FAST)
    with pytest.raises(LoadingError, match="no method meets the budget: low_rank reached"):
        prepare_state(random_vector(4), max_cnots=2, max_infidelity=1e-3, options=FAST)


def test_auto_takes_what_is_enough():
    product = torch.kron(torch.tensor([0.6, 0.8]), torch.tensor([1.0, 2.0]))
    assert prepare_state(product).method == "product"
    assert prepare_state(random_vector(3).abs()).method == "multiplexor"
    assert prepare_state(random_vector(3)).method == "isometry"
    nearly = torch.kron(product, torch.tensor([1.0, 1.0])) + 0.01 * random_vector(3)
    assert prepare_state(nearly, max_infidelity=0.01).method == "product"


def test_tuning_all_angles_never_makes_a_method_worse():
    vector = random_vector(4, torch.complex128)
    for method in ("low_rank", "mps", "aqer", "aqce"):
        built, tuned = (
            prepare_state(vector, method, max_cnots=9, options=LoadingOptions(polish=on, n_steps=80, lr=0.03))
            for on in (False, True)
        )
        assert tuned.infidelity <= built.infidelity + 1e-12, method


def test_counts_depend_on_the_gates_that_a_machine_has():
    found = prepare_state(random_vector(3), "aqer", max_cnots=4, options=replace(FAST, block="rzz"))
    assert found.counts.n_two_wire == 2
    assert counts(found.circuit, found.angles, "cx").n_cnots == 4
    assert counts(found.circuit, found.angles, "rzz").n_cnots == 2
    assert counts(found.circuit, found.angles, "cz").depth > 0
    with pytest.raises(ValueError, match="'cx', 'cz', 'ecr', 'rzz'"):
        counts(found.circuit, found.angles, "swap")


def test_rows_of_a_comparison_and_their_picture():
    seen = []
    rows = compare_loaders(random_vector(3), (2, 4), options=FAST, on_row=seen.append)
    assert rows == seen
    assert {row.method for row in rows} == set(COMPARED)
    assert all(row.n_cnots <= row.max_cnots for row in rows)
    assert not any(row.method == "hardware_efficient" and not row.polished for row in rows)
    for method in ("aqer", "aqce"):
        best = [min(row.infidelity for row in rows if row.method == method and row.max_cnots == n) for n in (2, 4)]
        assert best[1] < best[0]
    assert loaders_picture(rows, "three wires").startswith(b"\x89PNG")


def test_wrong_settings_say_what_is_right():
    with pytest.raises(ValueError, match="'auto', 'isometry', 'multiplexor'"):
        prepare_state(torch.ones(4), "qrom")
    with pytest.raises(ValueError, match="max_infidelity=1: choose 0 up to"):
        prepare_state(torch.ones(4), max_infidelity=1)
    with pytest.raises(ValueError, match="max_cnots=-1"):
        prepare_state(torch.ones(4), max_cnots=-1)
    with pytest.raises(ValueError, match="pass one vector"):
        prepare_state(torch.ones(2, 4))
    with pytest.raises(ValueError, match="17 wires; at most 16"):
        prepare_state(torch.ones(2**16 + 1))


def test_vectors_come_from_files(tmp_path):
    rows = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "complex.npy", rows[0] + 1j)
    (tmp_path / "rows.json").write_text(json.dumps(rows.tolist()))
    (tmp_path / "rows.csv").write_text("0, 1, 2\n3, 4, 5\n")
    (tmp_path / "column.txt").write_text("0\n1\n2\n")
    save_file({"a": torch.tensor(rows), "b": torch.ones(2)}, tmp_path / "two.safetensors")
    expected = torch.tensor(rows)
    for name in ("rows.npy", "rows.json", "rows.csv"):
        assert torch.equal(read_vectors(tmp_path / name), expected)
    assert torch.equal(read_vectors(tmp_path / "column.txt"), expected[:1])
    assert torch.equal(read_vectors(tmp_path / "complex.npy"), expected[:1] + 1j)
    assert torch.equal(read_vectors(tmp_path / "two.safetensors", "a"), expected)


def test_files_without_vectors_are_refused_and_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    (tmp_path / "words.txt").write_text("one two")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.safetensors").write_bytes(b"12345")
    (tmp_path / "deep.json").write_text("[[[1.0]]]")
    (tmp_path / "dict.json").write_text('{"a": 1}')
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "two.safetensors")
    for name, reason in {
        "objects.npy": "allow_pickle=False",
        "ragged.csv": "different numbers of entries",
        "words.txt": "could not convert",
        "empty.txt": "the numbers have shape",
        "broken.safetensors": "no vectors could be read",
        "deep.json": "one vector to a row",
        "dict.json": "no vectors could be read",
        "two.safetensors": "name one of a, b",
        "missing.npy": "No such file",
        "vector.pt": "unknown kind of file",
    }.items():
        with pytest.raises(VectorFileError, match=reason):
            read_vectors(tmp_path / name)
