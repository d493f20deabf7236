"""Matrices as tensor trains (matrix product operators): a linear map of any width from a few small cores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ketune.tensor_networks.modes import balanced_modes
from ketune.tensor_networks.tensor_train import contract_train, decompose_tensor

N_MODES = 4
"""Number of modes unless others are asked for."""

BIASES = ("none", "scalar", "vector")
"""Kinds of bias of `TrainLinear`."""

INITS = ("doubling", "variance")
"""Ways to draw the cores of `TrainLinear`."""

# Measured by benchmarks/tensor_train.py, forward and backward: a multiplication in the small products of a chain takes
# 3 to 8 times as long as one in a large product, and making the matrix as long as multiplying 50 to 100 vectors by it.
_CHAIN = 4
_MAKING = 80


@dataclass(frozen=True)
class TrainMatrix:
    """The shape of a matrix in tensor-train form. It holds no tensors; the cores are passed in.

    With mixed-radix digits i = (i_1, ..., i_d) of the column and o = (o_1, ..., o_d) of the row, the first digit most
    significant, `W[o, i] = G_1[:, o_1, i_1, :] G_2[:, o_2, i_2, :] ... G_d[:, o_d, i_d, :]`. Where the modes multiply
    to more than a width, inputs are padded with zeros on the right and outputs are cut.

    Args:
        out_features: number of rows.
        in_features: number of columns.
        out_modes: (o_1, ..., o_d), product at least `out_features`.
        in_modes: (i_1, ..., i_d), product at least `in_features`.
        ranks: (R_1, ..., R_{d+1}), the outer two 1.

    Attributes:
        core_shapes: (R_k, o_k, i_k, R_{k+1}) of each core.
        n_parameters: number of entries of all cores.

    Raises:
        ValueError: for modes that do not hold the widths, or ranks that are too many, below 1, or larger than what the
            modes on either side can use.

    Example:
        >>> shape = TrainMatrix.balanced(256, 3584, max_rank=8)
        >>> shape.in_modes, shape.out_modes, shape.ranks, shape.n_parameters
        ((8, 8, 8, 7), (4, 4, 4, 4), (1, 8, 8, 8, 1), 4576)
    """

    out_features: int
    in_features: int
    out_modes: tuple[int, ...]
    in_modes: tuple[int, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("out_modes", "in_modes", "ranks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for width, modes in ((self.out_features, self.out_modes), (self.in_features, self.in_modes)):
            if width < 1 or min(modes, default=0) < 1 or math.prod(modes) < width:
                raise ValueError(f"modes {modes} do not hold a width of {width}: their product must be at least that")
        n = len(self.in_modes)
        if len(self.out_modes) != n or len(self.ranks) != n + 1 or self.ranks[0] != 1 or self.ranks[-1] != 1:
            raise ValueError(
                f"{n} input modes, {len(self.out_modes)} output modes and ranks {self.ranks}: give as many output as "
                "input modes and one rank more, the first and the last of them 1"
            )
        sizes = [o * i for o, i in zip(self.out_modes, self.in_modes)]
        for k, rank in enumerate(self.ranks[1:-1], 1):
            most = min(self.ranks[k - 1] * sizes[k - 1], sizes[k] * self.ranks[k + 1])
            if not 1 <= rank <= most:
                raise ValueError(f"ranks={self.ranks}: rank {k} may be 1 to {most} between its neighbours")

    @classmethod
    def from_modes(
        cls, out_features: int, in_features: int, out_modes: Sequence[int], in_modes: Sequence[int], max_rank: int
    ) -> TrainMatrix:
        """The shape with these modes whose ranks are `max_rank`, or what the modes on either side can use.

        Places where both modes are 1 are left out. Arguments and errors as for the class.
        """
        if len(out_modes) != len(in_modes) or max_rank < 1:
            raise ValueError(f"out_modes={out_modes}, in_modes={in_modes}, max_rank={max_rank}: as many modes, rank 1+")
        pairs = [pair for pair in zip(out_modes, in_modes) if pair != (1, 1)] or [(1, 1)]
        sizes = [o * i for o, i in pairs]
        inner = [min(max_rank, math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, len(sizes))]
        outs, ins = zip(*pairs)
        return cls(out_features, in_features, outs, ins, (1, *inner, 1))

    @classmethod
    def balanced(cls, out_features: int, in_features: int, max_rank: int, n_modes: int = N_MODES) -> TrainMatrix:
        """The shape with modes from `balanced_modes`."""
        outs, ins = balanced_modes(out_features, n_modes), balanced_modes(in_features, n_modes)
        return cls.from_modes(out_features, in_features, outs, ins, max_rank)

    @property
    def core_shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        return tuple(zip(self.ranks, self.out_modes, self.in_modes, self.ranks[1:]))

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.core_shapes)

    @property
    def n_multiplications(self) -> int:
        """Multiplications of `apply` for one vector."""
        total, done, rest = 0, 1, math.prod(self.in_modes)
        for left, out, size, right in self.core_shapes:
            rest //= size
            total += done * rest * left * size * out * right
            done *= out
        return total

    @property
    def transposed(self) -> TrainMatrix:
        """The shape of the transposed matrix; its cores are those of `transpose_cores`."""
        return TrainMatrix(self.in_features, self.out_features, self.in_modes, self.out_modes, self.ranks)

    def apply(self, cores: Sequence[Tensor], x: Tensor) -> Tensor:
        """Multiply vectors by the matrix, core after core, without ever making the matrix.

        Args:
            cores: in the shapes of `core_shapes`.
            x: (..., in_features), in the dtype of the cores.

        Returns:
            (..., out_features).
        """
        lead = x.shape[:-1]
        first, *later = self.in_modes
        rows, rest = math.prod(lead), math.prod(later)
        state = F.pad(x, (0, first * rest - self.in_features))
        # What a core contracts, (R_k, i_k), is always last, so that each core is one product of two matrices: (modes
        # still to come, vectors, outputs so far) by (outputs of this core, R_{k+1}).
        state = state.reshape(rows, first, rest).permute(2, 0, 1)
        for core, (left, out, size, right), coming in zip(cores, self.core_shapes, [*later, 1]):
            state = state.reshape(-1, left * size) @ core.permute(0, 2, 1, 3).reshape(left * size, out * right)
            rows, rest = rows * out, rest // coming
            state = state.reshape(coming, rest, rows, right).permute(1, 2, 3, 0)
        return state.reshape(*lead, math.prod(self.out_modes))[..., : self.out_features]

    def dense(self, cores: Sequence[Tensor]) -> Tensor:
        """The matrix itself, (out_features, in_features)."""
        return contract_matrix(cores)[: self.out_features, : self.in_features]

    def decompose(self, matrix: Tensor) -> list[Tensor]:
        """Cores of this shape whose matrix is near `matrix` (out_features, in_features), by TT-SVD.

        Ranks that the matrix does not need are filled with zeros. Error bound as in `decompose_tensor`.

        Raises:
            ValueError: for a matrix of another shape.
        """
        if matrix.shape != (self.out_features, self.in_features):
            raise ValueError(
                f"matrix of shape {tuple(matrix.shape)}; this train has ({self.out_features}, {self.in_features})"
            )
        n = len(self.in_modes)
        margins = (math.prod(self.in_modes) - self.in_features, math.prod(self.out_modes) - self.out_features)
        whole = F.pad(matrix, (0, margins[0], 0, margins[1])).reshape(*self.out_modes, *self.in_modes)
        whole = whole.permute([axis for k in range(n) for axis in (k, n + k)])
        found = decompose_tensor(
            whole.reshape([o * i for o, i in zip(self.out_modes, self.in_modes)]), self.ranks[1:-1]
        )
        cores = []
        for core, (left, out, size, right) in zip(found, self.core_shapes):
            filled = core.new_zeros(left, out * size, right)
            filled[: core.shape[0], :, : core.shape[2]] = core
            cores.append(filled.reshape(left, out, size, right))
        return cores


def contract_matrix(cores: Sequence[Tensor]) -> Tensor:
    """The matrix of cores (R_k, o_k, i_k, R_{k+1}), with all its padding: (o_1 o_2 ..., i_1 i_2 ...)."""
    n = len(cores)
    whole = contract_train([core.reshape(core.shape[0], -1, core.shape[3]) for core in cores])
    whole = whole.reshape([size for core in cores for size in core.shape[1:3]])
    whole = whole.permute(*range(0, 2 * n, 2), *range(1, 2 * n, 2))
    return whole.reshape(math.prod([core.shape[1] for core in cores]), -1)


def transpose_cores(cores: Sequence[Tensor]) -> list[Tensor]:
    """The cores of the transposed matrix, views of the given ones."""
    return [core.transpose(1, 2) for core in cores]


def count_bias(bias: str, out_features: int) -> int:
    """Number of parameters of a bias."""
    return {"none": 0, "scalar": 1, "vector": out_features}[bias]


class TrainLinear(nn.Module):
    """A linear map whose matrix is a tensor train.

    It multiplies core after core, or makes the matrix and multiplies by that, whichever takes less time. A path that
    opt_einsum finds (`torch.einsum` takes it where that package is installed) lies between the two: two to four times
    slower than the cores for few vectors, slower than the matrix for many, so there is no third way.
    `benchmarks/tensor_train.py` times all three.

    Args:
        shape: of the train.
        bias: "none", "scalar" (one number added to every output, as in the released TTN-VQC code) or "vector".
        init: "doubling" draws cores from normal distributions of variance 2 / (R_k i_k), so that the output has 2^d
            times the variance of the input; "variance" draws them so that inputs of variance 1 give outputs of
            variance 1, whatever the ranks, the number of cores and the padding. Biases start at 0.

    Attributes:
        cores: trainable, in the shapes of `shape.core_shapes`.
        bias: trainable, (1,) or (out_features,), or None.

    Raises:
        ValueError: for an unknown bias or init.

    Example:
        >>> import torch
        >>> layer = TrainLinear(TrainMatrix.balanced(30, 40, max_rank=4))
        >>> layer(torch.randn(7, 40)).shape
        torch.Size([7, 30])
    """

    def __init__(self, shape: TrainMatrix, bias: str = "none", init: str = "doubling") -> None:
        super().__init__()
        if bias not in BIASES:
            raise ValueError(f"TrainLinear(bias={bias!r}): choose one of {', '.join(map(repr, BIASES))}")
        if init not in INITS:
            raise ValueError(f"TrainLinear(init={init!r}): choose one of {', '.join(map(repr, INITS))}")
        self.shape, self.init = shape, init
        self.cores = nn.ParameterList(torch.empty(core) for core in shape.core_shapes)
        self.bias = None if bias == "none" else nn.Parameter(torch.empty(count_bias(bias, shape.out_features)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the cores anew and sets the bias to zero."""
        # The variance of an entry is the product of those of the cores and the inner ranks; padding adds no input.
        padding = math.prod(self.shape.in_modes) / self.shape.in_features
        gain = 2.0 if self.init == "doubling" else padding ** (1 / len(self.shape.in_modes))
        for core, (left, _, size, _) in zip(self.cores, self.shape.core_shapes):
            core.normal_(std=math.sqrt(gain / (left * size)), generator=generator)
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if self.prefers_dense(x.numel() // max(1, x.shape[-1])):
            out = F.linear(x, self.dense())
        else:
            out = self.shape.apply(list(self.cores), x)
        return out if self.bias is None else out + self.bias

    def dense(self) -> Tensor:
        """The matrix (out_features, in_features)."""
        return self.shape.dense(list(self.cores))

    def prefers_dense(self, n_vectors: int) -> bool:
        """The cost model: whether to make the matrix once and multiply by it, rather than go core by core."""
        shape = self.shape
        dense = shape.out_features * shape.in_features
        return n_vectors * (_CHAIN * shape.n_multiplications - dense) > _MAKING * dense

    def extra_repr(self) -> str:
        """What print() shows."""
        shape = self.shape
        return f"in_modes={shape.in_modes}, out_modes={shape.out_modes}, ranks={shape.ranks}"
