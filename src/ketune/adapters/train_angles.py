"""Angles of all circuits of an adapter from one tensor train (TensorHyper-VQC): a few cores instead of many angles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from ketune.adapters.update import lifted
from ketune.tensor_networks import balanced_modes, contract_train

N_MODES = 4


def train_shapes(n_angles: int, max_rank: int) -> list[tuple[int, int, int]]:
    """The shapes (R_k, n_k, R_k+1) of the cores of a vector of so many angles; none for no angles."""
    if n_angles == 0:
        return []
    modes = [mode for mode in balanced_modes(n_angles, N_MODES) if mode > 1] or [1]
    inner = [min(max_rank, math.prod(modes[:k]), math.prod(modes[k:])) for k in range(1, len(modes))]
    ranks = [1, *inner, 1]
    return list(zip(ranks, modes, ranks[1:]))


def train_count(n_angles: int, max_rank: int) -> int:
    """Entries of all these cores."""
    return sum(math.prod(shape) for shape in train_shapes(n_angles, max_rank))


class TrainAngles(nn.Module):
    """What one tensor train adds to the angles of every circuit of an adapter; exactly zero at the start.

    The angles of all layers, one after another, are one vector in tensor-train form: the latent form of TensorHyper-VQC
    (Qi et al., npj Quantum Information 2026, arXiv 2508.01116), whose fixed input a constant vector folds into the
    first core. The last core starts at zero, so that the train emits zeros, and its gradients move it from the first
    step; the others are drawn so that they pass variance on.

    Args:
        n_angles: angles of each circuit, in the order of the layers.
        max_rank: largest rank of the train.
        moved: start away from zero.
    """

    def __init__(self, n_angles: Sequence[int], max_rank: int, moved: bool = False) -> None:
        super().__init__()
        self.ends = [0, *accumulate(n_angles)]
        shapes = train_shapes(self.ends[-1], max_rank)
        self.cores = nn.ParameterList(torch.empty(shape) for shape in shapes)
        for core, (left, _, _) in zip(self.cores, shapes):
            nn.init.normal_(core, std=left**-0.5)
        if shapes and not moved:
            nn.init.zeros_(self.cores[-1])

    def forward(self, index: int) -> Tensor:
        """What is added to the angles of layer `index`, (n_angles,), in float32 or better."""
        first, last = self.ends[index : index + 2]
        whole = contract_train([lifted(core) for core in self.cores]).flatten()
        return whole[first:last]
