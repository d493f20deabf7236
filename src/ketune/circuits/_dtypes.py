"""Types and bounds of the numbers that simulations compute with."""

import torch
from torch import Tensor

SMALLEST_SQUARED_NORM = 1e-30
"""Squared norms below this count as this, so that a zero vector has zero readouts and finite gradients."""


def compute_dtype(x: Tensor, angles: Tensor) -> torch.dtype:
    """float64 when features or angles are, else float32."""
    return torch.float64 if torch.float64 in (x.dtype, angles.dtype) else torch.float32


def plain(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Outside autograd, in a type; `Tensor.to` costs microseconds even where it has nothing to do."""
    tensor = tensor.detach()
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
