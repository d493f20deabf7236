"""Running a plan on a batch, forward and backward, chunk by chunk. States live only inside these functions."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from ketune.circuits._dtypes import SMALLEST_SQUARED_NORM, compute_dtype, fresh, plain
from ketune.circuits._execute_native import run_native, run_native_back
from ketune.circuits._kernels import Gradients, Matrices, Space, Tape, layer_matrices, run_layers, run_layers_back
from ketune.circuits._plan import Plan, Program, Tables
from ketune.circuits._precision import products_for, simulation_guard, without_autocast
from ketune.circuits._product_states import product_states, product_states_back


class _Run:
    """One plan with everything that forward and backward share: constants, small matrices, the circuit's matrix."""

    def __init__(self, plan: Plan, x: Tensor, angles: Tensor, form: str) -> None:
        self.plan, self.x = plan, x
        self.dtype = compute_dtype(x, angles)
        self.tables: Tables = plan.tables(x.device, self.dtype)
        self.products = products_for(plan.matmul_precision, x.device.type, self.dtype)
        self.matrices: Matrices = layer_matrices(plan, self.tables, angles.to(self.dtype), self.products)
        self.step = plan.chunk(x.device.type, self.dtype.itemsize)
        self.space = Space(self.tables.half, plan.components * plan.dim * self.step)
        self.matrix = self._circuit_matrix() if form == "matrix" else None
        self.batch_step = self.step if self.matrix is None else max(self.step, 128)

    def amplitudes(self, start: int) -> Tensor:
        """Amplitudes of one chunk, not normalised: (C, n_amplitudes)."""
        features = self.x[start : start + self.batch_step].to(self.dtype)
        return features if self.plan.encoding == "amplitude" else product_states(features, self.plan.n_wires)

    def states(self, amplitudes: Tensor, tape: Tape | None = None) -> Tensor:
        """Final states of a chunk, (c 2 ** n_wires, C); for readout "amplitudes" only the wanted rows, (k, C)."""
        if self.matrix is not None:
            return self.products.mm(self.matrix, amplitudes.T)
        return run_layers(self.plan, self.tables, self.matrices, amplitudes, self.space, tape)

    def _circuit_matrix(self) -> Tensor:
        """The matrix of the circuit by columns, or its first rows for readout "amplitudes"."""
        plan, tables, matrices, space = self.plan, self.tables, self.matrices, self.space
        if plan.readout == "amplitudes":
            picked = tables.rows.split(self.step, 1)  # type: ignore[union-attr]
            parts = []
            for rows in picked:
                back = rows.clone(memory_format=torch.contiguous_format)  # it is written over
                part = run_layers_back(plan, tables, matrices, back, space, None, None, True)
                parts.append(part.flatten(1)[:, : plan.n_amplitudes].clone())  # type: ignore[union-attr]
            return torch.cat(parts)
        units = torch.eye(plan.n_amplitudes, dtype=self.dtype, device=self.x.device).split(self.step)
        return torch.cat([run_layers(plan, tables, matrices, unit, space).clone() for unit in units], 1)

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
            run_layers(plan, tables, matrices, amplitudes, self.space, tape)
            back = back.clone(memory_format=torch.contiguous_format)  # it is written over
            run_layers_back(plan, tables, matrices, back, self.space, tape, gradients, False)


