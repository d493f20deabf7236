"""The classical stand-in: orthogonal, exact count, direction only."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ketune.adapters.controls import (
    GivensFeatures,
    SmallNetwork,
    freeze_angles,
    matched_network,
    walsh_rows,
)
from ketune.adapters.orthogonal import givens_rotation
from ketune.circuits import QuantumLayer, ry_ring


@given(size=st.integers(2, 9), n=st.integers(0, 20), seed=st.integers(0, 1000))
def test_plane_rotations_give_a_rotation(size, n, seed):
    angles = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    matrix = givens_rotation(angles, size)
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    assert torch.linalg.det(matrix).item() == pytest.approx(1.0)


def test_angles_of_zero_give_the_identity():
    assert torch.equal(givens_rotation(torch.zeros(5), 3), torch.eye(3))


def test_walsh_functions_are_orthogonal_and_never_constant():
    rows = walsh_rows(15, 16)
    assert torch.equal(rows @ rows.T, 16 * torch.eye(15))
    assert torch.equal(rows.sum(1), torch.zeros(15))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_stand_in_has_as_many_angles_as_asked_and_sees_the_direction_only(width):
    features = GivensFeatures(12, width, n_angles=7, linear=False)
    assert sum(p.numel() for p in features.parameters()) == 7
    x = torch.randn(6, 12)
    assert features(x).shape == (6, width)
    assert torch.allclose(features(3 * x), features(x), atol=1e-6)
    assert features(x).abs().max() <= 1
    assert torch.isfinite(features(torch.zeros(1, 12))).all()


def test_the_linear_stand_in_is_linear():
    features = GivensFeatures(12, 4, n_angles=9, linear=True)
    x, y = torch.randn(2, 12), torch.randn(2, 12)
    assert torch.allclose(features(2 * x - y), 2 * features(x) - features(y), atol=1e-5)


@pytest.mark.parametrize(("width", "count"), [(4, 32), (3, 21), (1, 2), (1, 3), (5, 45)])
def test_a_matched_network_has_exactly_as_many_parameters(width, count):
    network = matched_network(width, count)
    assert sum(p.numel() for p in network.parameters()) == count
    x = torch.randn(2, 6, width)
    assert network(x).shape == x.shape
    assert not torch.allclose(network(2 * x) - network(0 * x), 2 * (network(x) - network(0 * x)))


def test_counts_that_no_network_has_are_refused():
    for width, count in ((4, 33), (4, 4)):
        with pytest.raises(ValueError, match=f"multiple of {width} parameters"):
            matched_network(width, count)


def test_a_network_computes_in_the_type_of_its_input():
    network = SmallNetwork([3, 5, 3], bias=True).bfloat16()
    assert network(torch.randn(2, 3)).dtype == torch.float32


def test_frozen_angles_are_a_buffer_of_the_same_shape():
    layer = QuantumLayer(ry_ring(3, 2), "angle")
    freeze_angles(layer)
    assert list(layer.parameters()) == []
    assert layer.state_dict()["angles"].shape == (6,)
    assert layer(torch.zeros(2, 3)).shape == (2, 3)
