"""Angle encoding: product states from features, and the adjoint."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def product_states(features: Tensor, n_wires: int) -> Tensor:
    """RY(x_q)|0> on every wire q: (C, n_features) angles in radians to (C, 2 ** n_wires) real amplitudes."""
    pairs = torch.stack((torch.cos(features / 2), torch.sin(features / 2)), -1)
    states = pairs[:, 0]
    for wire in range(1, features.shape[1]):
        states = (states[:, :, None] * pairs[:, wire, None, :]).flatten(1)
    missing = n_wires - features.shape[1]
    return pad(states[:, :, None], (0, 2**missing - 1)).flatten(1) if missing else states


def product_states_back(states: Tensor, cotangent: Tensor, n_features: int) -> Tensor:
    """Cotangent of the features; d/dx RY(x) = RY(x + pi) / 2 swaps the two halves of a wire and negates one."""
    columns = []
    for wire in range(n_features):
        state = states.view(len(states), 2**wire, 2, -1)
        back = cotangent.reshape(state.shape)
        columns.append((back[:, :, 1] * state[:, :, 0] - back[:, :, 0] * state[:, :, 1]).sum((1, 2)) / 2)
    return torch.stack(columns, 1)
