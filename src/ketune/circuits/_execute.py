"""Running a plan on a batch, forward and backward, chunk by chunk. States live only inside these functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from ketune.circuits._kernels import Gradients, Matrices, Tape, layer_matrices, run_layers, run_layers_back
from ketune.circuits._plan import Plan, Program, Tables
from ketune.circuits.circuit import Circuit

if TYPE_CHECKING:
    from ketune.circuits._native import NativePlan

SMALLEST_SQUARED_NORM = 1e-30
"""Squared norms below this count as this, so that a zero vector has zero readouts and finite gradients."""


def compute_dtype(x: Tensor, angles: Tensor) -> torch.dtype:
    """float64 when features or angles are, else float32."""
    return torch.float64 if torch.float64 in (x.dtype, angles.dtype) else torch.float32


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _product_states(features: Tensor, n_wires: int) -> Tensor:
    """RY(x_q)|0> on every wire q: (C, n_features) angles in radians to (C, 2 ** n_wires) real amplitudes."""
    pairs = torch.stack((torch.cos(features / 2), torch.sin(features / 2)), -1)
    states = pairs[:, 0]
    for wire in range(1, features.shape[1]):
        states = (states[:, :, None] * pairs[:, wire, None, :]).flatten(1)
    missing = n_wires - features.shape[1]
    return pad(states[:, :, None], (0, 2**missing - 1)).flatten(1) if missing else states


def _product_states_back(states: Tensor, cotangent: Tensor, n_features: int) -> Tensor:
    """Cotangent of the features; d/dx RY(x) = RY(x + pi) / 2 swaps the two halves of a wire and negates one."""
    columns = []
    for wire in range(n_features):
        state = states.view(len(states), 2**wire, 2, -1)
        back = cotangent.reshape(state.shape)
        columns.append((back[:, :, 1] * state[:, :, 0] - back[:, :, 0] * state[:, :, 1]).sum((1, 2)) / 2)
    return torch.stack(columns, 1)


class _Run:
    """One plan with everything that forward and backward share: constants, small matrices, the circuit's matrix."""

    def __init__(self, plan: Plan, x: Tensor, angles: Tensor) -> None:
        self.plan, self.x = plan, x
        self.dtype = compute_dtype(x, angles)
        self.tables: Tables = plan.tables(x.device, self.dtype)
        self.matrices: Matrices = layer_matrices(plan, self.tables, angles.to(self.dtype))
        self.step = plan.chunk(x.device.type, self.dtype.itemsize)
        self.matrix = self._circuit_matrix() if plan.form(x.shape[0], x.device.type) == "matrix" else None
        self.batch_step = self.step if self.matrix is None else max(self.step, 128)

    def amplitudes(self, start: int) -> Tensor:
        """Amplitudes of one chunk, not normalised: (C, n_amplitudes)."""
        features = self.x[start : start + self.batch_step].to(self.dtype)
        return features if self.plan.encoding == "amplitude" else _product_states(features, self.plan.n_wires)

    def states(self, amplitudes: Tensor, tape: Tape | None = None) -> Tensor:
        """Final states of a chunk, (c 2 ** n_wires, C); for readout "amplitudes" only the wanted rows, (k, C)."""
        if self.matrix is not None:
            return self.matrix @ amplitudes.T
        return run_layers(self.plan, self.tables, self.matrices, amplitudes, tape)

    def _circuit_matrix(self) -> Tensor:
        """The matrix of the circuit by columns, or its first rows for readout "amplitudes"."""
        plan, tables, matrices = self.plan, self.tables, self.matrices
        if plan.readout == "amplitudes":
            picked = tables.rows.split(self.step, 1)  # type: ignore[union-attr]
            parts = [run_layers_back(plan, tables, matrices, rows.contiguous(), None, None, True) for rows in picked]
            return torch.cat(parts)  # type: ignore[arg-type]
        units = torch.eye(plan.n_amplitudes, dtype=self.dtype, device=self.x.device).split(self.step)
        return torch.cat([run_layers(plan, tables, matrices, unit) for unit in units], 1)

    def circuit_matrix_back(self, cotangent: Tensor, gradients: Gradients) -> None:
        """Adds what the cotangent of the circuit's matrix gives to the gradients of the small matrices."""
        plan, tables, matrices = self.plan, self.tables, self.matrices
        if plan.readout == "amplitudes":
            assert tables.rows is not None
            # <row, U x> is linear in both: the cotangent takes the place of x, the unit rows that of the cotangent.
            pairs = zip(cotangent.split(self.step), tables.rows.split(self.step, 1))
        else:
            units = torch.eye(plan.n_amplitudes, dtype=self.dtype, device=self.x.device).split(self.step)
            pairs = zip(units, cotangent.split(self.step, 1))
        for amplitudes, back in pairs:
            tape: Tape = []
            run_layers(plan, tables, matrices, amplitudes, tape)
            run_layers_back(plan, tables, matrices, back.contiguous(), tape, gradients, False)


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
        states = part if plan.encoding == "amplitude" else _product_states(part, plan.n_wires)
        yield slice(start, start + step), states


