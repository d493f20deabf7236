"""Running a plan on a batch in compiled code: pieces of the batch in the type of computation, forward and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ketune.circuits._dtypes import compute_dtype, plain
from ketune.circuits._plan import Plan
from ketune.circuits._product_states import product_states, product_states_back
from ketune.circuits.circuit import Circuit

if TYPE_CHECKING:
    from ketune.circuits._native import NativePlan

_NATIVE_BYTES = 1 << 21
"""Bytes of features that are converted or encoded at a time for the native simulator."""


def _native_chunks(plan: Plan, x: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Amplitudes of the batch in the type of computation, in one piece when they are there already."""
    count = x.shape[0]
    if plan.encoding == "amplitude" and x.dtype == dtype:
        yield slice(0, count), x.detach()
        return
    step = max(256, _NATIVE_BYTES // (dtype.itemsize * plan.n_amplitudes))
    for start in range(0, count, step):
        part = x[start : start + step].detach().to(dtype)
        states = part if plan.encoding == "amplitude" else product_states(part, plan.n_wires)
        yield slice(start, start + step), states


def _native(plan: Plan) -> NativePlan:
    native = plan.native()
    assert native is not None
    return native


def run_native(plan: Plan, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Readouts (B, k) and squared norms (B,) of a batch of at least one sample."""
    dtype = compute_dtype(x, angles)
    call = _native(plan).call(angles, dtype)
    parts = [call.run(amplitudes) for _, amplitudes in _native_chunks(plan, x, dtype)]
    if len(parts) == 1:
        return parts[0]
    out, norms = zip(*parts)
    return torch.cat(out), torch.cat(norms)


def run_native_back(
    plan: Plan, cotangent: Tensor, x: Tensor, angles: Tensor, out: Tensor, need_x: bool, need_angles: bool
) -> tuple[Tensor, Tensor]:
    """Cotangents of x and of the angles, in the type of computation; empty where not needed."""
    dtype = compute_dtype(x, angles)
    call = _native(plan).call(angles, dtype)
    cotangent, out = plain(cotangent, dtype), plain(out, dtype)
    d_x, d_angles = [], []
    for part, amplitudes in _native_chunks(plan, x, dtype):
        d_part, d_angles_part = call.run_back(amplitudes, cotangent[part], out[part], need_x, need_angles)
        if d_part is not None:
            d_x.append(product_states_back(amplitudes, d_part, plan.n_features) if plan.encoding == "angle" else d_part)
        if d_angles_part is not None:
            d_angles.append(d_angles_part)
    whole = d_x[0] if len(d_x) == 1 else torch.cat(d_x) if d_x else x.new_empty(0, dtype=dtype)
    return whole, sum(d_angles[1:], d_angles[0]) if d_angles else angles.new_empty(0, dtype=dtype)


def run_native_once(circuit: Circuit, x: Tensor) -> Callable[[], object]:
    """A forward and backward pass in compiled code, for measuring it."""
    plan = Plan(circuit, "amplitude", "pauli_z", circuit.n_wires, x.shape[1])
    angles = torch.linspace(-3, 3, circuit.n_angles)

    def step() -> object:
        out, _ = run_native(plan, x, angles)
        return run_native_back(plan, out, x, angles, out, True, True)

    return step
