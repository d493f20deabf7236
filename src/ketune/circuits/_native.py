"""The native simulator for CPUs: stages (`_passes`) on blocks of samples in compiled code (`_native_code`).

A block is as many samples as a vector register holds, side by side, so that every operation works on all of them. The
state of a block stays in the processor's cache from the features to the readouts, and on the way back the state and its
cotangent are taken back side by side: nothing of the size of a state is kept between the passes.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn.functional import pad

from ketune.circuits._apart import apart
from ketune.circuits._dtypes import fresh
from ketune.circuits._layers import Draft
from ketune.circuits._native_emitter import Io, Shape
from ketune.circuits._native_record_book import Program, backward_width
from ketune.circuits._native_records import Records
from ketune.circuits._native_threads import divide, run_pieces
from ketune.circuits._passes import Passes

_Pointers = ctypes.c_int64 * len(Io)
_Shape = ctypes.c_int64 * len(Shape)


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
        self.n_angles, self.readout, self.n_amplitudes, self.dim = n_angles, readout, n_amplitudes, 2**n_wires
        self.components = 1 if self.passes.is_real or not self.passes.stages else 2
        self.first_turn, self.n_turns = [], 0
        self.back_groups: list[list[tuple[int, int]]] = []
        width = backward_width(self.components)
        for stage in self.passes.stages:
            self.first_turn.append(self.n_turns)
            count = len(stage.turns)
            self.back_groups.append([(s, min(s + width, count)) for s in range(0, count, width)][::-1])
            self.n_turns += count
        self.n_outputs = self.dim if readout == "probabilities" else len(self.passes.words)
        self._records: dict[torch.dtype, Records] = {}

    def records(self, dtype: torch.dtype) -> Records:
        """Records for a type of computation, made on first use."""
        if dtype not in self._records:
            self._records[dtype] = apart(lambda: Records(self, 32 if dtype == torch.float32 else 64))
        return self._records[dtype]

    def call(self, angles: Tensor, dtype: torch.dtype) -> Call:
        """A call with (n_angles,) angles, in float32 or float64."""
        return Call(self, self.records(dtype), angles.detach().to(dtype).contiguous())


class Call:
    """What the angles of one call make of a plan, and the plan run with that.

    Args:
        plan: the plan.
        records: its records for the type of computation.
        angles: (n_angles,) in that type.
    """

    def __init__(self, plan: NativePlan, records: Records, angles: Tensor) -> None:
        self.plan, self.records = plan, records
        self._coefficients = angles.new_empty(records.coefficient_bytes, dtype=torch.uint8)
        start = self._coefficients.data_ptr()
        self._shape, self._pointers = _Shape(), _Pointers()
        pointers = self._pointers
        pointers[Io.TURNS], pointers[Io.PHASES] = start, start + records.phases_at
        pointers[Io.NUMBERS], pointers[Io.ANGLES] = start + records.numbers_at, angles.data_ptr()
        pointers[Io.SHAPE] = ctypes.addressof(self._shape)
        records.from_angles(None, 0, records.angles.address, ctypes.addressof(pointers))

    def run(self, amplitudes: Tensor) -> tuple[Tensor, Tensor]:
        """Readouts (B, outputs) and squared norms (B,), which count as `SMALLEST_SQUARED_NORM` at least.

        Args:
            amplitudes: (B, n_amplitudes) real, in the type of computation; B at least 1.
        """
        plan, records, batch = self.plan, self.records, amplitudes.shape[0]
        padded = -(-batch // records.lanes) * records.lanes
        norms = amplitudes.new_empty(padded)
        self._pointers[Io.NORMS] = norms.data_ptr()
        program = records.program(False, False, False)
        if plan.readout != "probabilities":
            out = amplitudes.new_empty(batch, plan.n_outputs)
            self._pointers[Io.READOUTS] = out.data_ptr()
            self._drive(program, amplitudes)
        else:
            whole = fresh(padded, records.out_columns, amplitudes, amplitudes.dtype)
            self._drive(program, amplitudes, out=whole)
            out = whole[:batch, : plan.n_outputs].contiguous()
        return out, norms[:batch]

    def run_back(
        self, amplitudes: Tensor, cotangent: Tensor, out: Tensor, need_x: bool, need_angles: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Cotangents of the amplitudes (B, n_amplitudes) and of the angles (n_angles,), in the type of computation.

        Args:
            amplitudes: as for `run`.
            cotangent: (B, outputs) of the readouts, in the type of computation.
            out: the readouts.
            need_x: whether the first result is wanted.
            need_angles: whether the second one is.
        """
        plan, records, batch = self.plan, self.records, amplitudes.shape[0]
        # Without a turn there are nothing but phases and permutations: the squares do not depend on the angles.
        measures = need_angles and plan.n_turns > 0
        d_x = None
        if need_x:
            padded = -(-batch // records.lanes) * records.lanes
            d_x = fresh(padded, records.columns, amplitudes, amplitudes.dtype)
        if plan.readout == "probabilities":
            cotangent = (
                pad(cotangent, (0, records.out_columns - plan.dim)) if records.out_columns != plan.dim else cotangent
            )
            self._shape[Shape.WEIGHTS] = records.out_columns
        cotangent, out = cotangent.contiguous(), out.contiguous()
        self._pointers[Io.WEIGHTS], self._pointers[Io.READOUTS] = cotangent.data_ptr(), out.data_ptr()
        n_pieces, totals = self._drive(records.program(True, need_x, measures), amplitudes, d_x, measures)
        d_angles = None
        if totals is not None:
            d_angles = amplitudes.new_empty(plan.n_angles)
            self._pointers[Io.ANGLES] = d_angles.data_ptr()
            records.to_angles(None, n_pieces, records.angles.address, ctypes.addressof(self._pointers))
        elif need_angles:
            d_angles = amplitudes.new_zeros(plan.n_angles)
        return None if d_x is None else d_x[:batch, : plan.n_amplitudes].contiguous(), d_angles

    def _drive(
        self, program: Program, source: Tensor, out: Tensor | None = None, measures: bool = False
    ) -> tuple[int, Tensor | None]:
        """Runs records on all blocks; returns the number of pieces, and their sums where the angles are measured."""
        records, pointers, shape = self.records, self._pointers, self._shape
        source = source.contiguous()
        batch, n_columns = source.shape
        if n_columns != records.columns:
            source = pad(source, (0, records.columns - n_columns))
        blocks = -(-batch // records.lanes)
        division = divide(blocks, self.plan.dim, len(self.plan.passes.stages))
        totals = source.new_empty(division.pieces, records.angles.total_rows, dtype=torch.float64) if measures else None
        shape[Shape.LAST], shape[Shape.IN] = batch - 1, records.columns
        pointers[Io.IN] = source.data_ptr()
        if out is not None:
            shape[Shape.OUT], pointers[Io.OUT] = out.shape[1], out.data_ptr()
        if totals is not None:
            pointers[Io.TOTALS] = totals.data_ptr()
        run_pieces(program, division, source, pointers)
        return division.pieces, totals
