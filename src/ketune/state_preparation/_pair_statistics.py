"""Reduced states of all wires and pairs of wires, as Bloch vectors and correlations, kept up to date."""

from __future__ import annotations

import torch
from torch import Tensor

from ketune.state_preparation.entanglement import bloch_vectors, count_wires


class PairStatistics:
    """<P_i> and <P_i Q_k> of a batch of states, for all wires i, k and Paulis P, Q.

    A gate on two wires changes only what has to do with them, so `update` measures two rows of the table again.

    Args:
        states: (B, 2 ** n) complex unit vectors.

    Attributes:
        bloch: (B, n, 3) <X>, <Y>, <Z> of each wire.
        correlations: (B, n, n, 3, 3) <P_i Q_k> at [:, i, k, P, Q]; what stands at i = k is of no use.
    """

    def __init__(self, states: Tensor) -> None:
        n_wires = count_wires(states)
        self.bloch = bloch_vectors(states)
        self.correlations = self.bloch.new_zeros(len(states), n_wires, n_wires, 3, 3)
        for wire in range(0, n_wires, 2):
            self.update(states, torch.tensor([[wire, min(wire + 1, n_wires - 1)]], device=states.device))

    def update(self, states: Tensor, wires: Tensor) -> None:
        """Measures again what two wires of each state have to do with.

        Args:
            states: (B, 2 ** n) the states as they are now.
            wires: (B, 2) or (1, 2) int64.
        """
        n_wires = self.bloch.shape[1]
        wires = wires.expand(len(states), 2)
        rows = torch.arange(len(states), device=states.device)[:, None]
        turned = torch.cat([paulis(states, wires[:, place], n_wires) for place in (0, 1)], 1)  # (B, 6, 2 ** n)
        self.bloch[rows, wires] = _real_products(turned, states[:, None]).view(-1, 2, 3)
        for other in range(n_wires):
            there = paulis(states, wires.new_full((len(states),), other), n_wires)
            table = _real_products(turned, there).view(-1, 2, 3, 3)
            self.correlations[rows, wires, other] = table
            self.correlations[rows, other, wires] = table.mT


def paulis(states: Tensor, wires: Tensor, n_wires: int) -> Tensor:
    """X, Y and Z on one wire of each state: (B, 2 ** n) and (B,) to (B, 3, 2 ** n)."""
    place = torch.arange(states.shape[-1], device=states.device)
    shift = n_wires - 1 - wires[:, None]
    flipped = states.gather(1, place ^ (1 << shift))
    sign = 1.0 - 2.0 * ((place >> shift) & 1).to(states.real.dtype)
    return torch.stack((flipped, -1j * sign * flipped, sign * states), 1)


def _real_products(left: Tensor, right: Tensor) -> Tensor:
    """Re <left_a|right_b>: (B, a, N) and (B, b, N) to (B, a, b)."""
    return (torch.view_as_real(left).flatten(-2) @ torch.view_as_real(right.contiguous()).flatten(-2).mT).contiguous()
