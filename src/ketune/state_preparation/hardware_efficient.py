"""Circuits of a fixed layout, trained from a random start: the baseline that has no step 1."""

from __future__ import annotations

import torch

from ketune.state_preparation.blocks import block_of
from ketune.state_preparation.errors import LoadingError
from ketune.state_preparation.pair_circuit import PairCircuit


def hardware_efficient(
    n_wires: int, n_blocks: int, *, block: str = "cz", scale: float = 0.1, seed: int = 0
) -> PairCircuit:
    """A brickwork of blocks on neighbouring wires, with normal random angles; `polish` trains it.

    Args:
        n_wires: number of wires.
        n_blocks: blocks, laid in layers on pairs that start with even and with odd wires in turn.
        block: kind of block.
        scale: standard deviation of the angles; near zero all gradients are large, also on many wires.
        seed: of the angles.

    Raises:
        LoadingError: for fewer than 0 blocks, blocks on one wire, or an unknown block.

    Example:
        >>> from ketune.state_preparation import hardware_efficient
        >>> hardware_efficient(4, 5).pairs
        ((0, 1), (2, 3), (1, 2), (0, 1), (2, 3))
    """
    if n_blocks < 0 or (n_wires < 2 and n_blocks):
        raise LoadingError(f"{n_blocks} blocks on {n_wires} wires: take at least 0 blocks, and 2 wires for any")
    layers = [[(wire, wire + 1) for wire in range(first, n_wires - 1, 2)] for first in (0, 1)]
    round_ = layers[0] + layers[1]
    pairs = tuple(round_[number % len(round_)] for number in range(n_blocks))
    kind, generator = block_of(block), torch.Generator().manual_seed(seed)
    start = scale * torch.randn(n_wires, len(kind.start), generator=generator, dtype=torch.float64)
    angles = scale * torch.randn(n_blocks, kind.n_angles, generator=generator, dtype=torch.float64)
    return PairCircuit(n_wires, block, pairs, start, angles)
