"""The maps to angles, against their closed forms."""

import math

import pytest
import torch

from ketune.circuits import Circuit, read_pauli_z
from ketune.vqc.angle_maps import ANGLE_MAPS

EDGES = {
    "pi_tanh": (-math.pi, 0.0, math.pi),
    "atan": (-math.pi, 0.0, math.pi),
    "sigmoid_half_pi": (0.0, math.pi / 4, math.pi / 2),
}


@pytest.mark.parametrize("name", EDGES)
def test_bounded_maps_go_from_edge_to_edge_and_rise(name):
    h = torch.tensor([-1e6, 0.0, 1e6], dtype=torch.float64)
    assert torch.allclose(ANGLE_MAPS[name](h), torch.tensor(EDGES[name], dtype=torch.float64), atol=1e-5)
    assert (ANGLE_MAPS[name](torch.linspace(-3, 3, 50)).diff() > 0).all()


def test_behind_a_relu_the_released_map_reaches_the_upper_half_only():
    angles = ANGLE_MAPS["sigmoid_half_pi"](torch.randn(1000, generator=torch.Generator().manual_seed(0)).relu())
    assert angles.min() == pytest.approx(math.pi / 4)
    assert angles.max() < math.pi / 2


def test_the_arc_tangent_makes_amplitudes_proportional_to_one_and_h():
    """RY(2 atan h)|0> = (1, h) / sqrt(1 + h^2), so <Z> = (1 - h^2) / (1 + h^2)."""
    h = torch.tensor([[0.5], [-2.0]])
    z = read_pauli_z(Circuit(1, ()), ANGLE_MAPS["atan"](h), torch.zeros(0))
    assert torch.allclose(z, (1 - h**2) / (1 + h**2), atol=1e-6)
