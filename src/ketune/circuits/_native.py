"""The native simulator for CPUs: stages (`_passes`) on blocks of samples in compiled code (`_native_code`).

A block is as many samples as a vector register holds, side by side, so that every operation works on all of them. The
state of a block stays in the processor's cache from the features to the readouts, and on the way back the state and its
cotangent are taken back side by side: nothing of the size of a state is kept between the passes.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ketune.circuits import _native_code as code
from ketune.circuits._apart import apart
from ketune.circuits._coefficients import AngleMap, Coefficients
from ketune.circuits._layers import Draft
from ketune.circuits._native_code import RECORD, Field
from ketune.circuits._native_records import Records
from ketune.circuits._passes import Passes, Turn, kernel_of, span

SMALLEST_SQUARED_NORM = 1e-30
"""Squared norms below this count as this, so that a zero vector has zero readouts and finite gradients."""


class _Tables(Records):
    """Records of passes for one type of computation."""

    def __init__(self, plan: NativePlan, bits: int) -> None:
        super().__init__(bits, plan.passes.n_wires, plan.components)
        self.plan = plan
        passes, dim, lanes = plan.passes, plan.dim, self.lanes
        self.turn_sums = 2 * self.cotangent
        self.phase_sums = self.turn_sums + 2 * plan.n_turns * lanes
        self.forward_size = self.cotangent
        self.size = self.phase_sums + len(passes.stages) * dim * lanes
        self.columns = -(-plan.n_amplitudes // lanes) * lanes  # of the features, padded to whole groups
        rows = [k * self.row if k < dim else dim * self.row for k in range(self.columns)]
        fields: dict[int, int] = {Field.COUNT: self.columns // lanes, Field.BASES: self.table(rows)}
        self.load = self.record("load", plan.components, False, fields=fields)
        self.zeros = self.zero([k * self.row for k in range(self.columns, dim)])
        self.store = self.record("store", plan.components, False, fields=fields)
        self.stages = [record for s in range(len(passes.stages)) for record in self._forward_stage(s)]
        self._back: dict[bool, list[np.ndarray]] = {}
        if plan.readout == "probabilities":
            self.output_rows = self.rows_of_outputs(passes.outputs)
        else:
            self.readout, self.seed = self.readouts(passes.words)

    def _turns(self, turns: list[Turn]) -> dict[int, int]:
        bases = kernel_of([turn.parity for turn in turns], self.n_wires)
        return self.tile(bases, span([turn.mask for turn in turns]))

    def _forward_stage(self, number: int) -> list[np.ndarray]:
        plan, records = self.plan, []
        width = forward_width(plan.components)
        turns = plan.passes.stages[number].turns
        for start in range(0, len(turns), width):
            group = turns[start : start + width]
            phases = "none" if start else "real" if plan.components == 2 and number == 0 else "all"
            fields = self._turns(group) | self._places(number, start)
            records.append(self.record("forward", len(group), plan.components, phases, fields=fields))
        return records

    def _places(self, number: int, start: int) -> dict[int, int]:
        plan = self.plan
        first = plan.first_turn[number] + start
        return {
            Field.TURNS: first,
            Field.PHASES: number * plan.dim * plan.components,
            Field.TURN_SUMS: self.turn_sums + 2 * first * self.lanes,
            Field.PHASE_SUMS: self.phase_sums + number * plan.dim * self.lanes,
        }

    def back(self, need_angles: bool) -> list[np.ndarray]:
        """Records of the stages taken back, last one first."""
        if need_angles not in self._back:
            numbers = range(len(self.plan.passes.stages) - 1, -1, -1)
            self._back[need_angles] = [record for n in numbers for record in self._backward_stage(n, need_angles)]
        return self._back[need_angles]

    def _backward_stage(self, number: int, need_angles: bool) -> list[np.ndarray]:
        plan, records = self.plan, []
        stage = plan.passes.stages[number]
        for start, stop in plan.back_groups[number]:
            group = stage.turns[start:stop]
            measures = "" if not need_angles else "xy" if any(turn.measures_x for turn in group) else "y"
            trained = need_angles and plan.components == 2 and any(phase.part != "fixed" for phase in stage.phases)
            phases = "none" if start else "trained" if trained else "fixed"
            fields = self._turns(group) | self._places(number, start)
            records.append(self.record("backward", len(group), plan.components, measures, phases, fields=fields))
        return records


def forward_width(components: int) -> int:
    """Wires that one pass turns at a time going forward."""
    return 3 if code.n_registers() == 32 else 2


def backward_width(components: int, measures_x: bool) -> int:
    """Wires that one pass takes back at a time."""
    wide = 3 if components == 1 else 2
    return wide if code.n_registers() == 32 else wide - 1


class NativePlan:
    """A circuit made ready for one readout that is diagonal, on amplitudes that are real.

    Args:
        drafts: the circuit's layers.
        n_wires: number of wires.
        n_angles: length of the angle vector.
        readout: "pauli_z", "probabilities" or a tuple of words of I and Z.
        n_amplitudes: amplitudes that are given; the others are zero.
    """

    def __init__(
        self, drafts: list[Draft], n_wires: int, n_angles: int, readout: str | tuple[str, ...], n_amplitudes: int
    ) -> None:
        self.passes = Passes(drafts, n_wires, readout)
        self.readout, self.n_amplitudes, self.dim = readout, n_amplitudes, 2**n_wires
        self.components = 1 if self.passes.is_real or not self.passes.stages else 2
        self._angles = AngleMap(self.passes, n_angles)
        self.first_turn, self.n_turns = [], 0
        self.back_groups: list[list[tuple[int, int]]] = []
        earlier: list[list[int]] = []  # per turn, the turns of its stage that are taken back before it
        for stage in self.passes.stages:
            self.first_turn.append(self.n_turns)
            width = backward_width(self.components, any(turn.measures_x for turn in stage.turns))
            groups = [(s, min(s + width, len(stage.turns))) for s in range(0, len(stage.turns), width)][::-1]
            self.back_groups.append(groups)
            order = [self.n_turns + i for start, stop in groups for i in range(start, stop)]
            earlier += [order[: order.index(self.n_turns + i)] for i in range(len(stage.turns))]
            self.n_turns += len(stage.turns)
        self._earlier = np.zeros((self.n_turns, self.n_turns))
        for turn, others in enumerate(earlier):
            self._earlier[turn, others] = 1
        self._sum_order = np.zeros((self.n_turns, 2), dtype=np.int64)
        for first, groups in zip(self.first_turn, self.back_groups):
            for start, stop in groups:
                places = 2 * (first + start) + np.arange(2 * (stop - start))
                self._sum_order[first + start : first + stop] = places.reshape(2, -1).T
        self._tables: dict[int, _Tables] = {}
        self._last: tuple[np.ndarray, torch.dtype, Coefficients] | None = None

    def tables(self, dtype: torch.dtype) -> _Tables:
        """Records for a type of computation."""
        bits = 32 if dtype == torch.float32 else 64
        if bits not in self._tables:
            self._tables[bits] = apart(lambda: _Tables(self, bits))
        return self._tables[bits]

    def coefficients(self, angles: Tensor, dtype: torch.dtype) -> Coefficients:
        """What the angles make of the stages."""
        values = angles.detach()
        if values.dtype not in (torch.float32, torch.float64):
            values = values.float()  # NumPy has no bfloat16
        values = values.numpy()
        if self._last is not None and self._last[1] == dtype and np.array_equal(self._last[0], values):
            return self._last[2]
        c = self._angles.forward(values.astype(np.float64), np.float32 if dtype == torch.float32 else np.float64)
        self._last = (values.copy(), dtype, c)
        return c

    def run(self, amplitudes: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
        """Readouts (B, outputs) and squared norms (B,), which count as `SMALLEST_SQUARED_NORM` at least.

        Args:
            amplitudes: (B, n_amplitudes) real, in the type of computation; B at least 1.
            c: of the same type.
        """
        tables = self.tables(amplitudes.dtype)
        batch, lanes = amplitudes.shape[0], tables.lanes
        blocks = -(-batch // lanes)
        if self.readout == "probabilities":
            out = amplitudes.new_empty(blocks * lanes, tables.out_columns)
            rows = self._output_rows(tables, c)  # must live until the code has run
            records = [tables.load, *tables.zeros, *tables.stages, tables.outputs("store", True, rows)]
            _drive(tables, np.concatenate(records), amplitudes, c, tables.forward_size, out=out)
            out = out[:batch, : self.dim]
            norms = out.sum(1).clamp_min_(SMALLEST_SQUARED_NORM)
            return out / norms[:, None], norms
        program = tables.program(("forward",), lambda: [tables.load, *tables.zeros, *tables.stages, tables.readout])
        sums = np.empty((blocks, len(self.passes.words) + 1, lanes), tables.array_type)
        _drive(tables, program, amplitudes, c, tables.forward_size, sums=sums)
        norms = np.maximum(sums[:, -1], SMALLEST_SQUARED_NORM)
        values = sums[:, :-1] / norms[:, None]
        if c.word_signs is not None:
            values *= c.word_signs[:, None]
        readouts = np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(blocks * lanes, -1)[:batch]
        return torch.from_numpy(readouts), torch.from_numpy(norms.reshape(-1)[:batch])

    def _output_rows(self, tables: _Tables, c: Coefficients) -> Tensor:
        """Offset of the row of each basis state at the end, and of a spare row for columns beyond them."""
        rows = tables.output_rows ^ (c.origin * tables.row)
        rows[self.dim :] = self.dim * tables.row
        return rows

    def run_back(
        self,
        amplitudes: Tensor,
        cotangent: Tensor,
        out: Tensor,
        norms: Tensor,
        c: Coefficients,
        need_x: bool,
        need_angles: bool,
    ) -> tuple[Tensor | None, np.ndarray | None]:
        """Cotangents of the amplitudes (B, n_amplitudes) and of the angles (n_angles,) float64.

        Args:
            amplitudes: as for `run`.
            cotangent: (B, outputs) of the readouts, in the type of computation.
            out: the readouts.
            norms: the squared norms.
            c: the coefficients.
            need_x: whether the first result is wanted.
            need_angles: whether the second one is.
        """
        tables = self.tables(amplitudes.dtype)
        lanes, batch = tables.lanes, amplitudes.shape[0]
        blocks = -(-batch // lanes)
        # out = sums / norm: every square carries the cotangent of the norm too.
        weights = cotangent.numpy() * (2.0 / norms.numpy())[:, None]
        norm_weights = -np.einsum("bk,bk->b", weights, out.numpy())
        d_x = amplitudes.new_empty(blocks * lanes, tables.columns) if need_x else None
        store = [tables.store] if need_x else []
        if self.readout == "probabilities":
            squares = amplitudes.new_zeros(blocks * lanes, tables.out_columns)
            squares[:batch, : self.dim] = torch.from_numpy(weights + norm_weights[:, None])
            rows = self._output_rows(tables, c)  # must live until the code has run
            records = [tables.load, *tables.zeros, *tables.stages, tables.outputs("load", True, rows), tables.scale()]
            program = np.concatenate([*records, *tables.back(need_angles), *store])
            spaces = _drive(tables, program, amplitudes, c, tables.size, out=d_x, weights=squares)
        else:
            sums = np.zeros((blocks * lanes, weights.shape[1] + 1), tables.array_type)
            sums[:batch, :-1] = weights if c.word_signs is None else weights * c.word_signs
            sums[:batch, -1] = norm_weights
            sums = np.ascontiguousarray(sums.reshape(blocks, lanes, -1).transpose(0, 2, 1))
            program = tables.program(
                ("backward", need_x, need_angles),
                lambda: [
                    *(tables.load, *tables.zeros, *tables.stages, tables.seed),
                    *(*tables.back(need_angles), *store),
                ],
            )
            spaces = _drive(tables, program, amplitudes, c, tables.size, out=d_x, sums=sums)
        d_amplitudes = None if d_x is None else d_x[:batch, : self.n_amplitudes].contiguous()
        if not need_angles:
            return d_amplitudes, None
        if not self.n_turns:  # nothing but phases and permutations: the squares do not depend on the angles
            return d_amplitudes, np.zeros(self._angles.n_angles)
        return d_amplitudes, self._angle_cotangent(spaces, tables, c)

    def _angle_cotangent(self, spaces: Tensor, tables: _Tables, c: Coefficients) -> np.ndarray:
        # Plain additions: torch and BLAS would wake threads that go on to wait for work on the cores of the next call.
        totals = spaces.numpy()[:, tables.turn_sums : tables.size]
        lanes = (totals[0] if len(totals) == 1 else totals.sum(0)).reshape(-1, tables.lanes)
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        rows = lanes[:, 0].astype(np.float64)
        turn_sums = rows[self._sum_order]  # the kernels leave Y of a group and then X of it
        # Turns that are taken back leave out their cosines, on the state and on the cotangent.
        turn_sums *= np.exp(2 * (self._earlier @ np.log(c.cosines)))[:, None]
        phase_sums = rows[2 * self.n_turns :].reshape(len(c.scale), self.dim) * np.square(c.scale)[:, None]
        return self._angles.backward(c, turn_sums, phase_sums)


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="ketune-circuit")


def _drive(
    tables: _Tables,
    program: np.ndarray,
    source: Tensor,
    c: Coefficients,
    size: int,
    out: Tensor | None = None,
    sums: np.ndarray | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Runs records on all blocks and returns the workspaces, one row per thread."""
    source = source.contiguous()
    batch, n_columns = source.shape
    if n_columns != tables.columns:
        source = torch.nn.functional.pad(source, (0, tables.columns - n_columns))
    blocks = -(-batch // tables.lanes)
    threads = max(1, min(torch.get_num_threads(), blocks // 2))
    spaces = source.new_empty(threads, -(-size // 64) * 64 + 64)
    out_columns = 0 if out is None else out.shape[1]
    shape = np.array([batch - 1, tables.columns, out_columns, 0 if weights is None else weights.shape[1]])
    pointers = np.array(
        [
            source.data_ptr(),
            0 if out is None else out.data_ptr(),
            0 if sums is None else sums.ctypes.data,
            c.tangents.ctypes.data,
            c.phases.ctypes.data,
            shape.ctypes.data,
            0 if weights is None else weights.data_ptr(),
        ]
    )
    drive, count = code.driver(), len(program) // RECORD
    where, tensors = program.ctypes.data, pointers.ctypes.data
    first, step = spaces.data_ptr(), spaces.shape[1] * spaces.itemsize
    edges = [blocks * i // threads for i in range(threads + 1)]

    def work(i: int) -> None:
        # Sums start at zero. Not by torch, whose own threads would wait for more work on the cores that we need now.
        if size > tables.turn_sums:
            offset = tables.turn_sums * spaces.itemsize
            ctypes.memset(first + i * step + offset, 0, step - offset)
        drive(first + i * step, edges[i], where, tensors, count, edges[i + 1])

    others = [_pool(os.getpid()).submit(work, i) for i in range(1, threads)]
    work(0)
    for other in others:
        other.result()
    return spaces
