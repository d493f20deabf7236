import math

import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.circuits import entropy, fidelity, meyer_wallach, mutual_information, purity, reduced_state


def random_states(*shape, seed=0, dtype=torch.complex128):
    states = torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return states / states.norm(dim=-1, keepdim=True)


def random_mixtures(count, size, rank, seed=0):
    parts = torch.randn(count, size, rank, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    rho = parts @ parts.mH
    return rho / rho.diagonal(dim1=-2, dim2=-1).sum(-1).real[..., None, None]


def ghz(n_wires):
    state = torch.zeros(2**n_wires, dtype=torch.float64)
    state[[0, -1]] = 0.5**0.5
    return state


close = {"atol": 1e-10, "rtol": 0}
some_wires = st.integers(2, 5).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
)


@settings(deadline=None)
@given(some_wires, st.integers(0, 100))
def test_parts_of_states_are_those_of_pennylane(case, seed):
    n_wires, wires = case
    states = random_states(3, 2**n_wires, seed=seed)
    whole = states[..., None] * states[..., None, :].conj()
    rho = reduced_state(states, wires)
    torch.testing.assert_close(rho, qml.math.reduce_statevector(states, wires), **close)
    torch.testing.assert_close(reduced_state(whole, wires, mixed=True), rho, **close)
    torch.testing.assert_close(purity(states, wires), qml.math.purity(whole, wires), **close)
    torch.testing.assert_close(entropy(states, wires), qml.math.vn_entropy(whole, wires), **close)
    torch.testing.assert_close(entropy(states, wires, base=2), qml.math.vn_entropy(whole, wires, base=2), **close)
    torch.testing.assert_close(entropy(whole, wires, mixed=True), entropy(states, wires), **close)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 50))
def test_parts_of_mixtures_are_those_of_pennylane(n_wires, rank, seed):
    rho = random_mixtures(2, 2**n_wires, rank, seed)
    wires = list(range(n_wires))[::-1]
    torch.testing.assert_close(reduced_state(rho, wires, mixed=True), qml.math.reduce_dm(rho, wires), **close)
    torch.testing.assert_close(purity(rho, 0, mixed=True), qml.math.purity(rho, [0]), **close)
    torch.testing.assert_close(entropy(rho, 0, mixed=True), qml.math.vn_entropy(rho, [0]), **close)


def test_mutual_information_is_that_of_pennylane():
    states = random_states(4, 32)
    whole = states[..., None] * states[..., None, :].conj()
    theirs = qml.math.mutual_info(whole, [0, 3], [2])
    torch.testing.assert_close(mutual_information(states, [0, 3], 2), theirs, **close)
    torch.testing.assert_close(mutual_information(whole, [0, 3], 2, mixed=True), theirs, **close)


def test_fidelities_are_those_of_pennylane():
    a, b = random_states(3, 8, seed=1), random_states(3, 8, seed=2)
    torch.testing.assert_close(fidelity(a, b), qml.math.fidelity_statevector(a, b), **close)
    for rank in (3, 8):
        rho, sigma = random_mixtures(3, 8, rank, 3), random_mixtures(3, 8, 8, 4)
        ours = fidelity(rho, sigma, a_mixed=True, b_mixed=True)
        torch.testing.assert_close(ours, qml.math.fidelity(rho, sigma), atol=1e-7, rtol=0)  # theirs: two roots of rho
        torch.testing.assert_close(fidelity(sigma, rho, a_mixed=True, b_mixed=True), ours, **close)
        pure = b[:, :, None] * b[:, None].conj()
        expected = fidelity(rho, b, a_mixed=True)
        torch.testing.assert_close(fidelity(b, rho, b_mixed=True), expected, **close)
        torch.testing.assert_close(fidelity(rho, pure, a_mixed=True, b_mixed=True), expected, atol=1e-7, rtol=0)
    assert fidelity(a[0], b).shape == (3,)


