"""A batch with sets of angles in compiled code, forward and back, a bounded piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ketune.circuits._dtypes import compute_dtype
from ketune.circuits._sets_plan import SetsProgram

if TYPE_CHECKING:
    from ketune.circuits._native_sets import Samples

Chunk = tuple[slice, slice]
"""Which sets of angles, and which of their samples."""

_CHUNK_BYTES = 1 << 21  # of the features and angles of one piece, which may have to be converted
_LEAST_SAMPLES = 256  # of one piece


def cut(n_sets: int, n_samples: int, count: int) -> list[Chunk]:
    """Cuts sets of angles and their samples into pieces of at most `count` samples: whole sets, or parts of one."""
    if n_samples == 0:
        return []
    samples = max(1, min(n_samples, count))
    sets = max(1, count // samples) if samples == n_samples else 1
    return [
        (slice(first, min(first + sets, n_sets)), slice(start, min(start + samples, n_samples)))
        for first in range(0, n_sets, sets)
        for start in range(0, n_samples, samples)
    ]


def take(tensor: Tensor, chunk: Chunk) -> Tensor:
    """A chunk of (A or 1, S, ...)."""
    sets, samples = chunk
    return (tensor if tensor.shape[0] == 1 else tensor[sets])[:, samples]


def _plain(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Outside autograd, in a type, with memory of its own: autograd's efficient zeros have none."""
    tensor = tensor.detach()
    if tensor._is_zerotensor():
        return torch.zeros(tensor.shape, dtype=dtype)
    return tensor.to(dtype)


def _pieces(x: Tensor, angles: Tensor) -> Iterator[tuple[Chunk, Samples]]:
    from ketune.circuits._native_sets import Samples

    dtype = compute_dtype(x, angles)
    each = dtype.itemsize * (x.shape[-1] + angles.shape[-1])
    for chunk in cut(len(angles), x.shape[1], max(_LEAST_SAMPLES, _CHUNK_BYTES // each)):
        features = _plain(take(x, chunk), dtype)
        # Features that neither sets nor samples tell apart are one row.
        yield chunk, Samples(features.flatten(0, 1), _plain(angles[chunk[0]], dtype), features.shape[1])


def run_sets(program: SetsProgram, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Readouts (A, S, k) and squared norms (A, S).

    Args:
        program: what to run.
        x: (A or 1, S, n_features) features; A and S at least 1.
        angles: (A, n_angles).
    """
    shape, dtype = (len(angles), x.shape[1]), compute_dtype(x, angles)
    out, norms = x.new_empty(*shape, program.n_outputs, dtype=dtype), x.new_empty(shape, dtype=dtype)
    for chunk, samples in _pieces(x, angles):
        for plan, columns in zip(program.plans, program.columns):
            values, squares = plan.run(samples)
            norms[chunk] = squares.view(norms[chunk].shape)
            if len(program.plans) == 1:
                out[chunk] = values.view(out[chunk].shape)
            else:
                out[chunk][..., list(columns)] = values.view(*norms[chunk].shape, -1)
    return out, norms


def run_sets_back(
    program: SetsProgram,
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    norms: Tensor,
    need_x: bool,
    need_angles: bool,
) -> tuple[Tensor, Tensor]:
    """Cotangents of x and of the angles, in their shapes and types; (0,) where not needed."""
    dtype = compute_dtype(x, angles)
    d_x = x.new_zeros(x.shape if need_x else (0,), dtype=dtype)
    d_angles = angles.new_zeros(angles.shape if need_angles else (0,), dtype=dtype)
    for chunk, samples in _pieces(x, angles):
        each = samples.each
        weights, values, squares = (_plain(take(t, chunk), dtype).flatten(0, 1) for t in (cotangent, out, norms))
        for plan, columns in zip(program.plans, program.columns):
            own = slice(None) if len(program.plans) == 1 else list(columns)
            part_x, part_angles = plan.run_back(samples, weights[:, own], values[:, own], squares, need_x, need_angles)
            if part_x is not None:
                grid = part_x.unflatten(0, (-1, each))
                take(d_x, chunk).add_(grid.sum(0, keepdim=True) if len(x) == 1 else grid)
            if part_angles is not None:
                grid = part_angles.unflatten(0, (-1, each))
                d_angles[chunk[0]] += grid[:, 0] if each == 1 else grid.sum(1, dtype=torch.float64)
    return d_x.to(x.dtype), d_angles.to(angles.dtype)