def _plain(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Outside autograd, in a type; `Tensor.to` costs microseconds even where it has nothing to do."""
    tensor = tensor.detach()
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _run_native(plan: Plan, native: NativePlan, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(x, angles)
    call = native.call(angles, dtype)
    parts = [call.run(amplitudes) for _, amplitudes in _native_chunks(plan, x, dtype)]
    if len(parts) == 1:
        return parts[0]
    out, norms = zip(*parts)
    return torch.cat(out), torch.cat(norms)


def _run_native_back(
    plan: Plan,
    native: NativePlan,
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    need_x: bool,
    need_angles: bool,
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(x, angles)
    call = native.call(angles, dtype)
    cotangent, out = _plain(cotangent, dtype), _plain(out, dtype)
    d_x, d_angles = [], []
    for part, amplitudes in _native_chunks(plan, x, dtype):
        d_part, d_angles_part = call.run_back(amplitudes, cotangent[part], out[part], need_x, need_angles)
        if d_part is not None:
            d_x.append(
                _product_states_back(amplitudes, d_part, plan.n_features) if plan.encoding == "angle" else d_part
            )
        if d_angles_part is not None:
            d_angles.append(d_angles_part)
    whole = d_x[0] if len(d_x) == 1 else torch.cat(d_x) if d_x else x.new_empty(0, dtype=dtype)
    return whole, sum(d_angles[1:], d_angles[0]) if d_angles else angles.new_empty(0, dtype=dtype)


def run_native_once(circuit: Circuit, x: Tensor) -> Callable[[], object]:
    """A forward and backward pass in compiled code, for measuring it."""
    plan = Plan(circuit, "amplitude", "pauli_z", circuit.n_wires, x.shape[1])
    native, angles = plan.native(), torch.linspace(-3, 3, circuit.n_angles)
    assert native is not None

    def step() -> object:
        out, _ = _run_native(plan, native, x, angles)
        return _run_native_back(plan, native, out, x, angles, out, True, True)

    return step


def _run_plan(plan: Plan, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Readouts (B, k) and squared norms (B,)."""
    if len(x) and plan.form(len(x), x.device.type) == "native":
        native = plan.native()
        assert native is not None
        return _run_native(plan, native, x, angles)
    run = _Run(plan, x, angles)
    tables, batch = run.tables, x.shape[0]
    if plan.readout == "amplitudes":
        out = x.new_empty(batch, plan.n_outputs, dtype=run.dtype)
        for start in range(0, batch, run.batch_step):
            chunk = out[start : start + run.batch_step]
            torch.mm(run.amplitudes(start), run.matrix.T, out=chunk)  # type: ignore[union-attr]
        return out, out.new_ones(batch)
    sums = x.new_empty(plan.n_outputs + 1, batch, dtype=run.dtype)
    for start in range(0, batch, run.batch_step):
        squares = run.states(run.amplitudes(start)).square_()
        chunk = sums[:, start : start + run.batch_step]
        if tables.readout is not None:
            chunk.copy_(tables.readout @ squares)
        else:
            chunk[:-1] = _probabilities(plan, squares).index_select(0, tables.readout_order)  # type: ignore[arg-type]
            torch.sum(chunk[:-1], 0, out=chunk[-1])
    norms = sums[-1].clamp_min(SMALLEST_SQUARED_NORM)
    return (sums[:-1] / norms).T.contiguous(), norms


def _probabilities(plan: Plan, squares: Tensor) -> Tensor:
    """(c 2 ** n, C) squared parts to (2 ** n, C)."""
    return squares.view(plan.height, plan.components, plan.width, -1).sum(1).flatten(0, 1)


def _run_plan_back(
    plan: Plan,
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    norms: Tensor | None,
    need_x: bool,
    need_angles: bool,
) -> tuple[Tensor, Tensor]:
    """Cotangents of x and of the angles, in the type of computation; empty where not needed."""
    if len(x) and plan.form(len(x), x.device.type) == "native":
        native = plan.native()
        assert native is not None
        return _run_native_back(plan, native, cotangent, x, angles, out, need_x, need_angles)
    run = _Run(plan, x, angles)
    tables, batch = run.tables, x.shape[0]
    cotangent = cotangent.to(run.dtype)
    norms = squared_norms(plan, x, run.dtype) if norms is None else norms
    gradients = Gradients(plan, run.matrices) if need_angles else None
    d_matrix = torch.zeros_like(run.matrix) if need_angles and run.matrix is not None else None
    d_x = x.new_empty(x.shape if need_x else (0,), dtype=run.dtype)
    linear = plan.readout == "amplitudes"
    if not linear:
        # out = sums / norm: the last column is the cotangent of the norm, which every square carries
        back = torch.empty(plan.n_outputs + 1, batch, dtype=run.dtype, device=x.device)
        torch.mul(cotangent.T, 2.0 / norms, out=back[:-1])
        torch.sum(back[:-1] * out.T, 0, out=back[-1]).neg_()
    for start in range(0, batch, run.batch_step):
        amplitudes = run.amplitudes(start)
        tape: Tape = []
        stop = start + run.batch_step
        if linear:
            d_states = cotangent[start:stop].T
        else:
            states = run.states(amplitudes, tape if need_angles else None)
            if tables.readout is not None:
                d_states = tables.readout.T @ back[:, start:stop]
            else:
                weights = torch.empty_like(back[:-1, start:stop])
                weights[tables.readout_order] = back[:-1, start:stop] + back[-1, start:stop]
                d_states = weights.view(plan.height, 1, plan.width, -1).expand(-1, plan.components, -1, -1)
                d_states = d_states.reshape(states.shape)
            d_states = d_states.mul_(states)
        if run.matrix is None:
            d_amplitudes = run_layers_back(plan, tables, run.matrices, d_states, tape, gradients, need_x)
        else:
            d_amplitudes = d_states.T @ run.matrix if need_x else None
            if d_matrix is not None:
                d_matrix.addmm_(d_states, amplitudes)
        if d_amplitudes is not None:
            if plan.encoding == "angle":
                d_amplitudes = _product_states_back(amplitudes, d_amplitudes, plan.n_features)
            d_x[start:stop] = d_amplitudes
    if gradients is None:
        return d_x, angles.new_empty(0)
    if batch == 0:
        return d_x, torch.zeros_like(angles)
    if d_matrix is not None:
        run.circuit_matrix_back(d_matrix, gradients)
    return d_x, gradients.angles(tables, run.matrices)


def run_program(program: Program, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Readouts of a batch.

    Args:
        program: what to run.
        x: (B, n_features) features.
        angles: (n_angles,) angles in radians.

    Returns:
        readouts (B, k) and squared norms (B,), in float32, or float64 when features or angles are float64.
    """
    with _full_precision(x.device.type):
        if len(program.plans) == 1:
            return _run_plan(program.plans[0], x, angles)
        out = x.new_empty(x.shape[0], program.n_outputs, dtype=compute_dtype(x, angles))
        for plan, columns in zip(program.plans, program.columns):
            part, norms = _run_plan(plan, x, angles)
            out[:, list(columns)] = part
        return out, norms


def squared_norms(plan: Plan, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Squared norms (B,) of the amplitudes of (B, n_features) features, as `run_program` returns them."""
    if plan.encoding == "angle" or plan.readout == "amplitudes":
        return x.new_ones(len(x), dtype=dtype)
    return torch.linalg.vector_norm(x, dim=-1, dtype=dtype).square_().clamp_min_(SMALLEST_SQUARED_NORM)


def run_program_back(
    program: Program,
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    norms: Tensor | None,
    need_x: bool,
    need_angles: bool,
) -> tuple[Tensor, Tensor]:
    """Cotangents of x (B, n_features) and of the angles (n_angles,) in their types; (0,) where not needed.

    Norms are those of `run_program`, or None to find them again.
    """
    with _full_precision(x.device.type):
        if len(program.plans) == 1:
            d_x, d_angles = _run_plan_back(program.plans[0], cotangent, x, angles, out, norms, need_x, need_angles)
            return _plain(d_x, x.dtype), _plain(d_angles, angles.dtype)
        d_x, d_angles = None, None
        for plan, columns in zip(program.plans, program.columns):
            c = list(columns)
            parts = _run_plan_back(plan, cotangent[:, c], x, angles, out[:, c], norms, need_x, need_angles)
            d_x = parts[0] if d_x is None else d_x.add_(parts[0])
            d_angles = parts[1] if d_angles is None else d_angles.add_(parts[1])
        assert d_x is not None
        assert d_angles is not None
        return d_x.to(x.dtype), d_angles.to(angles.dtype)
