"""Encoders from many features to one number per wire: a tensor train, principal components, a dense layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ketune.tensor_networks import TrainLinear, TrainMatrix, balanced_modes
from ketune.tensor_networks.train_matrix import count_bias

ACTIVATIONS = ("none", "relu")
"""What may follow the train of `TTReducer`."""


class TTReducer(nn.Module):
    """A tensor-train layer down to the wires: the encoder of TTN-VQC, where TTN means tensor *train* network.

    Starts so that inputs of variance 1 give outputs of variance 1. The released code draws cores by Xavier's rule and
    has a ReLU behind the train, which leaves half of the angles at one value; "none" is our default.

    Args:
        n_features: length of the input.
        n_outputs: number of outputs, one per wire.
        in_modes: modes of the input, product at least `n_features`, such as (7, 16, 7) for 28 x 28 pixels row by row;
            by default as equal as they come.
        out_modes: modes of the output, such as (2, 2, 2); by default as equal as they come.
        max_rank: ranks of the inner bonds.
        n_modes: number of modes where none are given.
        bias: "scalar" (released code), "vector" or "none".
        activation: "none" or "relu".
        generator: draws the cores.

    Raises:
        ValueError: for modes that do not hold the widths, or an unknown bias or activation.

    Example:
        >>> reducer = TTReducer(784, 8, (7, 16, 7), (2, 2, 2), max_rank=3)
        >>> sum(p.numel() for p in reducer.parameters())  # of the npj paper: 372 + 1
        373
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        in_modes: Sequence[int] | None = None,
        out_modes: Sequence[int] | None = None,
        *,
        max_rank: int = 3,
        n_modes: int = 3,
        bias: str = "scalar",
        activation: str = "none",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r}: choose one of {', '.join(map(repr, ACTIVATIONS))}")
        self.activation = activation
        shape = _shape(n_features, n_outputs, in_modes, out_modes, max_rank, n_modes)
        self.train_layer = TrainLinear(shape, bias, "variance")
        self.train_layer.reset_parameters(generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_features) to (..., n_outputs)."""
        out = self.train_layer(x)
        return out.relu() if self.activation == "relu" else out

    @staticmethod
    def count_parameters(
        n_features: int,
        n_outputs: int,
        in_modes: Sequence[int] | None = None,
        out_modes: Sequence[int] | None = None,
        *,
        max_rank: int = 3,
        n_modes: int = 3,
        bias: str = "scalar",
    ) -> int:
        """Number of parameters; arguments as for the class."""
        shape = _shape(n_features, n_outputs, in_modes, out_modes, max_rank, n_modes)
        return shape.n_parameters + count_bias(bias, n_outputs)


def _shape(
    n_features: int,
    n_outputs: int,
    in_modes: Sequence[int] | None,
    out_modes: Sequence[int] | None,
    max_rank: int,
    n_modes: int,
) -> TrainMatrix:
    given = in_modes or out_modes
    n_modes = n_modes if given is None else len(given)
    ins = balanced_modes(n_features, n_modes) if in_modes is None else tuple(in_modes)
    outs = balanced_modes(n_outputs, n_modes) if out_modes is None else tuple(out_modes)
    return TrainMatrix.from_modes(n_outputs, n_features, outs, ins, max_rank)


class PCAReducer(nn.Module):
    """The leading principal components of training rows, scaled to variance 1: an encoder without parameters.

    Fitted once, here, on the rows that it is given, and the same for every row after that; give it training rows only.
    (The baselines of the released code fit anew on every mini-batch, and on the test rows.)

    Args:
        rows: (n, n_features) training rows.
        n_outputs: number of components, at most as many as rows or features.

    Raises:
        ValueError: for more components than the rows can have.

    Example:
        >>> PCAReducer(torch.randn(50, 10), 3)(torch.randn(5, 10)).shape
        torch.Size([5, 3])
    """

    mean: Tensor
    components: Tensor

    def __init__(self, rows: Tensor, n_outputs: int) -> None:
        super().__init__()
        if rows.ndim != 2 or not 1 <= n_outputs <= min(rows.shape[0] - 1, rows.shape[1]):
            raise ValueError(
                f"PCAReducer(rows of shape {tuple(rows.shape)}, {n_outputs}): pass (n, n_features) rows, more of them "
                "than components, and at most as many components as features"
            )
        mean = rows.double().mean(0)
        _, singular, directions = torch.linalg.svd(rows.double() - mean, full_matrices=False)
        deviations = singular[:n_outputs] / (len(rows) - 1) ** 0.5
        directions = directions[:n_outputs]
        # The largest entry of each direction is positive, so that the same rows always give the same components.
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        scale = largest.sign() / deviations.clamp_min(1e-12)[:, None]
        self.register_buffer("mean", mean.to(rows.dtype))
        self.register_buffer("components", (directions * scale).to(rows.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_features) to (..., n_outputs), of variance 1 over the rows it was fitted on."""
        return (x - self.mean) @ self.components.T


class DenseReducer(nn.Linear):
    """A dense layer down to the wires, which starts as `TTReducer` does: variance 1 in, variance 1 out.

    Args:
        n_features: length of the input.
        n_outputs: number of outputs.
        generator: draws the weights.

    Example:
        >>> DenseReducer(64, 8)(torch.randn(5, 64)).shape
        torch.Size([5, 8])
    """

    def __init__(self, n_features: int, n_outputs: int, generator: torch.Generator | None = None) -> None:
        super().__init__(n_features, n_outputs)
        with torch.no_grad():
            self.weight.normal_(std=n_features**-0.5, generator=generator)
            self.bias.zero_()