def test_commuting_mixtures_have_the_fidelity_of_their_distributions():
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]).double(), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    ours = fidelity(p.diag(), q.diag(), a_mixed=True, b_mixed=True)
    torch.testing.assert_close(ours, (p * q).sqrt().sum().square(), **close)


@pytest.mark.parametrize("n_wires", [2, 3, 5])
def test_cat_states_have_one_bit_across_every_cut(n_wires):
    state = ghz(n_wires)
    for wires in ([0], list(range(n_wires - 1)), [n_wires - 1, 0]):
        if len(wires) < n_wires:
            for order in (0.5, 1, 2, 3):
                assert float(entropy(state, wires, base=2, order=order)) == pytest.approx(1)
            assert float(purity(state, wires)) == pytest.approx(0.5)
    assert float(meyer_wallach(state)) == pytest.approx(1)
    assert float(entropy(state, range(n_wires))) == pytest.approx(0)


def test_random_states_have_the_mean_entropy_of_page():
    # Page, Phys. Rev. Lett. 71, 1291 (1993): sum of 1/k for k = n + 1..m n, less (m - 1) / (2 n), with m <= n.
    states = random_states(4000, 64)
    expected = sum(1 / k for k in range(17, 65)) - 3 / 32
    assert float(entropy(states, [1, 4]).mean()) == pytest.approx(expected, abs=2e-3)


def test_entanglement_of_w_states_is_the_closed_form():
    # Each wire of W on n wires has the spectrum (1 / n, 1 - 1 / n): Q = 4 (n - 1) / n ** 2.
    for n_wires in (3, 4, 6):
        state = torch.zeros(2**n_wires, dtype=torch.float64)
        state[[2**k for k in range(n_wires)]] = n_wires**-0.5
        assert float(meyer_wallach(state)) == pytest.approx(4 * (n_wires - 1) / n_wires**2)
        p = 1 / n_wires
        assert float(entropy(state, 0)) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


def test_gradients_are_right():
    states = random_states(2, 16).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: entropy(s, [0, 2]), states)
    assert torch.autograd.gradcheck(lambda s: entropy(s, [0, 2], order=3), states)
    assert torch.autograd.gradcheck(lambda s: mutual_information(s, 0, 1), states)
    for function in (meyer_wallach, lambda s: entropy(s, [0, 2], order=2), lambda s: purity(s, 1)):
        assert torch.autograd.gradcheck(function, states)
        assert torch.autograd.gradgradcheck(function, states)
    rho = random_mixtures(2, 4, 4, 1).requires_grad_()
    sigma = random_mixtures(2, 4, 4, 2).requires_grad_()

    def by_parts(a, b):
        return fidelity((a + a.mH) / 2, (b + b.mH) / 2, a_mixed=True, b_mixed=True)

    assert torch.autograd.gradcheck(by_parts, (rho, sigma))
    assert torch.autograd.gradcheck(by_parts, (torch.eye(4).cdouble().requires_grad_() / 4, sigma))


def test_first_derivatives_hold_where_eigenvalues_coincide_or_vanish():
    for state in (ghz(3), torch.eye(8, dtype=torch.float64)[0]):
        point = state.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(entropy(point / point.norm(), [0]), point)
        assert float(gradient.abs().max()) < 1e-9  # both are stationary: largest and smallest entropy


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        purity(torch.ones(3), 0)
    with pytest.raises(ValueError, match=r"wires=3.*0\.\.2"):
        reduced_state(torch.ones(8), 3)
    with pytest.raises(ValueError, match=r"wires=\[0, 0\]"):
        entropy(torch.ones(8), [0, 0])
    with pytest.raises(ValueError, match="order=0"):
        entropy(torch.ones(8), 0, order=0)
    with pytest.raises(ValueError, match="must be equal"):
        entropy(torch.ones(4, 8), 0, mixed=True)
    with pytest.raises(ValueError, match="sizes 4 and 8"):
        fidelity(torch.ones(4), torch.ones(8))
    with pytest.raises(ValueError, match=r"wires=\[0, 1, 1\]"):
        mutual_information(torch.ones(8), [0, 1], 1)
