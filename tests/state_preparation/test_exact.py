"""Exact loaders and Schmidt decompositions: what they load, in which order of wires, with how many CNOTs."""

import pytest
import torch
from qiskit.quantum_info import Statevector

from ketune.circuits import evolve, to_qiskit
from ketune.state_preparation import (
    PairCircuit,
    as_states,
    circuit_from_gates,
    infidelities,
    isometry,
    low_rank,
    multiplexor,
    schmidt_weights,
)

EXACT = {"isometry": isometry, "multiplexor": multiplexor}


def vectors(n_wires):
    generator = torch.Generator().manual_seed(n_wires)
    size = 2**n_wires
    real = torch.randn(size, dtype=torch.float64, generator=generator)
    complex_ = torch.randn(size, dtype=torch.complex128, generator=generator)
    sparse = torch.zeros(size, dtype=torch.complex128)
    sparse[[0, size // 2 + 1, size - 1]] = torch.tensor([0.6, 0.3 - 0.2j, -1j], dtype=torch.complex128)
    half = torch.cat((real[: size // 2], torch.zeros(size // 2, dtype=torch.float64)))
    product = torch.ones(1, dtype=torch.complex128)
    for wire in range(n_wires):
        product = torch.kron(product, torch.tensor([1.0, 0.3j * wire + 0.5], dtype=torch.complex128))
    basis = torch.zeros(size)
    basis[size - 2] = -1
    return {"real": real, "positive": real.abs(), "complex": complex_, "sparse": sparse, "half": half} | {
        "product": product,
        "basis": basis,
    }


def loaded(circuit, angles):
    return evolve(circuit, angles).to(torch.complex128)


def left_out(vector, state):
    return 1 - float((as_states(vector).conj() @ state).abs()) ** 2


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("n_wires", [2, 3, 5])
def test_all_kinds_of_vectors_are_loaded_exactly(method, n_wires):
    for kind, vector in vectors(n_wires).items():
        circuit, angles = EXACT[method](vector)
        assert left_out(vector, loaded(circuit, angles)) < 1e-10, kind
        if kind in ("product", "basis"):
            assert circuit.n_two_wire_gates == 0


@pytest.mark.parametrize("method", EXACT)
def test_amplitudes_stand_where_qiskit_has_them(method):
    vector = torch.arange(1.0, 9.0, dtype=torch.float64)
    circuit, angles = EXACT[method](vector)
    state = torch.from_numpy(Statevector(to_qiskit(circuit, angles)).data)
    assert left_out(vector, state) < 1e-12


def test_one_wire_and_vectors_of_other_lengths():
    for method in EXACT.values():
        assert left_out(torch.tensor([1.0, 2j]), loaded(*method(torch.tensor([1.0, 2j])))) < 1e-12
        assert left_out(torch.tensor([1.0, 2, 3]), loaded(*method(torch.tensor([1.0, 2, 3])))) < 1e-12


@pytest.mark.parametrize("n_wires", [3, 4, 6])
def test_cnots_are_those_of_the_closed_forms(n_wires):
    found = {
        (method, kind): EXACT[method](vectors(n_wires)[kind])[0]
        for method in EXACT
        for kind in ("real", "positive", "complex")
    }
    cnots = {key: circuit.count_gates()["CNOT"] for key, circuit in found.items()}
    for kind in ("real", "positive", "complex"):
        assert cnots["isometry", kind] == 2**n_wires - n_wires - 1
    assert cnots["multiplexor", "positive"] == cnots["multiplexor", "real"] == 2**n_wires - 2
    assert cnots["multiplexor", "complex"] == 2 ** (n_wires + 1) - 2 * n_wires - 2
    assert found["multiplexor", "real"].is_real


@pytest.mark.parametrize("n_wires", [2, 4, 5])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_low_rank_leaves_out_the_weight_that_it_drops(n_wires, kind):
    vector = vectors(n_wires)[kind]
    before = 1.0
    for rank in (1, 2, 3, 2 ** (n_wires // 2)):
        circuit, angles, infidelity = low_rank(vector, rank)
        assert left_out(vector, loaded(circuit, angles)) == pytest.approx(infidelity, abs=1e-10)
        assert infidelity <= before + 1e-12
        assert infidelity <= 1 - float(schmidt_weights(vector)[:rank].sum()) + 1e-12
        before = infidelity
    assert before < 1e-12


def test_low_rank_finds_the_halves_that_are_apart():
    first, second = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    vector = torch.einsum("ac,bd->abcd", first.view(2, 2), second.view(2, 2)).flatten()
    assert float(schmidt_weights(vector, (0, 2))[0]) == pytest.approx(1)
    circuit, angles, infidelity = low_rank(vector, 1)
    assert infidelity < 1e-12
    assert left_out(vector, loaded(circuit, angles)) < 1e-12
    assert circuit.n_two_wire_gates <= 2


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_compiled_circuits_become_blocks_to_polish(rank):
    vector = vectors(4)["complex"]
    circuit, angles, infidelity = low_rank(vector, rank)
    blocks = circuit_from_gates(circuit, angles)
    assert isinstance(blocks, PairCircuit)
    assert len(blocks.pairs) == circuit.n_two_wire_gates
    assert float(infidelities([blocks], as_states(vector)[None])) == pytest.approx(infidelity, abs=1e-9)


def test_wrong_input_says_what_is_right():
    with pytest.raises(ValueError, match="rank=0: take at least 1"):
        low_rank(torch.ones(4), 0)
    with pytest.raises(ValueError, match=r"take some of 0\.\.1, not all"):
        schmidt_weights(torch.ones(4), (0, 1))
    with pytest.raises(ValueError, match="zeros has no direction"):
        isometry(torch.zeros(4))
    circuit = PairCircuit(2, "cz", ((0, 1),), torch.zeros(2, 2), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="take a circuit of CNOTs"):
        circuit_from_gates(circuit.circuit, circuit.flat_angles)
