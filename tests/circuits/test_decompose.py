"""Arbitrary one- and two-wire unitaries, and what they become."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits import dense_reference as dense
from tests.circuits.random_circuits import random_unitary

from ketune.circuits import Circuit, Gate, run, simulate
from ketune.circuits._gates import elementary_steps

PERMUTATIONS = {
    "CNOT": np.eye(4)[[0, 1, 3, 2]],
    "CZ": np.diag([1, 1, 1, -1]),
    "SWAP": np.eye(4)[[0, 2, 1, 3]],
}


def canonical(coordinates):
    exponent = sum(c * dense.pauli_word(word) for c, word in zip(coordinates, ("XX", "YY", "ZZ")))
    return torch.linalg.matrix_exp(1j * exponent).numpy()


def product(gate):
    """The product of a gate's steps on two wires."""
    total = np.eye(4, dtype=complex)
    for step in elementary_steps(gate):
        if step.permutes:
            matrix = PERMUTATIONS[step.name]
            if step.wires == (1, 0):
                matrix = PERMUTATIONS["SWAP"] @ matrix @ PERMUTATIONS["SWAP"]
        else:
            sides = [np.eye(2), np.eye(2)]
            sides[step.wires[0]] = np.array(step.constant)
            matrix = np.kron(*sides)
        total = matrix @ total
    return total


def check(matrix):
    """The steps give the matrix back; returns how many permutations they need."""
    gate = Gate("U", (0, 1), matrix=matrix)
    assert abs(product(gate) - matrix).max() < 1e-12
    steps = elementary_steps(gate)
    if gate.is_real:
        assert all(step.is_real for step in steps)
    return sum(step.permutes for step in steps)


@settings(deadline=None, max_examples=60, database=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_random_unitaries_are_exact_and_real_ones_stay_real(seed, real):
    assert check(random_unitary(np.random.default_rng(seed), 4, real)) <= 3


@settings(deadline=None, max_examples=100, database=None)
@given(
    st.lists(st.integers(-4, 4), min_size=3, max_size=3),
    st.sampled_from([0.0, 1e-5, 1e-8, 1e-10, 1e-12, 1e-14]),
    st.integers(0, 2**32 - 1),
)
def test_unitaries_at_and_near_the_special_points_are_exact(eighths, scale, seed):
    rng = np.random.default_rng(seed)
    middle = canonical(np.array(eighths) * np.pi / 8 + scale * rng.normal(size=3))
    around = [np.kron(random_unitary(rng, 2), random_unitary(rng, 2)) for _ in range(2)]
    check(middle)
    check(around[0] @ middle @ around[1])


@pytest.mark.parametrize(
    ("coordinates", "most"),
    [((0, 0, 0), 0), ((1, 0, 0), 1), ((0, 1, 0), 1), ((0, 0, 1), 1), ((1, 1, 1), 1), ((1, 1, 0), 2), ((0.3, 0, 0), 2)],
)
def test_simple_unitaries_need_few_permutations(coordinates, most):
    rng = np.random.default_rng(0)
    middle = canonical(np.array(coordinates) * np.pi / 4)
    assert check(np.kron(random_unitary(rng, 2), random_unitary(rng, 2)) @ middle) <= most


@pytest.mark.parametrize(
    "matrix", [1j * PERMUTATIONS["SWAP"], *PERMUTATIONS.values(), -np.eye(4), np.diag([1, 1, 1, 1j])]
)
def test_familiar_matrices_are_exact(matrix):
    check(matrix.astype(complex))


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("wires", [(1,), (0, 1), (2, 0)])
def test_a_matrix_in_a_circuit_acts_on_its_wires_first_one_most_significant(wires, real):
    matrix = random_unitary(np.random.default_rng(1), 2 ** len(wires), real)
    circuit = Circuit(3, (Gate("RY", (0,), 0), Gate("U", wires, matrix=matrix), Gate("RY", (1,), 1)))
    angles = torch.tensor([0.4, 1.3], dtype=torch.float64)
    assert circuit.is_real == real
    columns = simulate(circuit, angles, torch.eye(8, dtype=torch.complex128)).T
    expected = dense.circuit_matrix(circuit, angles)
    torch.testing.assert_close(columns, expected, atol=1e-14, rtol=0)
    x = torch.randn(4, 8, dtype=torch.float64)
    for readout in ("amplitudes", "probabilities"):
        ours = run(circuit, x, angles, readout=readout)
        torch.testing.assert_close(ours, dense.readouts(circuit, x, angles, readout), atol=1e-13, rtol=0)


def test_a_circuit_with_a_matrix_is_a_key_and_reads_back():
    matrix = random_unitary(np.random.default_rng(2), 4)
    circuit = Circuit(
        2, (Gate("U", (1, 0), matrix=matrix), Gate("RX", (0,), 0), Gate("U", (1,), matrix=[[0, 1], [1, 0]]))
    )
    assert Circuit.from_text(circuit.text) == circuit
    assert hash(Circuit.from_text(circuit.text)) == hash(circuit)
    assert circuit != Circuit(2, (Gate("U", (0, 1), matrix=matrix), *circuit.gates[1:]))
    assert (circuit + circuit).gates[4].angle == 1


def test_a_nearly_unitary_matrix_becomes_the_nearest_unitary():
    exact = random_unitary(np.random.default_rng(3), 4)
    gate = Gate("U", (0, 1), matrix=exact.astype(np.complex64))
    stored = np.array(gate.matrix)
    assert abs(stored.conj().T @ stored - np.eye(4)).max() < 1e-14
    assert abs(stored - exact).max() < 1e-6
    assert Gate("U", (0, 1), matrix=gate.matrix) == gate


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "U", "wires": (0,)}, r"shape \(\); 2 rows of 2"),
        ({"name": "U", "wires": (0,), "matrix": np.eye(4)}, r"shape \(4, 4\); 2 rows of 2"),
        ({"name": "U", "wires": (0,), "matrix": [[1, 0], [0, "a"]]}, "2 rows of 2 numbers"),
        ({"name": "U", "wires": (0,), "matrix": [[1, 0], [0, 2]]}, r"not unitary.*3\.0e\+00"),
        ({"name": "U", "wires": (0,), "matrix": [[1, 0], [0, float("nan")]]}, "not unitary"),
        ({"name": "U", "wires": (0, 1, 2), "matrix": np.eye(8)}, r"\(0, 1, 2\)"),
        ({"name": "U", "wires": (0, 0), "matrix": np.eye(4)}, "distinct"),
        ({"name": "U", "wires": (0,), "angle": 0, "matrix": np.eye(2)}, "angle=None"),
        ({"name": "H", "wires": (0,), "matrix": np.eye(2)}, "only gate 'U'"),
    ],
)
def test_wrong_matrices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Gate(**arguments)
