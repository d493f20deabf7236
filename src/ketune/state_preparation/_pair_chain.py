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
        moves: T tables (B or 1, 2 ** n_wires); block t takes from place `moves[t][p]` what it wants at place p.
        last: (B or 1, 2 ** n_wires), the index of the amplitude at each place behind the last block.
    """

    def __init__(self, pairs: Pairs, n_wires: int) -> None:
        size = 2**n_wires
        self._size = size
        place = torch.arange(size, device=pairs.device)
        order = _orders(pairs, n_wires)  # (B, T, n)
        self.moves: list[Tensor] = []
        before = place.expand(len(pairs), size)
        for t in range(pairs.shape[1]):
            # Bit i of the place, from the most significant, is the bit of wire order[i] in the index.
            index = torch.zeros(len(pairs), size, dtype=torch.long, device=pairs.device)
            for position in range(n_wires):
                bit = (place >> (n_wires - 1 - position)) & 1
                index += bit << (n_wires - 1 - order[:, t, position, None])
            self.moves.append(_inverse(before).gather(1, index))
            before = index
        self.last = before
        self._back: list[Tensor] | None = None

    @property
    def back(self) -> list[Tensor]:
        """T tables (B or 1, 2 ** (n_wires + 1)) that take two states from behind a block's move to before it.

        Behind the move the states stand as [bits of the two wires][which state][other bits], before it in the same
        order with the two wires of the block before (of the first block: with wires 0 and 1).
        """
        if self._back is None:
            rest = self._size // 4
            place = torch.arange(2 * self._size, device=self.last.device)
            which = (place // rest) % 2
            alone = (place // (2 * rest)) * rest + place % rest  # the place of the amplitude among those of its state
            self._back = []
            for move in self.moves:
                source = _inverse(move)[:, alone]
                self._back.append((source // rest * 2 + which) * rest + source % rest)
        return self._back


def _inverse(tables: Tensor) -> Tensor:
    """The inverse permutations of rows."""
    place = torch.arange(tables.shape[1], device=tables.device).expand_as(tables)
    return torch.empty_like(tables, memory_format=torch.contiguous_format).scatter_(1, tables, place.contiguous())


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
    return torch.bmm(matrices, states.view(len(states), 4, -1)).view(states.shape)


class _Overlap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, targets: Tensor, starts: Tensor, matrices: Tensor, layouts: Layouts) -> Tensor:
        states = starts
        for matrix, move in zip(matrices.unbind(1), layouts.moves):
            states = _times(matrix, _moved(states, move))
        laid = _moved(targets, layouts.last)
        ctx.save_for_backward(laid, states, matrices)
        ctx.layouts = layouts
        return (laid.conj() * states).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, Tensor, Tensor, None]:
        laid, states, matrices = ctx.saved_tensors
        n_states, size = states.shape
        weight = cotangents[0]
        if not ctx.layouts.moves:
            return None, weight[:, None] * laid, torch.zeros_like(matrices), None
        both = torch.stack((laid.view(-1, 4, size // 4), states.view(-1, 4, size // 4)), 2)
        inverses = matrices.mH.resolve_conj().contiguous().unbind(1)
        found = []
        for inverse, back in zip(reversed(inverses), reversed(ctx.layouts.back)):
            targets = both.view(n_states, 4, 2, -1)[:, :, 0]
            before = torch.bmm(inverse, both.view(n_states, 4, -1))
            # overlap = <target| M |before>, so that its derivative in conj(M) is target times before^dagger.
            found.append(torch.bmm(targets, before.view(n_states, 4, 2, -1)[:, :, 1].mH))
            both = before.view(n_states, -1).gather(1, back.expand(n_states, -1))
        slopes = weight[:, None, None, None] * torch.stack(found[::-1], 1)
        start = both.view(n_states, 4, 2, -1)[:, :, 0].reshape(n_states, -1)
        return None, weight[:, None] * start, slopes, None


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
    out = _Overlap.apply(targets, starts, matrices, layouts)
    assert isinstance(out, Tensor)
    return out


def apply_blocks(states: Tensor, matrices: Tensor, layouts: Layouts) -> Tensor:
    """The states behind all blocks, in the usual order of amplitudes: (B, 2 ** n). Differentiable by torch."""
    for matrix, move in zip(matrices.unbind(1), layouts.moves):
        states = _times(matrix, _moved(states, move))
    return _moved_back(states, layouts.last)


def product_vectors(wires: Tensor) -> Tensor:
    """Kronecker products: (B, n, 2) amplitudes of each wire to (B, 2 ** n)."""
    total = wires[:, 0]
    for wire in range(1, wires.shape[1]):
        total = (total[:, :, None] * wires[:, wire, None, :]).flatten(1)
    return total
