import copy
import math

import pytest
import torch

from ketune.circuits import QuantumLayer, run, rxryrz_ring, ry_ring, ryrz_ring_ry


def test_a_layer_runs_its_circuit_with_its_angles():
    layer = QuantumLayer(ryrz_ring_ry(3), readout=["XII", "ZZI"], n_features=6)
    x = torch.randn(4, 6)
    torch.testing.assert_close(layer(x), run(layer.circuit, x, layer.angles, readout=["XII", "ZZI"]))
    assert layer.n_outputs == 2


def test_the_default_feature_count_fills_the_wires():
    assert QuantumLayer(ry_ring(5)).n_features == 32
    assert QuantumLayer(ry_ring(5), encoding="angle").n_features == 5


def test_the_first_amplitudes_are_a_linear_map():
    layer = QuantumLayer(rxryrz_ring(3), readout="amplitudes", n_readouts=2, n_features=5)
    x = torch.randn(7, 5)
    matrix = layer(torch.eye(5))
    assert matrix.shape == (5, 2)
    torch.testing.assert_close(layer(x), x @ matrix)


def test_a_generator_decides_the_angles():
    first, second = (QuantumLayer(ry_ring(6, 50), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.angles, second.angles)
    assert first.angles.abs().max() <= math.pi
    # Uniform on [-pi, pi): variance pi^2 / 3.
    assert first.angles.var().item() == pytest.approx(math.pi**2 / 3, rel=0.15)


def test_a_layer_learns_the_angles_that_made_its_targets():
    generator = torch.Generator().manual_seed(0)
    target = QuantumLayer(ryrz_ring_ry(3), generator=generator)
    layer = QuantumLayer(ryrz_ring_ry(3), generator=generator)
    x = torch.randn(64, 8, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(150):
        loss = (layer(x) - target(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


def test_copies_and_saved_states_keep_the_function():
    layer = QuantumLayer(ry_ring(3))
    x = torch.randn(2, 8)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))
    other = QuantumLayer(ry_ring(3))
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x))


def test_printing_tells_the_circuit():
    assert "n_wires=3, n_gates=6, n_angles=3, encoding='amplitude'" in repr(QuantumLayer(ry_ring(3)))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="9 features"):
        QuantumLayer(ry_ring(3), n_features=9)
    with pytest.raises(ValueError, match="'pauli_y'"):
        QuantumLayer(ry_ring(3), readout="pauli_y")
    with pytest.raises(ValueError, match="x has 7 features; this layer takes 8"):
        QuantumLayer(ry_ring(3))(torch.randn(2, 7))
