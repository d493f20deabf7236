"""Where angles start without anything learned: the fixed initialisations that every learned one has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ketune.circuits import Circuit

Start = Callable[[Circuit, torch.Generator | None], Tensor]
"""A circuit and a source of randomness to (n_angles,) angles in radians, float64."""


def zeros(circuit: Circuit, generator: torch.Generator | None = None) -> Tensor:
    """All angles 0. A stationary point of some problems, where gradients vanish."""
    return torch.zeros(circuit.n_angles, dtype=torch.float64)


def all_pi(circuit: Circuit, generator: torch.Generator | None = None) -> Tensor:
    """All angles pi."""
    return torch.full((circuit.n_angles,), math.pi, dtype=torch.float64)


def uniform(circuit: Circuit, generator: torch.Generator | None = None) -> Tensor:
    """Uniform in [-pi, pi), the usual start, and that of barren plateaus."""
    return _uniform(circuit, math.pi, generator)


def narrow(circuit: Circuit, generator: torch.Generator | None = None) -> Tensor:
    """Uniform in [-0.05 pi, 0.05 pi)."""
    return _uniform(circuit, 0.05 * math.pi, generator)


def gaussian(circuit: Circuit, generator: torch.Generator | None = None) -> Tensor:
    """Normal with variance 1 / (4 S (L + 2)).

    K. Zhang, L. Liu, M.-H. Hsieh, D. Tao, "Escaping from the barren plateau via Gaussian initializations in deep
    variational quantum circuits", NeurIPS 2022, for observables on S = 2 wires. L, the number of layers, is taken as
    the number of angles per wire, rounded up.
    """
    layers = -(-circuit.n_angles // circuit.n_wires)
    deviation = math.sqrt(1 / (4 * 2 * (layers + 2)))
    return deviation * torch.randn(circuit.n_angles, dtype=torch.float64, generator=generator)


def _uniform(circuit: Circuit, half_width: float, generator: torch.Generator | None) -> Tensor:
    return half_width * (2 * torch.rand(circuit.n_angles, dtype=torch.float64, generator=generator) - 1)


STARTS: dict[str, Start] = {
    "uniform": uniform,
    "zeros": zeros,
    "pi": all_pi,
    "narrow": narrow,
    "gaussian": gaussian,
}
"""The fixed starts by name."""
