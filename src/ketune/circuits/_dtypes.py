"""Types, bounds and memory of the numbers that simulations compute with."""

import numpy as np
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


_LARGE = 1 << 22
"""Bytes from which on NumPy asks the system for huge pages."""


def fresh(rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """An uninitialised (rows, columns) tensor on the device of `like`; on the CPU large ones come from NumPy.

    The first touch of a page costs more than the work on it, and torch asks for pages of 4 KiB: 32 MiB take 13 ms to
    touch, and 2 ms from NumPy (benchmarks/circuits.py, 12 wires and 2,048 samples, shows the difference).
    """
    if like.device.type != "cpu" or rows * columns * dtype.itemsize < _LARGE:
        return like.new_empty(rows, columns, dtype=dtype)
    return torch.from_numpy(np.empty((rows, columns), np.float64 if dtype == torch.float64 else np.float32))
