"""Vectors as tensor trains: any number of trainable values from a few small cores, without an input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ketune.tensor_networks.modes import balanced_modes
from ketune.tensor_networks.tensor_train import contract_train, decompose_tensor


class TrainVector(nn.Module):
    """A trainable vector in tensor-train form: `v[(i_1 ... i_d)] = G_1[:, i_1, :] ... G_d[:, i_d, :]`.

    Where the modes multiply to more than `size`, the vector is cut.

    Args:
        size: length of the vector.
        max_rank: ranks of the inner bonds, or less where the modes on either side cannot use as much.
        modes: (n_1, ..., n_d), product at least `size`; by default `balanced_modes(size, n_modes)`.
        n_modes: number of modes where none are given.
        std: standard deviation of the entries at the start, exactly that of the distribution they are drawn from.
        generator: draws the cores; torch's default generator when None.

    Attributes:
        cores: trainable, (R_k, n_k, R_{k+1}).

    Raises:
        ValueError: for modes that do not hold the vector, ranks below 1 or a negative `std`.

    Example:
        >>> vector = TrainVector(360, max_rank=3)
        >>> vector.modes, vector().shape, TrainVector.count_parameters(360, 3)
        ((6, 5, 4, 3), torch.Size([360]), 108)
    """

    def __init__(
        self,
        size: int,
        max_rank: int,
        modes: Sequence[int] | None = None,
        *,
        n_modes: int = 4,
        std: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if std < 0:
            raise ValueError(f"TrainVector(std={std}): a standard deviation is 0 or more")
        self.size = size
        self.modes, self.ranks = _shape(size, max_rank, modes, n_modes)
        self.std = std
        shapes = zip(self.ranks, self.modes, self.ranks[1:])
        self.cores = nn.ParameterList(torch.empty(shape) for shape in shapes)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the cores anew."""
        for core in self.cores:
            core.normal_(std=self.std ** (1 / len(self.modes)) / math.sqrt(core.shape[0]), generator=generator)

    @torch.no_grad()
    def fit(self, vector: Tensor) -> None:
        """Sets the cores to those of the train nearest to a vector (size,), by TT-SVD.

        Raises:
            ValueError: for a vector of another length.
        """
        if vector.shape != (self.size,):
            raise ValueError(f"TrainVector.fit: a vector of shape {tuple(vector.shape)}; this train has ({self.size},)")
        padded = vector.new_zeros(math.prod(self.modes))
        padded[: self.size] = vector
        found = decompose_tensor(padded.reshape(self.modes), self.ranks[1:-1])
        for core, new in zip(self.cores, found):
            core.zero_()
            core[: new.shape[0], :, : new.shape[2]] = new

    def forward(self) -> Tensor:
        """The vector (size,)."""
        return contract_train(list(self.cores)).flatten()[: self.size]

    @staticmethod
    def count_parameters(size: int, max_rank: int, modes: Sequence[int] | None = None, *, n_modes: int = 4) -> int:
        """Number of entries of all cores; arguments as for the class."""
        sizes, ranks = _shape(size, max_rank, modes, n_modes)
        return sum(left * n * right for left, n, right in zip(ranks, sizes, ranks[1:]))

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"size={self.size}, modes={self.modes}, ranks={self.ranks}"


def _shape(
    size: int, max_rank: int, modes: Sequence[int] | None, n_modes: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    chosen = balanced_modes(size, n_modes) if modes is None else tuple(modes)
    if size < 1 or max_rank < 1 or min(chosen, default=0) < 1 or math.prod(chosen) < size:
        raise ValueError(
            f"TrainVector(size={size}, max_rank={max_rank}, modes={chosen}): size and rank at least 1, and modes whose "
            "product is at least the size"
        )
    chosen = tuple(mode for mode in chosen if mode > 1) or (1,)
    inner = [min(max_rank, math.prod(chosen[:k]), math.prod(chosen[k:])) for k in range(1, len(chosen))]
    return chosen, (1, *inner, 1)
