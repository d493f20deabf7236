"""AQER: its search against brute force, its steps, and reference values."""

import pytest
import torch

from ketune.circuits import Hamiltonian, reduced_state, transverse_ising
from ketune.state_preparation import (
    BLOCKS,
    DenseStates,
    aqer,
    as_states,
    disentangle,
    entanglement,
    infidelity_bounds,
)
from ketune.state_preparation._pair_statistics import PairStatistics
from ketune.state_preparation.block_search import best_blocks, density_matrices, eigenbasis_blocks, pair_entropies
from ketune.state_preparation.disentangling import allowed_pairs


def random_vectors(n_vectors, n_wires, seed=0, dtype=torch.complex128):
    return torch.randn(n_vectors, 2**n_wires, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def ground_state(hamiltonian, n_wires):
    matrix = torch.stack([hamiltonian.apply(row) for row in torch.eye(2**n_wires, dtype=torch.complex128)])
    return torch.linalg.eigh(matrix)[1][:, 0]


@pytest.mark.parametrize("block", ["rzz", "cz"])
def test_entropies_from_bloch_vectors_are_those_of_matrices(block):
    statistics = PairStatistics(as_states(random_vectors(4, 4)))
    parts = statistics.bloch[:, 1], statistics.bloch[:, 3], statistics.correlations[:, 1, 3]
    rho = reduced_state(as_states(random_vectors(4, 4)), (1, 3))
    torch.testing.assert_close(density_matrices(*parts), rho)
    angles = torch.randn(4, BLOCKS[block].n_angles, dtype=torch.float64)
    unitary = BLOCKS[block].matrices(angles)
    split = (unitary.mH @ rho @ unitary).view(4, 2, 2, 2, 2)
    sides = torch.einsum("bikjk->bij", split), torch.einsum("bkikj->bij", split)
    expected = sum(-torch.log2((side @ side).diagonal(dim1=-2, dim2=-1).sum(-1).real) for side in sides)
    torch.testing.assert_close(pair_entropies(block, angles, *parts), expected)


def test_statistics_follow_the_states():
    states = DenseStates(as_states(random_vectors(3, 4)))
    pairs = torch.tensor([[0, 2], [3, 1], [1, 0]])
    gates = torch.linalg.qr(torch.randn(3, 4, 4, dtype=torch.complex128))[0]
    states.apply(pairs, gates)
    fresh = PairStatistics(states.vectors)
    torch.testing.assert_close(states.bloch, fresh.bloch)
    off = ~torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(states.correlations[:, off], fresh.correlations[:, off])
    word = Hamiltonian((1.0,), ("IXIY",)).expectation(states.vectors)
    torch.testing.assert_close(states.correlations[:, 1, 3, 0, 1], word)


@pytest.mark.parametrize("block", ["rzz", "cz"])
def test_gradients_find_what_nelder_mead_finds_or_better(block):
    statistics = PairStatistics(as_states(random_vectors(6, 4, 3)))
    parts = statistics.bloch[:, 0], statistics.bloch[:, 1], statistics.correlations[:, 0, 1]
    generator = torch.Generator().manual_seed(0)
    angles, values = best_blocks(block, *parts, generator=generator)
    torch.testing.assert_close(pair_entropies(block, angles, *parts), values)
    _, reference = best_blocks(block, *parts, search="nelder-mead")
    assert bool((values <= reference + 1e-3).all())


def test_any_unitary_does_at_least_as_well_as_an_rzz():
    statistics = PairStatistics(as_states(random_vectors(6, 4, 3)))
    parts = statistics.bloch[:, 0], statistics.bloch[:, 1], statistics.correlations[:, 0, 1]
    unitaries, values = eigenbasis_blocks(*parts)
    torch.testing.assert_close(unitaries @ unitaries.mH, torch.eye(4, dtype=torch.complex128).expand(6, 4, 4))
    assert bool((values <= best_blocks("rzz", *parts)[1] + 1e-9).all())


@pytest.mark.parametrize("block", ["rzz", "su4", "so4"])
def test_entanglement_never_rises(block):
    vectors = random_vectors(3, 5, dtype=torch.float64 if block == "so4" else torch.complex128)
    for found in disentangle(DenseStates(as_states(vectors)), 12, block=block, n_starts=2):
        assert len(found.pairs) == 12
        assert bool((found.entanglement.diff() <= 1e-9).all())
        assert float(found.entanglement[-1]) < 0.7 * float(found.entanglement[0])


def test_what_is_left_bounds_the_infidelity():
    smooth = torch.exp(-(torch.linspace(-2, 2, 16) ** 2))
    loader = aqer(smooth, 3, n_steps=0)[0]
    lower, upper = infidelity_bounds(loader.entanglement[-1], 4)
    assert float(lower) <= loader.infidelity == loader.before <= float(upper) < 0.1


@pytest.mark.parametrize("block", ["rzz", "cz", "su4", "so4"])
def test_circuits_load_their_vectors_as_well_as_they_say(block):
    vectors = random_vectors(2, 4, 1, torch.float64)
    for vector, loader in zip(vectors, aqer(vectors, 4, block=block, n_steps=40, n_starts=2)):
        overlap = as_states(vector).conj() @ loader.circuit.state()
        assert 1 - float(overlap.abs()) ** 2 == pytest.approx(loader.infidelity, abs=1e-12)
        assert loader.infidelity < loader.before


@pytest.mark.parametrize(("n_wires", "n_blocks", "reference"), [(4, 6, 0.0001), (6, 10, 0.172)])
def test_random_real_vectors_reach_the_reference_infidelities(n_wires, n_blocks, reference):
    loaders = aqer(random_vectors(3, n_wires, 5, torch.float64), n_blocks, n_starts=4, n_steps=250, lr=0.05)
    mean = sum(loader.infidelity for loader in loaders) / 3
    assert mean < 1.3 * reference + 0.002


def test_ground_states_of_the_ising_chain_are_easy():
    states = torch.stack([ground_state(transverse_ising(6, 1.0, field), 6) for field in (0.5, 1.0, 1.5)])
    loaders = aqer(states, 8, n_steps=100)
    assert all(loader.infidelity < 0.02 for loader in loaders)
    dense = aqer(random_vectors(1, 6), 8, n_steps=100)[0]
    assert dense.infidelity > 5 * max(loader.infidelity for loader in loaders)


def test_product_states_take_no_block_and_bell_pairs_one():
    product = torch.kron(torch.tensor([0.6, 0.8]), torch.kron(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.5])))
    bell = torch.tensor([1.0, 0, 0, 0, 0, 0, 1.0, 0])
    ghz = torch.zeros(8)
    ghz[[0, 7]] = 1
    lengths = [len(loader.circuit.pairs) for loader in aqer(torch.stack((product, bell, ghz)), 5, n_steps=0)]
    assert lengths == [0, 1, 2]


