"""A linear map that is zero but for a few entries, whose training keeps no dense matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


def sparse_linear(x: torch.Tensor, values: torch.Tensor, index: torch.Tensor, out_features: int) -> torch.Tensor:
    """`x -> x S^T` for a matrix S with given entries.

    S is made for each product and let go, on the way back too, where its gradient is read off at the entries alone:
    beside a quantised layer nothing of the size of its weight stays in memory. Dense products are what GPUs and BLAS
    are fast at; S is sparse in what trains, is stored and is kept for the way back.

    Args:
        x: (..., in_features).
        values: (n,) the entries, in the dtype of x.
        index: (n,) int32, different: row * in_features + column of each.
        out_features: Rows of S.

    Returns:
        (..., out_features).
    """
    return _SparseLinear.apply(x, values, index, out_features)  # pyright: ignore[reportReturnType]


def scattered(values: torch.Tensor, index: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """The matrix S itself, of this shape."""
    return values.new_zeros(shape[0] * shape[1]).index_copy(0, index.long(), values).view(shape)


class _SparseLinear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, values: torch.Tensor, index: torch.Tensor, out_features: int) -> torch.Tensor:
        return F.linear(x, scattered(values, index, (out_features, x.shape[-1])))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *tensors, ctx.out_features = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        x, values, index = ctx.saved_tensors
        (cotangent,) = cotangents
        of_x = of_values = None
        if ctx.needs_input_grad[0]:
            of_x = cotangent @ scattered(values, index, (ctx.out_features, x.shape[-1]))
        if ctx.needs_input_grad[1]:
            dense = cotangent.reshape(-1, ctx.out_features).T @ x.reshape(-1, x.shape[-1])
            of_values = dense.reshape(-1)[index.long()]
        return of_x, of_values, None, None
