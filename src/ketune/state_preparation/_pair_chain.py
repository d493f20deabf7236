"""Overlaps of many states with circuits of two-wire blocks, each state with pairs of its own, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Pairs = Tensor
"""(B, T, 2) int64, the two wires of each block, or (1, T, 2) where all states share them."""


class Layouts:
    """Where the amplitudes stand while blocks are applied: each block wants its wires to be the most significant bits.

    Args:
        pairs: (B, T, 2) or (1, T, 2).
        n_wires: number of wires.

    Attributes:
        moves: (T, B or 1, 2 ** n_wires) int64; block t takes from place `moves[t][p]` what it wants at place p.
        last: (B or 1, 2 ** n_wires) int64, the index of the amplitude at each place behind the last block.
    """

    def __init__(self, pairs: Pairs, n_wires: int) -> None:
        size = 2**n_wires
        place = torch.arange(size, device=pairs.device)
        order = _orders(pairs, n_wires)  # (B, T, n)
        moves = []
        before = place.expand(pairs.shape[0], size)
        for t in range(pairs.shape[1]):
            # Bit i of the place, from the most significant, is the bit of wire order[i] in the index.
            index = torch.zeros(pairs.shape[0], size, dtype=torch.long, device=pairs.device)
            for position in range(n_wires):
                bit = (place >> (n_wires - 1 - position)) & 1
                index += bit << (n_wires - 1 - order[:, t, position, None])
            inverse = torch.empty_like(before).scatter_(1, before, place.expand_as(before).contiguous())
            moves.append(inverse.gather(1, index))
            before = index
        self.moves = torch.stack(moves) if moves else place.new_empty(0, pairs.shape[0], size)
        self.last = before


def _orders(pairs: Pairs, n_wires: int) -> Tensor:
    """(B, T, n_wires): the wires of each block first, then the others in their order."""
    wires = torch.arange(n_wires, device=pairs.device).expand(*pairs.shape[:2], n_wires)
    first = wires == pairs[..., :1]
    second = wires == pairs[..., 1:]
    rank = torch.where(first, -2, torch.where(second, -1, wires))
    return wires.gather(-1, rank.argsort(-1))


def _moved(states: Tensor, move: Tensor) -> Tensor:
    return states.gather(-1, move.expand(states.shape))


def _moved_back(states: Tensor, move: Tensor) -> Tensor:
    return torch.empty_like(states).scatter_(-1, move.expand(states.shape), states)


def _times(matrices: Tensor, states: Tensor) -> Tensor:
    """(B, 4, 4) on (B, 2 ** n) whose first two bits are the wires."""
    return (matrices @ states.unflatten(-1, (4, -1))).flatten(-2)


class _Overlap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, targets: Tensor, starts: Tensor, matrices: Tensor, moves: Tensor, last: Tensor) -> Tensor:
        states = starts
        for t, move in enumerate(moves):
            states = _times(matrices[:, t], _moved(states, move))
        laid = _moved(targets, last)
        ctx.save_for_backward(laid, states, matrices, moves)
        return (laid.conj() * states).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        laid, states, matrices, moves = ctx.saved_tensors
        weight = cotangents[0]
        both = torch.stack((laid.expand_as(states), states), 1)  # (B, 2, 2 ** n)
        found = torch.empty_like(matrices)
        for t in range(len(moves) - 1, -1, -1):
            inverse = matrices[:, t].mH
            split = both.unflatten(-1, (4, -1))
            before = inverse[:, None] @ split
            # overlap = <target| M |before>, so that its derivative in conj(M) is target times before^dagger.
            found[:, t] = split[:, 0] @ before[:, 1].mH
            both = _moved_back(before.flatten(-2), moves[t][:, None])
        return None, weight[:, None] * both[:, 0], weight[:, None, None, None] * found, None, None


def overlaps(targets: Tensor, starts: Tensor, matrices: Tensor, layouts: Layouts) -> Tensor:
    """`<target| M_T ... M_1 |start>` of each state.

    The backward pass undoes the blocks one by one, so it keeps two states and no more.

    Args:
        targets: (B, 2 ** n) complex; no gradient flows to them.
        starts: (B, 2 ** n) complex.
        matrices: (B, T, 4, 4) unitary.
        layouts: of the pairs.

    Returns:
        (B,) complex.
    """
    out = _Overlap.apply(targets, starts, matrices, layouts.moves, layouts.last)
    assert isinstance(out, Tensor)
    return out


def apply_blocks(states: Tensor, matrices: Tensor, layouts: Layouts) -> Tensor:
    """The states behind all blocks, in the usual order of amplitudes: (B, 2 ** n). Differentiable by torch."""
    for t, move in enumerate(layouts.moves):
        states = _times(matrices[:, t], _moved(states, move))
    return _moved_back(states, layouts.last)


def product_vectors(wires: Tensor) -> Tensor:
    """Kronecker products: (B, n, 2) amplitudes of each wire to (B, 2 ** n)."""
    total = wires[:, 0]
    for wire in range(1, wires.shape[1]):
        total = (total[:, :, None] * wires[:, wire, None, :]).flatten(1)
    return total
