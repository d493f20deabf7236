import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.circuits import Hamiltonian, counts, estimate, heisenberg, misread, sample, to_bits, transverse_ising


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_states(*shape, seed=0):
    states = torch.randn(*shape, dtype=torch.complex128, generator=seeded(seed))
    return states / states.norm(dim=-1, keepdim=True)


def test_frequencies_are_the_probabilities():
    states = random_states(2, 8)
    n_shots = 100_000
    samples = sample(states, n_shots, generator=seeded())
    assert samples.shape == (2, n_shots)
    for state, row in zip(states, samples):
        expected = state.abs().square() * n_shots
        chi2 = ((row.bincount(minlength=8) - expected).square() / expected).sum()
        assert float(chi2) < 24.3  # 7 degrees of freedom, one chance in a thousand


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.3, 1e-30, 5.0]), min_size=8, max_size=8).filter(any), st.integers(0, 99))
def test_impossible_outcomes_never_occur(weights, seed):
    weights = torch.tensor(weights)
    samples = sample(weights, 50, generator=seeded(seed), are_probabilities=True)
    assert bool((weights[samples] > 0).all())


def test_a_seed_decides_the_samples_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    states = random_states(3, 16)
    assert torch.equal(sample(states, 20, generator=seeded(1)), sample(states, 20, generator=seeded(1)))
    assert not torch.equal(sample(states, 20, generator=seeded(1)), sample(states, 20, generator=seeded(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_counts_and_bits_have_wire_0_first():
    samples = torch.tensor([4, 1, 4])
    assert counts(samples, 3) == {"001": 1, "100": 2}
    assert to_bits(samples, 3).tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_misread_bits_flip_independently():
    read = to_bits(misread(torch.full((100_000,), 5), 3, 0.1, generator=seeded()), 3).double()
    flipped = read - torch.tensor([1.0, 0, 1])
    assert float((flipped.abs().mean(0) - 0.1).abs().max()) < 4 * (0.09 / 100_000) ** 0.5
    assert float((flipped.abs().T.cov() - 0.09 * torch.eye(3)).abs().max()) < 0.003


@pytest.mark.parametrize("hamiltonian", [transverse_ising(3, 0.7, 0.4), heisenberg(3), 2 * heisenberg(3, (1, 0, 0.5))])
def test_energies_are_unbiased_and_their_errors_honest(hamiltonian):
    state = random_states(8, seed=5)
    exact = hamiltonian.expectation(state)
    values, errors = estimate(state.expand(4000, 8), hamiltonian, 50, generator=seeded())
    scores = (values - exact) / errors
    assert float((values.mean() - exact).abs()) < 4 * float(values.std()) / 4000**0.5
    assert float(scores.std()) == pytest.approx(1, abs=0.07)  # 50 shots: nearly normal
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.05)


def test_words_in_groups_are_unbiased():
    words = ["XXI", "IXY", "ZZZ", "IIZ", "YIY", "III"]
    states = random_states(2, 8, seed=3)
    values, errors = estimate(states, words, 40_000, generator=seeded())
    exact = torch.stack([Hamiltonian((1.0,), (word,)).expectation(states) for word in words], -1)
    assert values.shape == errors.shape == (2, 6)
    assert bool(((values - exact).abs() <= 4 * errors + 1e-12).all())
    torch.testing.assert_close(errors, (1 - values.square()).clamp_min(0).div(39_999).sqrt())


def test_readout_error_shrinks_words_by_their_weight():
    cat = torch.zeros(8, dtype=torch.float64)
    cat[[0, -1]] = 0.5**0.5
    values, errors = estimate(cat, ["XXX", "ZZI"], 100_000, generator=seeded(), readout_error=0.05)
    assert bool(((values - torch.tensor([0.9**3, 0.9**2])).abs() < 4 * errors).all())


def test_estimates_scatter_as_those_of_pennylane():
    hamiltonian = transverse_ising(3, 1.0, 0.5)
    state = random_states(8, seed=7)
    operator = qml.dot(list(hamiltonian.coefficients), [qml.pauli.string_to_pauli_word(w) for w in hamiltonian.words])

    @qml.set_shots(4000)
    @qml.qnode(qml.device("default.qubit", wires=3, seed=1))
    def energy():
        qml.StatePrep(state.numpy(), wires=range(3))
        return qml.expval(operator)

    ours = estimate(state, hamiltonian, 4000, generator=seeded())
    assert abs(float(ours.value) - float(energy())) < 6 * float(ours.error)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="n_shots=0"):
        sample(torch.ones(4), 0)
    with pytest.raises(ValueError, match="n_shots=1"):
        estimate(torch.ones(4), ["ZZ"], 1)
    with pytest.raises(ValueError, match="not negative"):
        sample(torch.tensor([0.5, -0.5]), 3, are_probabilities=True)
    with pytest.raises(ValueError, match="zero or not finite"):
        sample(torch.zeros(4), 3)
    with pytest.raises(ValueError, match="'ZZZ'"):
        estimate(torch.ones(4), ["ZZZ"], 10)
    with pytest.raises(ValueError, match="0 words"):
        estimate(torch.ones(4), [], 10)
    with pytest.raises(ValueError, match=r"probability=1\.5"):
        misread(torch.tensor([0]), 1, 1.5)
