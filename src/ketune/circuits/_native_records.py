"""The passes of a native plan as records: what each kernel of `_native_code` reads, for one type of computation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ketune.circuits import _native_code as code
from ketune.circuits._apart import apart
from ketune.circuits._native_emitter import RECORD, Field
from ketune.circuits._native_tables import AngleTables
from ketune.circuits._passes import Turn, kernel_of, sign_table, span

if TYPE_CHECKING:
    from ketune.circuits._native import NativePlan

READOUT_WIDTH = 4
"""Bits of the rows whose squares are summed at a time."""

MOST_WRITTEN_OUT = 16
"""Words up to which the readout is code of its own, rather than a loop over words."""

Fields = dict[Field, int]


class Sequence(NamedTuple):
    """Records of one kind of call: before the blocks of a piece, on every block, after them."""

    records: np.ndarray
    address: int
    before: int
    middle: int
    after: int
    size: int  # elements of a thread's workspace


def _sequence(before: list[np.ndarray], middle: list[np.ndarray], after: list[np.ndarray], size: int) -> Sequence:
    records = np.concatenate([*before, *middle, *after])
    return Sequence(records, records.ctypes.data, len(before), len(middle), len(after), size)


class Records:
    """Records for one type of computation, with everything they point to.

    Args:
        plan: the plan.
        bits: 32 or 64.
    """

    def __init__(self, plan: NativePlan, bits: int) -> None:
        self.plan, self.bits = plan, bits
        self.dtype = torch.float32 if bits == 32 else torch.float64
        self.lanes = lanes = code.vector_bytes() * 8 // bits
        self.row = lanes * plan.components
        self._kept: list[Tensor] = []
        self._sequences: dict[tuple[bool, ...], Sequence] = {}
        self.angles = AngleTables(plan.passes, plan.n_angles, plan.back_groups, lanes, plan.components)
        self._arrange()
        self._read_and_write()

    def _arrange(self) -> None:
        """Where things stand: in a thread's workspace (in elements) and in the coefficients of a call (in bytes)."""
        plan, lanes = self.plan, self.lanes
        # Columns beyond the amplitudes go to a spare row; flips may move it, within twice the rows.
        state = (2 * plan.dim if plan.dim < lanes else plan.dim + 1) * self.row
        self._factor, self._word_sums = state, state + lanes
        self._cotangent = self._word_sums + 2 * (len(plan.passes.words) + 1) * lanes
        self._turn_sums = self._cotangent + state
        self._phase_sums = self._turn_sums + 2 * plan.n_turns * lanes
        self._end = self._turn_sums + self.angles.total_rows * lanes
        size, doubles = self.bits // 8, self.angles.doubles
        self.phases_at = _aligned((plan.n_turns + len(plan.passes.words)) * size)
        phases = (len(plan.passes.stages) * plan.dim + doubles) * plan.components
        self.numbers_at = self.phases_at + _aligned(phases * size)
        self.coefficient_bytes = self.numbers_at + 8 * self.angles.n_numbers
        options = (self.bits, lanes, doubles, plan.components)
        self.from_angles = code.function(options[0], lanes, "angles", *options[2:])
        self.to_angles = code.function(options[0], lanes, "angles_back", *options[2:])

    def _read_and_write(self) -> None:
        """Records of the two ends of a block."""
        plan, lanes, dim = self.plan, self.lanes, self.plan.dim
        self.columns = _whole(plan.n_amplitudes, lanes)  # of the features, padded to whole groups
        self.out_columns = _whole(dim, lanes)
        rows = [min(k, dim) for k in range(max(self.columns, self.out_columns))]
        features = {Field.COUNT: self.columns // lanes, Field.BASES: self._table([r * self.row for r in rows])}
        self._load = {
            norms: self._record("load", plan.components, "features and norms" if norms else "features", fields=features)
            for norms in (False, True)
        }
        empty = list(range(self.columns, dim))
        zero = {Field.COUNT: len(empty), Field.BASES: self._table([r * self.row for r in empty])}
        self._zero = [self._record("zero", plan.components, fields=zero)] if empty else []
        self._store = self._record("store", plan.components, False, fields=features)
        sums = {Field.COUNT: self.angles.total_rows // lanes, Field.TURN_SUMS: self._turn_sums}
        self._clear, self._collect = (self._record(name, fields=sums) for name in ("clear", "collect"))
        if plan.readout == "probabilities":
            masks = [word.parity for word in plan.passes.outputs][::-1]
            offsets = [row * self.row for row in span(masks)] + [dim * self.row] * (self.out_columns - dim)
            fields = {Field.COUNT: self.out_columns // lanes, Field.BASES: self._table(offsets), Field.WORDS: dim}
            self._readout = self._record("store", plan.components, True, fields=fields)
            weights = self._record("load", plan.components, "weights", fields=fields)
            self._seed = [weights, self._record("scale", plan.components, fields={Field.COUNT: dim})]
        else:
            self._readout, seed = self._word_records()
            self._seed = [seed]

    def sequence(self, back: bool, need_x: bool, need_angles: bool) -> Sequence:
        """The records of a kind of call, put together once."""
        key = (back, need_x, need_angles)
        if key not in self._sequences:
            self._sequences[key] = apart(lambda: self._put_together(*key))
        return self._sequences[key]

    def _put_together(self, back: bool, need_x: bool, need_angles: bool) -> Sequence:
        stages = range(len(self.plan.passes.stages))
        forward = [self._load[back], *self._zero, *(record for n in stages for record in self._forward_stage(n))]
        if not back:
            return _sequence([], [*forward, self._readout], [], self._cotangent)
        way_back = [record for n in reversed(stages) for record in self._backward_stage(n, need_angles)]
        middle = [*forward, *self._seed, *way_back, *([self._store] if need_x else [])]
        before, after = ([self._clear], [self._collect]) if need_angles else ([], [])
        size = self._end if need_angles else self._turn_sums
        return _sequence(before, middle, after, size)

    def _table(self, values: list[int] | Tensor) -> int:
        tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.int32)
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _record(self, name: str, *options: object, fields: Fields) -> np.ndarray:
        record = np.zeros(RECORD, dtype=np.int64)
        record[Field.KERNEL] = code.kernel(self.bits, self.lanes, name, *options)
        record[Field.COTANGENT], record[Field.FACTOR] = self._cotangent, self._factor
        for field, value in fields.items():
            record[field] = value
        return record

    def _tile(self, turns: list[Turn]) -> Fields:
        bases = kernel_of([turn.parity for turn in turns], self.plan.passes.n_wires)
        steps = span([turn.mask for turn in turns])
        return {
            Field.COUNT: len(bases),
            Field.BASES: self._table([base * self.row for base in bases]),
            Field.STEPS: self._table([step * self.row for step in steps]),
        }

    def _places(self, number: int, start: int) -> Fields:
        plan = self.plan
        first = plan.first_turn[number] + start
        return {
            Field.TURNS: first,
            Field.PHASES: number * plan.dim * plan.components,
            Field.TURN_SUMS: self._turn_sums + 2 * first * self.lanes,
            Field.PHASE_SUMS: self._phase_sums + number * plan.dim * self.lanes,
        }

    def _forward_stage(self, number: int) -> list[np.ndarray]:
        plan, records = self.plan, []
        width = forward_width()
        turns = plan.passes.stages[number].turns
        for start in range(0, len(turns), width):
            group = turns[start : start + width]
            phases = "none" if start else "real" if plan.components == 2 and number == 0 else "all"
            fields = self._tile(group) | self._places(number, start)
            records.append(self._record("forward", len(group), plan.components, phases, fields=fields))
        return records

    def _backward_stage(self, number: int, need_angles: bool) -> list[np.ndarray]:
        plan, records = self.plan, []
        stage = plan.passes.stages[number]
        for start, stop in plan.back_groups[number]:
            group = stage.turns[start:stop]
            measures = "" if not need_angles else "xy" if any(turn.measures_x for turn in group) else "y"
            trained = need_angles and plan.components == 2 and any(phase.part != "fixed" for phase in stage.phases)
            phases = "none" if start else "trained" if trained else "fixed"
            fields = self._tile(group) | self._places(number, start)
            records.append(self._record("backward", len(group), plan.components, measures, phases, fields=fields))
        return records

    def _word_records(self) -> tuple[np.ndarray, np.ndarray]:
        """Records that read the words out and that start the cotangent from them."""
        plan = self.plan
        width = min(READOUT_WIDTH, plan.passes.n_wires)
        bases = list(range(0, plan.dim, 2**width))
        parities = [word.parity for word in plan.passes.words] + [0]  # the last one is the norm
        patterns = [parity & (2**width - 1) for parity in parities]
        fields = {
            Field.COUNT: len(bases),
            Field.BASES: self._table([base * self.row for base in bases]),
            Field.STEPS: self._table([step * self.row for step in range(2**width)]),
            Field.TURNS: plan.n_turns,
            Field.WORDS: len(parities),
            Field.SIGNS: self._table(sign_table(parities, bases).to(self.dtype).contiguous()),
            Field.PATTERNS: self._table(patterns),
            Field.SUMS: self._word_sums,
        }
        written_out = tuple(patterns) if len(patterns) <= MOST_WRITTEN_OUT else ()
        first, second = (
            self._record(name, width, plan.components, written_out, fields=fields) for name in ("readout", "seed")
        )
        return first, second


def _whole(count: int, lanes: int) -> int:
    """Padded to whole groups of lanes."""
    return -(-count // lanes) * lanes


def _aligned(n_bytes: int) -> int:
    """Up to the next line of the cache."""
    return _whole(n_bytes, 64)


def forward_width() -> int:
    """Wires that one pass turns at a time going forward."""
    return 3 if code.n_registers() == 32 else 2


def backward_width(components: int) -> int:
    """Wires that one pass takes back at a time."""
    wide = 3 if components == 1 else 2
    return wide if code.n_registers() == 32 else wide - 1
