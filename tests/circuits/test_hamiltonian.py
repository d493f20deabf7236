import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit.quantum_info import SparsePauliOp
from tests.circuits import dense_reference as dense

from ketune.circuits import Hamiltonian, count_readouts, heisenberg, max_cut, transverse_ising
from ketune.circuits.observables import split_readout


@st.composite
def hamiltonians(draw, n_wires=None):
    n_wires = n_wires or draw(st.integers(1, 5))
    words = draw(st.lists(st.text("IXYZ", min_size=n_wires, max_size=n_wires), min_size=1, max_size=9))
    coefficients = draw(st.lists(st.floats(-2, 2), min_size=len(words), max_size=len(words)))
    return Hamiltonian(tuple(coefficients), tuple(words))


def dense_matrix(hamiltonian):
    return sum(c * dense.pauli_word(word) for c, word in zip(hamiltonian.coefficients, hamiltonian.words))


def random_states(*shape, dtype=torch.complex128, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(hamiltonians())
def test_any_hamiltonian_acts_as_the_kronecker_products_of_its_letters(hamiltonian):
    matrix = dense_matrix(hamiltonian)
    torch.testing.assert_close(hamiltonian.matrix(), matrix, atol=1e-13, rtol=0)
    for dtype in (torch.float64, torch.complex128):
        states = random_states(2, 3, 2**hamiltonian.n_wires, dtype=dtype)
        moved = states.to(matrix.dtype) @ matrix.T
        torch.testing.assert_close(hamiltonian.apply(states).to(matrix.dtype), moved, atol=1e-12, rtol=0)
        energies = (states.conj() * moved).sum(-1).real
        torch.testing.assert_close(hamiltonian.expectation(states), energies, atol=1e-12, rtol=1e-12)


@settings(deadline=None)
@given(hamiltonians(3), hamiltonians(3), st.floats(-3, 3))
def test_arithmetic_is_that_of_the_matrices(a, b, factor):
    torch.testing.assert_close((a + b).matrix(), a.matrix() + b.matrix())
    torch.testing.assert_close((a - b).matrix(), a.matrix() - b.matrix())
    torch.testing.assert_close((factor * a).matrix(), factor * a.matrix())
    torch.testing.assert_close((-a * factor).matrix(), -factor * a.matrix())


@settings(deadline=None)
@given(hamiltonians())
def test_groups_hold_every_term_once_in_a_basis_that_fits_it(hamiltonian):
    groups = hamiltonian.groups()
    assert sorted(word for _, part in groups for word in part.words) == list(hamiltonian.words)
    for basis, part in groups:
        assert all(letter in ("I", base) for word in part.words for letter, base in zip(word, basis))
    torch.testing.assert_close(sum(part.matrix() for _, part in groups), hamiltonian.matrix())


def test_groups_are_as_few_as_pennylane_finds():
    generator = torch.Generator().manual_seed(1)
    for n_wires, n_words in ((4, 40), (6, 100), (8, 60)):
        letters = torch.randint(4, (n_words, n_wires), generator=generator)
        words = {"".join("IXYZ"[k] for k in row): 1.0 for row in letters.tolist()}
        operators = [qml.pauli.string_to_pauli_word(word) for word in words]
        theirs = min(
            len(qml.pauli.group_observables(operators, grouping_type="qwc", method=method)) for method in ("lf", "rlf")
        )
        assert len(Hamiltonian.from_dict(words).groups()) <= theirs + 2
    assert [basis for basis, _ in heisenberg(6).groups()] == ["XXXXXX", "YYYYYY", "ZZZZZZ"]


def test_equal_words_are_merged_and_zero_terms_dropped():
    merged = Hamiltonian((1, 2.5, -1.0, 0.0), ("ZI", "IX", "ZI", "YY"))
    assert (merged.words, merged.coefficients) == (("IX",), (2.5,))
    assert merged == Hamiltonian.from_dict({"IX": 2.5})
    assert hash(merged) == hash(Hamiltonian.from_dict({"IX": 2.5}))
    zero = merged - merged
    assert (zero.words, zero.coefficients, zero.is_diagonal) == (("II",), (0.0,), True)
    assert torch.equal(zero.expectation(random_states(3, 4)), torch.zeros(3, dtype=torch.float64))


def test_a_diagonal_hamiltonian_gives_its_energies_by_basis_state():
    hamiltonian = Hamiltonian.from_dict({"ZIZ": 0.5, "IZI": -2.0, "III": 1.0})
    torch.testing.assert_close(hamiltonian.diagonal(), dense_matrix(hamiltonian).diagonal().real)
    with pytest.raises(ValueError, match="'XII'"):
        (hamiltonian + Hamiltonian.from_dict({"XII": 1.0})).diagonal()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode calls it
@pytest.mark.parametrize("terms", [{"XYI": 0.7, "IZZ": -0.4, "YII": 0.3}, {"IZZ": 1.5, "ZII": -0.5}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_expectations_have_right_derivatives_of_any_order_and_mode(terms, dtype):
    hamiltonian = Hamiltonian.from_dict(terms)
    states = random_states(2, 8, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(hamiltonian.expectation, states, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(hamiltonian.expectation, states)
    assert torch.autograd.gradcheck(hamiltonian.apply, states, check_forward_ad=True)
    by_row = torch.func.vmap(hamiltonian.expectation)(states)
    torch.testing.assert_close(by_row, hamiltonian.expectation(states))
    by_column = torch.func.vmap(hamiltonian.apply, in_dims=1)(states.T)
    torch.testing.assert_close(by_column, hamiltonian.apply(states))


def test_gradients_vanish_where_amplitudes_do_and_second_ones_do_not():
    hamiltonian = Hamiltonian.from_dict({"Z": 1.0})
    state = torch.tensor([1.0, 0.0], dtype=torch.complex128)
    hessian = torch.autograd.functional.hessian(lambda imag: hamiltonian.expectation(state + 1j * imag), state.real * 0)
    torch.testing.assert_close(hessian, torch.diag(torch.tensor([2.0, -2.0], dtype=torch.float64)))


def test_operators_come_from_pennylane_and_qiskit_with_their_matrices():
    operator = 0.5 * qml.X(0) @ qml.Y(2) - 1.5 * qml.Z(1) + 0.25 * qml.Identity(0)
    ours = Hamiltonian.from_pennylane(operator, 4)
    expected = torch.as_tensor(qml.matrix(operator, wire_order=range(4)))
    torch.testing.assert_close(ours.matrix(), expected.to(torch.complex128))
    assert Hamiltonian.from_pennylane(operator).n_wires == 3
    theirs = SparsePauliOp(["XIY", "ZZI", "XIY"], [0.5, -1.0, 0.25])
    torch.testing.assert_close(Hamiltonian.from_qiskit(theirs).matrix(), torch.as_tensor(theirs.to_matrix()))


@pytest.mark.parametrize("periodic", [False, True])
def test_standard_models_are_those_of_pennylane(periodic):
    def matrix(operator):
        return torch.as_tensor(qml.matrix(operator, wire_order=range(4))).to(torch.complex128)

    ising = qml.spin.transverse_ising("chain", [4], coupling=0.8, h=0.3, boundary_condition=periodic)
    torch.testing.assert_close(transverse_ising(4, 0.8, 0.3, periodic).matrix(), matrix(ising))
    chain = qml.spin.heisenberg("chain", [4], coupling=[0.8, 0.3, -1.0], boundary_condition=periodic)
    torch.testing.assert_close(heisenberg(4, (0.8, 0.3, -1.0), periodic).matrix(), matrix(chain))


def test_max_cut_energies_count_the_edges_that_are_cut():
    edges = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]
    energies = max_cut(4, edges).diagonal()
    for index in range(16):
        bits = [index >> 3 - wire & 1 for wire in range(4)]
        assert energies[index] == -sum(bits[a] != bits[b] for a, b in edges)
    assert max_cut(2, [(0, 1, 2.5)]).diagonal().tolist() == [0.0, -2.5, -2.5, 0.0]


def test_the_critical_ising_ring_has_the_exact_ground_energy():
    # Pfeuty, Annals of Physics 57, 79 (1970): E = -2 sum |cos(k / 2)| over k = (2 m + 1) pi / n at J = h = 1.
    n_wires = 8
    k = (2 * torch.arange(n_wires, dtype=torch.float64) + 1) * torch.pi / n_wires
    expected = -2 * (k / 2).cos().abs().sum()
    lowest = torch.linalg.eigvalsh(transverse_ising(n_wires, periodic=True).matrix())[0]
    torch.testing.assert_close(lowest, expected)


def test_readouts_of_hamiltonians_are_words_and_weights():
    first, second = Hamiltonian.from_dict({"XI": 0.5, "ZZ": 1.0}), Hamiltonian.from_dict({"ZZ": 2.0, "II": -1.0})
    words, weights = split_readout([first, second], 2)
    assert words == ("XI", "ZZ", "II")
    assert weights is not None
    assert weights.T.tolist() == [[0.5, 1.0, 0.0], [0.0, 2.0, -1.0]]
    assert split_readout(["XI"], 2) == (("XI",), None)
    assert split_readout("pauli_z", 2) == ("pauli_z", None)
    assert (count_readouts(2, first), count_readouts(2, [first, second])) == (1, 2)
    with pytest.raises(ValueError, match="on 2 wires; the circuit has 3"):
        split_readout(first, 3)
    with pytest.raises(ValueError, match="mixes"):
        split_readout([first, "XI"], 2)  # type: ignore[list-item]


def test_wrong_hamiltonians_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match="at least one Pauli word"):
        Hamiltonian((), ())
    with pytest.raises(ValueError, match="2 coefficients for 1 words"):
        Hamiltonian((1.0, 2.0), ("X",))
    with pytest.raises(ValueError, match=r"'XZZ'.*2 letters"):
        Hamiltonian((1.0, 2.0), ("XX", "XZZ"))
    with pytest.raises(ValueError, match="must be real"):
        Hamiltonian((1j,), ("X",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        Hamiltonian((float("nan"),), ("X",))
    with pytest.raises(ValueError, match="2 and 1 wires"):
        Hamiltonian((1.0,), ("XX",)) + Hamiltonian((1.0,), ("X",))
    with pytest.raises(ValueError, match=r"length 3.*need 4"):
        Hamiltonian((1.0,), ("XX",)).expectation(torch.zeros(3))
    with pytest.raises(ValueError, match="at most 12"):
        Hamiltonian((1.0,), ("X" * 13,)).matrix()
    with pytest.raises(ValueError, match=r"edge \(1, 1\)"):
        max_cut(2, [(1, 1)])
    with pytest.raises(ValueError, match="wire 2"):
        Hamiltonian.from_pennylane(qml.X(2), 2)
    with pytest.raises(ValueError, match="no sum of Pauli words"):
        Hamiltonian.from_pennylane(qml.Hermitian([[1, 0], [0, -1]], 0))
    with pytest.raises(ValueError, match="map_wires"):
        Hamiltonian.from_pennylane(qml.X("a"))
