"""The passes of a native plan as records: what each kernel of `_native_code` reads, for one type of computation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ketune.circuits import _native_code as code
from ketune.circuits._apart import apart
from ketune.circuits._native_emitter import Field
from ketune.circuits._native_record_book import Program, RecordBook, forward_width, put_together, whole
from ketune.circuits._native_tables import AngleTables
from ketune.circuits._passes import Turn, kernel_of, span

if TYPE_CHECKING:
    from ketune.circuits._native import NativePlan


class Records(RecordBook):
    """Records for one type of computation, with everything they point to.

    Args:
        plan: the plan.
        bits: 32 or 64.
    """

    def __init__(self, plan: NativePlan, bits: int) -> None:
        super().__init__(bits, plan.passes.n_wires, plan.components)
        self.plan = plan
        self._programs: dict[tuple[bool, ...], Program] = {}
        self.angles = AngleTables(plan.passes, plan.n_angles, plan.back_groups, self.lanes, plan.components)
        self._arrange()
        self._read_and_write()

    def _arrange(self) -> None:
        """Where things stand: in a thread's workspace (in elements) and in the coefficients of a call (in bytes)."""
        plan, lanes = self.plan, self.lanes
        # Columns beyond the amplitudes go to a spare row; flips may move it, within twice the rows.
        state = (2 * plan.dim if plan.dim < lanes else plan.dim + 1) * self.row
        self._word_sums = state + lanes
        self.arrange(self._word_sums + 2 * (len(plan.passes.words) + 1) * lanes, state)
        self._turn_sums = self.cotangent + state
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
        self.columns = whole(plan.n_amplitudes, lanes)  # of the features, padded to whole groups
        rows = [min(k, dim) * self.row for k in range(self.columns)]
        features: dict[int, int] = {Field.COUNT: self.columns // lanes, Field.BASES: self.table(rows)}
        self._load = {
            norms: self.record("load", plan.components, "features and norms" if norms else "features", fields=features)
            for norms in (False, True)
        }
        self._zero = self.zero([k * self.row for k in range(self.columns, dim)])
        self._store = self.record("store", plan.components, False, fields=features)
        sums: dict[int, int] = {Field.COUNT: self.angles.total_rows // lanes, Field.TURN_SUMS: self._turn_sums}
        self._clear, self._collect = (self.record(name, fields=sums) for name in ("clear", "collect"))
        if plan.readout == "probabilities":
            self._readout, self._seed = self.probabilities(plan.passes.outputs)
        else:
            self._readout, self._seed = self.words(plan.passes.words, plan.n_turns, self._word_sums)

    def program(self, back: bool, need_x: bool, need_angles: bool) -> Program:
        """The records of a kind of call, put together once."""
        key = (back, need_x, need_angles)
        if key not in self._programs:
            self._programs[key] = apart(lambda: self._put_together(*key))
        return self._programs[key]

    def _put_together(self, back: bool, need_x: bool, need_angles: bool) -> Program:
        stages = range(len(self.plan.passes.stages))
        forward = [self._load[back], *self._zero, *(record for n in stages for record in self._forward_stage(n))]
        if not back:
            return put_together([], [*forward, self._readout], [], self.cotangent)
        way_back = [record for n in reversed(stages) for record in self._backward_stage(n, need_angles)]
        middle = [*forward, *self._seed, *way_back, *([self._store] if need_x else [])]
        before, after = ([self._clear], [self._collect]) if need_angles else ([], [])
        return put_together(before, middle, after, self._end if need_angles else self._turn_sums)

    def _turns(self, turns: list[Turn]) -> dict[int, int]:
        bases = kernel_of([turn.parity for turn in turns], self.n_wires)
        return self.tile(bases, span([turn.mask for turn in turns]))

    def _places(self, number: int, start: int) -> dict[int, int]:
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
            fields = self._turns(group) | self._places(number, start)
            records.append(self.record("forward", len(group), plan.components, phases, fields=fields))
        return records

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


def _aligned(n_bytes: int) -> int:
    """Up to the next line of the cache."""
    return whole(n_bytes, 64)