def _run_plan(plan: Plan, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Readouts (B, k) and squared norms (B,)."""
    form = _form(plan, x, angles)
    if form == "native":
        return run_native(plan, x, angles)
    with simulation_guard(plan.matmul_precision, x.device.type):
        if form == "triton":
            return _kernels().run_triton(plan, x, angles)
        return _run_products(plan, x, angles, form)


def _form(plan: Plan, x: Tensor, angles: Tensor) -> str:
    """How to run this batch. Compiled code wants at least one sample, and the Triton kernels compute in float32."""
    form = plan.form(len(x), x.device.type)
    if form in ("native", "triton") and not len(x):
        return plan.product_form(0)
    if form == "triton" and compute_dtype(x, angles) != torch.float32:
        return plan.product_form(len(x))
    return form


def _kernels() -> ModuleType:
    """The module of the Triton form, imported on first use: most who install Ketune have no GPU."""
    return import_module("ketune.circuits._triton")


def _run_products(plan: Plan, x: Tensor, angles: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """`_run_plan` by matrix products."""
    run = _Run(plan, x, angles, form)
    tables, batch = run.tables, x.shape[0]
    if plan.readout == "amplitudes":
        out = x.new_empty(batch, plan.n_outputs, dtype=run.dtype)
        for start in range(0, batch, run.batch_step):
            chunk = out[start : start + run.batch_step]
            chunk.copy_(run.products.mm(run.amplitudes(start), run.matrix.T))  # type: ignore[union-attr]
        return out, out.new_ones(batch)
    sums = x.new_empty(plan.n_outputs + 1, batch, dtype=run.dtype)
    for start in range(0, batch, run.batch_step):
        squares = run.states(run.amplitudes(start)).square_()
        chunk = sums[:, start : start + run.batch_step]
        if tables.readout is not None:
            chunk.copy_(_signed_sums(tables.readout, squares))
        else:
            chunk[:-1] = _probabilities(plan, squares).index_select(0, tables.readout_order)  # type: ignore[arg-type]
            torch.sum(chunk[:-1], 0, out=chunk[-1])
    norms = sums[-1].clamp_min(SMALLEST_SQUARED_NORM)
    return (sums[:-1] / norms).T.contiguous(), norms


_ROWS_OF_A_SUM = 256
"""Rows that one product adds up; the sums of more are added in pairs, since long float32 sums lose digits."""


def _signed_sums(signs: Tensor, squares: Tensor) -> Tensor:
    """(k, rows) signs times (rows, C) squares."""
    pieces = squares.shape[0] // _ROWS_OF_A_SUM
    if pieces < 16:
        return signs @ squares
    sums = torch.bmm(signs.view(len(signs), pieces, -1).transpose(0, 1), squares.view(pieces, _ROWS_OF_A_SUM, -1))
    while pieces > 1:
        pieces //= 2
        sums = sums[:pieces] + sums[pieces:]
    return sums[0]


def run_once(plan: Plan, x: Tensor, angles: Tensor) -> Callable[[], object]:
    """A forward and backward pass in the form that the plan takes, for measuring it."""

    def step() -> object:
        out, norms = _run_plan(plan, x, angles)
        return _run_plan_back(plan, out, x, angles, out, norms, True, True)

    return step


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
    form = _form(plan, x, angles)
    if form == "native":
        return run_native_back(plan, cotangent, x, angles, out, need_x, need_angles)
    assert norms is not None
    with simulation_guard(plan.matmul_precision, x.device.type):
        if form == "triton":
            return _kernels().run_triton_back(plan, cotangent, x, angles, out, norms, need_x, need_angles)
        return _run_products_back(plan, cotangent, x, angles, out, norms, need_x, need_angles, form)


def _run_products_back(
    plan: Plan,
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    norms: Tensor,
    need_x: bool,
    need_angles: bool,
    form: str,
) -> tuple[Tensor, Tensor]:
    """`_run_plan_back` by matrix products."""
    run = _Run(plan, x, angles, form)
    tables, batch = run.tables, x.shape[0]
    cotangent = cotangent.to(run.dtype)
    gradients = Gradients(plan, run.matrices) if need_angles else None
    d_matrix = torch.zeros_like(run.matrix) if need_angles and run.matrix is not None else None
    d_x = fresh(batch, x.shape[1], x, run.dtype) if need_x else x.new_empty(0, dtype=run.dtype)
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
                into = run.space.scratch(states.shape[0], states.shape[1], states) if run.matrix is None else None
                d_states = torch.mm(tables.readout.T, back[:, start:stop], out=into)
            else:
                weights = torch.empty_like(back[:-1, start:stop])
                ended = back[:-1, start:stop] + back[-1, start:stop]
                weights.index_copy_(0, tables.readout_order, ended)  # type: ignore[arg-type]
                d_states = weights.view(plan.height, 1, plan.width, -1).expand(-1, plan.components, -1, -1)
                d_states = d_states.reshape(states.shape)
            d_states = d_states.mul_(states)
        if run.matrix is None:
            d_amplitudes = run_layers_back(plan, tables, run.matrices, d_states, run.space, tape, gradients, need_x)
            if (
                d_amplitudes is not None
                and plan.encoding == "amplitude"
                and plan.n_amplitudes == plan.first_rows * plan.width
            ):
                d_x[start:stop].view(d_amplitudes.shape).copy_(d_amplitudes)
                continue
            if d_amplitudes is not None:
                d_amplitudes = d_amplitudes.flatten(1)[:, : plan.n_amplitudes]
        else:
            d_amplitudes = run.products.mm(d_states.T, run.matrix) if need_x else None
            if d_matrix is not None:
                run.products.add_mm(d_matrix, d_states, amplitudes)
        if d_amplitudes is not None:
            if plan.encoding == "angle":
                d_amplitudes = product_states_back(amplitudes, d_amplitudes, plan.n_features)
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
    with without_autocast(x.device.type):
        if len(program.plans) == 1:
            return _run_plan(program.plans[0], x, angles)
        out = x.new_empty(x.shape[0], program.n_outputs, dtype=compute_dtype(x, angles))
        for plan, columns in zip(program.plans, program.columns_on(x.device)):
            part, norms = _run_plan(plan, x, angles)
            out.index_copy_(1, columns, part)
        return out, norms


def finds_norms_again(program: Program, x: Tensor) -> bool:
    """Whether the backward pass needs no norms, so that nobody keeps them: compiled code sums them as it reads."""
    return len(x) > 0 and all(plan.form(len(x), x.device.type) == "native" for plan in program.plans)


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

    Norms are those of `run_program`, or None where `finds_norms_again` says so.
    """
    with without_autocast(x.device.type):
        if len(program.plans) == 1:
            d_x, d_angles = _run_plan_back(program.plans[0], cotangent, x, angles, out, norms, need_x, need_angles)
            return plain(d_x, x.dtype), plain(d_angles, angles.dtype)
        d_x, d_angles = None, None
        for plan, columns in zip(program.plans, program.columns_on(x.device)):
            part_of = [tensor.index_select(1, columns) for tensor in (cotangent, out)]
            parts = _run_plan_back(plan, part_of[0], x, angles, part_of[1], norms, need_x, need_angles)
            d_x = parts[0] if d_x is None else d_x.add_(parts[0])
            d_angles = parts[1] if d_angles is None else d_angles.add_(parts[1])
        assert d_x is not None
        assert d_angles is not None
        return d_x.to(x.dtype), d_angles.to(angles.dtype)
