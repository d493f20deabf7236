"""`TrainState`: a quantum state of many wires as a tensor train (matrix product state), and gates on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ketune.tensor_networks.tensor_train import contract_train, decompose_tensor


class TrainState:
    """A state as a chain of cores, one for each wire, all but one of them isometries.

    Gates on two wires that are not neighbours bring the wires together by swaps and back again. Each gate cuts the
    smallest singular values off and makes the state a unit vector again; `lost` adds up what was cut.

    Args:
        cores: of each wire (left bond, 2, right bond), outer bonds 1, complex; of a unit vector in any gauge.
        max_bond: largest bond that gates leave.
        cutoff: singular values whose squares add up to less are cut.

    Attributes:
        cores: the cores now.
        lost: sum over gates of the weight that was cut; the infidelity with the exact result is about this much.

    Raises:
        ValueError: for cores that are no train of two-dimensional wires.
    """

    def __init__(self, cores: Sequence[Tensor], max_bond: int = 64, cutoff: float = 1e-12) -> None:
        shapes = [tuple(core.shape) for core in cores]
        meet = all(left[2:] == right[:1] for left, right in pairwise(shapes))
        if not cores or any(len(shape) != 3 or shape[1] != 2 for shape in shapes) or not meet:
            raise ValueError(f"cores of shapes {shapes} are no state: each is (left bond, 2, right bond)")
        if shapes[0][0] != 1 or shapes[-1][2] != 1:
            raise ValueError(f"cores of shapes {shapes} are no state: the outer bonds are 1")
        self.cores = [core.to(torch.promote_types(core.dtype, torch.complex64)) for core in cores]
        self.max_bond, self.cutoff, self.lost = max_bond, cutoff, 0.0
        self._centre = len(cores) - 1
        for wire in range(len(cores) - 1):
            self._push_right(wire)
        self.cores[-1] = self.cores[-1] / torch.linalg.vector_norm(self.cores[-1])

    @classmethod
    def from_vector(cls, vector: Tensor, max_bond: int = 64, cutoff: float = 1e-12) -> TrainState:
        """The train of a unit vector of 2 ** n_wires amplitudes, cut to the bond."""
        n_wires = vector.numel().bit_length() - 1
        if vector.ndim != 1 or vector.numel() != 2**n_wires or n_wires < 1:
            raise ValueError(f"the vector has shape {tuple(vector.shape)}; a state has 2 ** n_wires amplitudes")
        return cls(decompose_tensor(vector.view((2,) * n_wires), max_ranks=max_bond), max_bond, cutoff)

    @classmethod
    def product(cls, wires: Tensor, max_bond: int = 64, cutoff: float = 1e-12) -> TrainState:
        """The product of the (n_wires, 2) amplitudes of each wire."""
        return cls([wire.view(1, 2, 1) for wire in wires], max_bond, cutoff)

    @property
    def n_wires(self) -> int:
        """Number of wires."""
        return len(self.cores)

    @property
    def bonds(self) -> list[int]:
        """The inner bonds, from left to right."""
        return [core.shape[2] for core in self.cores[:-1]]

    def copy(self) -> TrainState:
        """A state of its own; the cores are shared until either is changed."""
        other = object.__new__(TrainState)
        other.__dict__ |= self.__dict__ | {"cores": list(self.cores)}
        return other

    def to_vector(self) -> Tensor:
        """All 2 ** n_wires amplitudes."""
        return contract_train(self.cores).flatten()

    def apply(self, matrix: Tensor, first: int, second: int) -> None:
        """A 4 x 4 unitary on two wires, of which `first` is the more significant bit of the matrix.

        Raises:
            ValueError: for wires that are not two different ones of the state.
        """
        if first == second or not all(0 <= wire < self.n_wires for wire in (first, second)):
            raise ValueError(f"wires {(first, second)}: take two different ones of 0..{self.n_wires - 1}")
        gate = matrix.to(self.cores[0].dtype).view(2, 2, 2, 2)
        left, right = min(first, second), max(first, second)
        if first > second:
            gate = gate.permute(1, 0, 3, 2)
        for wire in range(right - 1, left, -1):
            self._merge(wire, None)
        self._merge(left, gate)
        for wire in range(left + 1, right):
            self._merge(wire, None)

    def overlap(self, other: TrainState) -> Tensor:
        """<self|other>."""
        total = self.cores[0].new_ones(1, 1)
        for mine, theirs in zip(self.cores, other.cores):
            total = torch.einsum("ab,asc,bsd->cd", total, mine.conj(), theirs)
        return total[0, 0]

    def _merge(self, wire: int, gate: Tensor | None) -> None:
        """A gate, or a swap, on a wire and the next one."""
        self._move_centre(wire if self._centre <= wire else wire + 1)
        left, right = self.cores[wire], self.cores[wire + 1]
        pair = torch.einsum("asb,btc->astc", left, right)
        pair = pair.transpose(1, 2) if gate is None else torch.einsum("uvst,astc->auvc", gate, pair)
        rows, columns = left.shape[0], right.shape[2]
        u, s, v = _svd(pair.reshape(2 * rows, 2 * columns))
        weights = s.square()
        whole = weights.sum()
        tail = weights.flip(0).cumsum(0).flip(0)
        kept = max(1, min(self.max_bond, int((tail > self.cutoff * whole).sum())))
        self.lost += float(tail[kept] / whole) if kept < len(s) else 0.0
        s = s[:kept] / torch.linalg.vector_norm(s[:kept])
        self.cores[wire] = u[:, :kept].reshape(rows, 2, kept)
        self.cores[wire + 1] = (s[:, None] * v[:kept]).reshape(kept, 2, columns)
        self._centre = wire + 1

    def _move_centre(self, wire: int) -> None:
        while self._centre < wire:
            self._push_right(self._centre)
            self._centre += 1
        while self._centre > wire:
            core = self.cores[self._centre]
            q, r = torch.linalg.qr(core.flatten(1).mH)
            self.cores[self._centre] = q.mH.reshape(-1, 2, core.shape[2])
            self.cores[self._centre - 1] = torch.einsum("asb,bc->asc", self.cores[self._centre - 1], r.mH)
            self._centre -= 1

    def _push_right(self, wire: int) -> None:
        core = self.cores[wire]
        q, r = torch.linalg.qr(core.flatten(0, 1))
        self.cores[wire] = q.reshape(core.shape[0], 2, -1)
        self.cores[wire + 1] = torch.einsum("ab,bsc->asc", r, self.cores[wire + 1])


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    try:
        return torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:  # the fast driver fails on a few matrices; its transpose nearly never does
        u, s, v = torch.linalg.svd(matrix.mH, full_matrices=False)
        return v.mH, s, u.mH
