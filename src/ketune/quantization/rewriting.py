"""Weights rewritten in place, in float64, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ketune.quantization.schemes import QuantizationError

PIECE = 1 << 24
"""Numbers that are in float64 at once (128 MiB)."""


def rewrite_rows(weight: Tensor, function: Callable[[Tensor], Tensor]) -> None:
    """Replace the rows of `weight` by `function(rows)`, computed in float64.

    Args:
        weight: (rows, width) or (width,), a view if wished (`weight.mT` for columns); changed in place.
        function: (some rows, width) in float64 to the same shape.
    """
    rows = weight.detach()
    rows = rows[None] if rows.ndim == 1 else rows
    with torch.no_grad():
        for piece in rows.split(max(1, PIECE // rows.shape[1])):
            piece.copy_(function(piece.double()))


def linear_with_weight(model: nn.Module, name: str) -> nn.Linear:
    """The linear layer of this name, if its weight can be written into.

    Raises:
        QuantizationError: If it holds codes instead.
    """
    linear = model.get_submodule(name)
    if not isinstance(linear, nn.Linear) or linear._parameters.get("weight") is None:
        raise QuantizationError(
            f"{name} is a {type(linear).__name__} without a weight to change; fuse norms and rotate before the model "
            "is converted, or dequantize_(model) first"
        )
    return linear
