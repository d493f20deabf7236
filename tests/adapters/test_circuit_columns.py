"""Columns of the RY-CZ circuit: PennyLane's on powers of two, orthonormal on every width, exact counts."""

import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.adapters.circuit_columns import CircuitColumns, count_angles, count_wires
from ketune.circuits import simplified_two_design


def plane_by_plane(width, k, n_layers, angles):
    """The definition, gate after gate and plane after plane; what reaches beyond the width is left out."""
    n_wires = count_wires(width)
    columns = torch.eye(width, dtype=torch.float64)[:, :k].clone()
    for gate in simplified_two_design(n_wires, n_layers).gates:
        bits = [1 << (n_wires - 1 - wire) for wire in gate.wires]
        for i in range(width):
            if gate.name == "CZ" and all(i & bit for bit in bits):
                columns[i] *= -1
            j = i + bits[0]
            if gate.name == "RY" and not i & bits[0] and j < width:
                cos, sin = (angles[gate.angle] / 2).cos(), (angles[gate.angle] / 2).sin()
                columns[i], columns[j] = cos * columns[i] - sin * columns[j], sin * columns[i] + cos * columns[j]
    return columns


@pytest.mark.parametrize(("n_wires", "n_layers"), [(1, 1), (2, 1), (3, 2), (5, 1), (6, 2), (7, 1)])
def test_columns_equal_those_of_pennylanes_simplified_two_design(n_wires, n_layers):
    angles = torch.randn(count_angles(2**n_wires, n_layers), dtype=torch.float64)
    initial, rest = angles[:n_wires], angles[n_wires:].reshape(n_layers, n_wires - 1, 2)

    def circuit():
        qml.SimplifiedTwoDesign(initial.numpy(), rest.numpy(), wires=range(n_wires))

    expected = torch.tensor(qml.matrix(circuit, wire_order=range(n_wires))().real)
    columns = CircuitColumns(2**n_wires, 2**n_wires, n_layers)(angles[None])[0]
    assert torch.allclose(columns, expected, atol=1e-12)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 10, 20, 37, 97, 160, 300, 1025])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_on_other_widths_the_planes_beyond_the_width_are_left_out(width, n_layers):
    if width == 1:
        assert torch.equal(CircuitColumns(1, 1, n_layers)(torch.zeros(2, 0)), torch.ones(2, 1, 1))
        return
    angles = torch.randn(2, count_angles(width, n_layers), dtype=torch.float64)
    k = min(width, 3)
    columns = CircuitColumns(width, k, n_layers)(angles)
    assert columns.shape == (2, width, k)
    assert torch.allclose(columns[1], plane_by_plane(width, k, n_layers, angles[1]), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 1200), k=st.integers(1, 9), n_layers=st.integers(1, 3), seed=st.integers(0, 1000))
def test_columns_are_orthonormal_on_every_width(width, k, n_layers, seed):
    k = min(width, k)
    angles = torch.randn(1, count_angles(width, n_layers), generator=torch.Generator().manual_seed(seed)) * 3
    columns = CircuitColumns(width, k, n_layers)(angles)[0]
    assert columns.dtype == torch.float32
    gram = columns.double().T @ columns.double()
    assert torch.allclose(gram, torch.eye(k, dtype=torch.float64), atol=1e-6)


def test_columns_of_llm_widths_are_orthonormal():
    for width in (4096, 11008):
        columns = CircuitColumns(width, 8, 1)(torch.randn(1, count_angles(width, 1)))[0].double()
        assert torch.allclose(columns.T @ columns, torch.eye(8, dtype=torch.float64), atol=1e-6)


def test_counts_are_the_published_ones():
    assert count_angles(4096, 1) == 34
    assert count_angles(4096, 2) == 56
    for q in range(1, 15):
        for n_layers in (1, 2, 5):
            assert count_angles(2**q, n_layers) == (2 * n_layers + 1) * q - 2 * n_layers


@pytest.mark.parametrize("width", [8, 37])
def test_gradients_are_those_of_finite_differences(width):
    angles = torch.randn(2, count_angles(width, 2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(CircuitColumns(width, 3, 2), (angles,))
