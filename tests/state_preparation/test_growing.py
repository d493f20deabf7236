"""Loaders that grow block by block: staircases of matrix products, AQCE, fixed layouts."""

from itertools import pairwise

import pytest
import torch

from ketune.state_preparation import aqce, as_states, hardware_efficient, infidelities, polish, staircase
from ketune.state_preparation.aqce import _Search
from ketune.state_preparation.staircase import completed


def random_vector(n_wires, dtype=torch.complex128, seed=0):
    return as_states(torch.randn(2**n_wires, dtype=dtype, generator=torch.Generator().manual_seed(seed)))


def infidelity(circuit, vector):
    return float(infidelities([circuit], vector[None]))


def weight_one(n_wires, phase=False):
    vector = torch.zeros(2**n_wires, dtype=torch.complex128)
    for wire in range(n_wires):
        vector[2**wire] = torch.exp(torch.tensor(1j * wire * phase))
    return as_states(vector)


@pytest.mark.parametrize("n_wires", [2, 3, 5])
@pytest.mark.parametrize("phase", [False, True])
def test_one_layer_loads_states_of_bond_two_exactly(n_wires, phase):
    circuit = staircase(weight_one(n_wires, phase), 1)
    assert infidelity(circuit, weight_one(n_wires, phase)) < 1e-12
    assert circuit.block == ("su4" if phase else "so4")
    assert circuit.pairs == tuple((wire, wire + 1) for wire in range(n_wires - 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_layers_load_more_and_more(dtype):
    vector = random_vector(5, dtype)
    found = [infidelity(staircase(vector, n_layers), vector) for n_layers in (0, 1, 2, 4)]
    assert found == sorted(found, reverse=True)
    assert found[3] < 0.6 * found[1]


def test_one_layer_leaves_what_the_train_of_bond_two_leaves():
    vector = random_vector(4, torch.float64)
    from ketune.tensor_networks import contract_train, decompose_tensor

    cut = contract_train(decompose_tensor(vector.real.view(2, 2, 2, 2).permute(3, 2, 1, 0), max_ranks=2))
    cut = cut.permute(3, 2, 1, 0).flatten()
    expected = 1 - float((cut / cut.norm()) @ vector.real) ** 2
    assert infidelity(staircase(vector, 1), vector) == pytest.approx(expected, abs=1e-12)


def test_columns_are_completed_to_a_unitary_of_determinant_one():
    columns = torch.zeros(4, 4, dtype=torch.complex128)
    given = torch.linalg.qr(torch.randn(4, 2, dtype=torch.complex128))[0]
    columns[:, [0, 2]] = given
    unitary = completed(columns, [0, 2])
    torch.testing.assert_close(unitary[:, [0, 2]], given)
    torch.testing.assert_close(unitary @ unitary.mH, torch.eye(4, dtype=torch.complex128))
    torch.testing.assert_close(torch.linalg.det(unitary), torch.tensor(1.0 + 0j, dtype=torch.complex128))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_sweeps_of_aqce_never_make_it_worse_and_say_what_they_reach(dtype):
    vector = random_vector(4, dtype)
    search = _Search(vector, "all")
    seen = []
    for _ in range(3):
        search.add()
        for _ in range(3):
            search.sweep()
            seen.append(search.infidelity)
    assert all(after <= before + 1e-10 for before, after in pairwise(seen))
    assert infidelity(search.circuit(), vector) == pytest.approx(search.infidelity, abs=1e-9)
    assert search.circuit().block == ("so4" if dtype == torch.float64 else "su4")


def test_aqce_finds_what_it_can_reach():
    assert infidelity(aqce(weight_one(4), 3), weight_one(4)) < 1e-4
    vector = random_vector(4, torch.float64, 1)
    seen = []
    assert infidelity(aqce(vector, 6, on_gate=lambda *event: seen.append(event)), vector) < 0.02
    assert [number for number, _ in seen] == [1, 2, 3, 4, 5, 6]
    line = aqce(vector, 4, connectivity="line")
    assert all(second - first == 1 for first, second in line.pairs)


def test_a_fixed_layout_learns_by_polishing_alone():
    vector = random_vector(3, torch.float64)
    start = hardware_efficient(3, 6)
    assert start.pairs == ((0, 1), (1, 2)) * 3
    assert infidelity(start, vector) > 0.1
    assert infidelity(polish([start], vector[None], n_steps=300, lr=0.05)[0], vector) < 0.01


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="n_layers=-1"):
        staircase(torch.ones(4), -1)
    with pytest.raises(ValueError, match="n_gates=-1"):
        aqce(torch.ones(4), -1)
    with pytest.raises(ValueError, match="2 wires for any"):
        hardware_efficient(1, 2)
    for circuit in (staircase(torch.tensor([0.6, 0.8]), 2), aqce(torch.tensor([1.0, 0.0]), 2)):
        assert circuit.pairs == ()