def test_states_whose_pairs_are_uncorrelated_get_blocks_to_polish():
    # The logical zero of the five-qubit code: every two of its wires are in the maximally mixed state.
    state = torch.zeros(32, dtype=torch.complex128)
    state[0] = 1
    for word in ("XZZXI", "IXZZX", "XIXZZ", "ZXIXZ"):
        state = (state + Hamiltonian((1.0,), (word,)).apply(state)) / 2
    state = as_states(state)
    assert float(entanglement(state)) == pytest.approx(5)
    found = disentangle(DenseStates(state[None].clone()), 4)[0]
    assert len(found.pairs) == 4
    assert len({wire for pair in found.pairs for wire in pair}) >= 4
    torch.testing.assert_close(found.entanglement, torch.full((5,), 5.0, dtype=torch.float64))


def test_blocks_stay_on_the_pairs_that_a_device_has():
    line = aqer(random_vectors(2, 4), 6, connectivity="line", n_steps=0, n_starts=0)
    assert all(abs(first - second) == 1 for loader in line for first, second in loader.circuit.pairs)
    star = disentangle(DenseStates(as_states(random_vectors(1, 4))), 4, connectivity=[(2, 0), (2, 1), (3, 2)])[0]
    assert all(2 in pair for pair in star.pairs)
    assert allowed_pairs("ring", 4) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    assert len(allowed_pairs("all", 5)) == 10
    with pytest.raises(ValueError, match="choose 'all', 'line', 'ring'"):
        allowed_pairs("grid", 4)
    with pytest.raises(ValueError, match="leaves out wire 3"):
        allowed_pairs([(0, 1), (1, 2)], 4)
    with pytest.raises(ValueError, match=r"contains \(0, 4\)"):
        allowed_pairs([(0, 4)], 4)


def test_the_same_seed_gives_the_same_circuit():
    one, two = (aqer(random_vectors(1, 4), 4, n_steps=5, seed=3)[0] for _ in range(2))
    assert one.circuit.pairs == two.circuit.pairs
    assert torch.equal(one.circuit.flat_angles, two.circuit.flat_angles)


def test_progress_is_reported():
    seen = []
    aqer(random_vectors(1, 3), 2, n_steps=3, on_progress=lambda *event: seen.append(event))
    assert seen == [("blocks", 1, 2), ("blocks", 2, 2), ("polish", 1, 3), ("polish", 2, 3), ("polish", 3, 3)]


def test_wrong_settings_say_what_is_right():
    with pytest.raises(ValueError, match="'rzz', 'cz', 'su4', 'so4'"):
        aqer(torch.ones(4), 1, block="cx")
    with pytest.raises(ValueError, match="block='so4' is for real vectors"):
        aqer(random_vectors(1, 2), 1, block="so4")
    with pytest.raises(ValueError, match="n_blocks=-1"):
        aqer(torch.ones(4), -1)
    with pytest.raises(ValueError, match="'gradient' or 'nelder-mead'"):
        aqer(torch.tensor([1.0, 0, 0, 1]), 1, search="newton")
    with pytest.raises(ValueError, match=r"take \(B, n_features\) or \(n_features,\)"):
        aqer(torch.ones(1, 2, 4), 1)
