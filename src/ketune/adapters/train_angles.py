"""Angles of all circuits of an adapter from one tensor train (TensorHyper-VQC): a few cores instead of many angles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor, nn

from ketune.adapters.update import lifted
from ketune.tensor_networks import TrainVector, contract_train


class TrainAngles(nn.Module):
    """What one tensor train adds to the angles of every circuit of an adapter; exactly zero at the start.

    The angles of all layers, one after another, are one vector in tensor-train form: the latent form of TensorHyper-VQC
    (Qi et al., npj Quantum Information 2026, arXiv 2508.01116), whose fixed input a constant vector folds into the
    first core. The last core starts at zero, so that the train emits zeros, and its gradients move it from the first
    step. `ketune.vqc.AngleHypernet` has the other forms, for circuits outside of language models.

    Args:
        n_angles: angles of each circuit, in the order of the layers; at least one in all.
        max_rank: largest rank of the train.
        moved: start away from zero.
    """

    def __init__(self, n_angles: Sequence[int], max_rank: int, moved: bool = False) -> None:
        super().__init__()
        self.ends = [0, *accumulate(n_angles)]
        self.vector = TrainVector(self.ends[-1], max_rank)
        if not moved:
            nn.init.zeros_(self.vector.cores[-1])

    def forward(self, index: int) -> Tensor:
        """What is added to the angles of layer `index`, (n_angles,), in float32 or better."""
        first, last = self.ends[index : index + 2]
        return contract_train([lifted(core) for core in self.vector.cores]).flatten()[first:last]
