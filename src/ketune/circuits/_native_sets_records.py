"""Records of the compiled simulator for sets of angles: where everything lies in the workspace, and what runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from ketune.circuits._apart import apart
from ketune.circuits._native_record_book import Program, RecordBook, backward_width, forward_width, put_together
from ketune.circuits._native_sets_code import SetField
from ketune.circuits._passes import independent, span
from ketune.circuits._rotations import Rotation
from ketune.circuits._tile_passes import TilePass, schedule

if TYPE_CHECKING:
    from ketune.circuits._native_sets import NativeSets


class SetRecords(RecordBook):
    """Records for one type of computation.

    Attributes:
        n_passes: passes going forward, at least 1.
        fixed: fixed phases of all passes, in the type of computation.
        word_signs: signs of the words, all positive.
        feature_columns: columns that the tensors of features need at least; they are padded to them.
        angle_columns: the same of the angles.
    """

    def __init__(self, plan: NativeSets, bits: int) -> None:
        super().__init__(bits, plan.rotations.n_wires, plan.components)
        self.plan, lanes = plan, self.lanes
        steps, n_wires = plan.rotations.steps, self.n_wires
        self._passes = schedule(steps, n_wires, forward_width())
        self._back_passes = schedule(steps, n_wires, backward_width(plan.components))
        # The workspace beyond state and cotangent, in rows of lanes.
        self.n_passes = max(1, len(self._passes))
        self._cosine = {key: i for i, key in enumerate(dict.fromkeys(map(_kind, steps)))}
        every = [*self._passes, *self._back_passes]
        sizes = [2 ** (p.width + 1) if rotations else 0 for p in every for rotations in (p.before, p.after)]
        rows = plan.n_rows + 1  # of angles, with a spare one
        state, words = (self.dim + 1) * self.row, plan.rotations.words  # with a spare row
        counts = [rows, 2 * len(self._cosine), *sizes, 2 * max(sizes, default=0), rows, 1, 2 * (len(words) + 1)]
        edges = [2 * state + lanes * edge for edge in accumulate(counts, initial=0)]
        self._angles, self._cosines, *tables, self._sums, self._gradients, factor, word_sums, self.size = edges
        self.arrange(state, factor)
        self._tables = {id(p): (tables[2 * i], tables[2 * i + 1]) for i, p in enumerate(every)}
        self._bases = {id(p): bases for group in (self._passes, self._back_passes) for p, bases in self._tiles(group)}
        self._fixed_at: dict[int, int] = {}
        self.fixed = self._fixed_phases(every)

        self.feature_columns, self.angle_columns = max(plan.n_features, lanes), max(plan.n_angles, lanes)
        self._inputs = [*self._load_features(), *self._load_angles()]
        self._forward_passes = [self._forward(p) for p in self._passes]
        self._phases = [record for p in self._passes for record in self._phase_tables(p)]
        self._back_phases = [record for p in self._back_passes for record in self._phase_tables(p)]
        self._programs: dict[tuple[bool, ...], Program] = {}
        self.word_signs = torch.ones(len(words) + 1, dtype=self.dtype)  # sets know no flips
        if plan.readout == "probabilities":
            self._readout, self._seed = self.probabilities(plan.rotations.outputs)
        else:
            self._readout, self._seed = self.words(words, 0, word_sums)

    def program(self, back: bool, need_x: bool, need_angles: bool) -> Program:
        """The records of a kind of call, put together once."""
        key = (back, need_x, need_angles)
        if key not in self._programs:
            self._programs[key] = apart(lambda: self._put_together(*key))
        return self._programs[key]

    def _put_together(self, back: bool, need_x: bool, need_angles: bool) -> Program:
        if not back:
            records = [*self._inputs, *self._phases, *self._forward_passes, self._readout]
            return put_together([], records, [], self.size)
        measures = need_angles or (need_x and self.plan.encodes_angles)
        records = [*self._inputs, *self._phases, *self._back_phases, *self._forward_passes]
        records += [self.record("set_factor", fields={}), *self._seed, *self._backward_passes(measures)]
        records += [self._store_features()] if need_x else []
        records += [self._store_angles()] if need_angles else []
        return put_together([], records, [], self.size)

    def _tiles(self, passes: list[TilePass]) -> Iterator[tuple[TilePass, list[int]]]:
        """The first row of each tile that a pass has to visit.

        The others hold zeros going forward: a state that starts in few rows reaches more of them with every turn. Going
        back such rows have no part in the gradients of this pass and those before it.
        """
        bits = 0 if self.plan.encodes_angles else (self.plan.n_features - 1).bit_length()
        reached = [1 << bit for bit in range(bits)]
        for p in passes:
            reached += p.masks
            inside = set(span(independent(reached)))
            yield p, [base for base in p.bases(self.n_wires) if base in inside]

    def _angle(self, index: int) -> int:
        return self._angles + index * self.lanes

    def _columns(self, count: int, most: int, first: int, step: int, spare: int) -> dict[int, int]:
        """Fields that move columns to rows, which begin at `first`. The last group of columns overlaps with the one
        before; columns beyond `count` go to the spare row."""
        starts = [min(start, most - self.lanes) for start in range(0, most, self.lanes)]
        columns = [start + i for start in starts for i in range(self.lanes)]
        rows = [first + column * step if column < count else spare for column in columns]
        return {
            SetField.COUNT: len(starts),
            SetField.STEPS: self.table(starts),
            SetField.BASES: self.table(rows),
        }

    def _feature_fields(self, back: bool) -> dict[int, int]:
        plan = self.plan
        if plan.encodes_angles:
            first = self._gradients if back else self._angles
            return self._angle_fields(plan.n_features, self.feature_columns, first, first)
        first = self.cotangent if back else 0
        return self._columns(plan.n_features, self.feature_columns, first, self.row, first + self.dim * self.row)

    def _angle_fields(self, count: int, most: int, first: int, rows: int) -> dict[int, int]:
        return self._columns(count, most, first, self.lanes, rows + self.plan.n_rows * self.lanes)

    def _load_features(self) -> list[np.ndarray]:
        plan = self.plan
        filled = 1 if plan.encodes_angles else plan.n_features
        rows = [k * self.row for k in range(filled, self.dim)]
        if self.components == 2:
            rows += [k * self.row + self.lanes for k in range(self.dim)]
        start = [self.record("set_start", fields={})] if plan.encodes_angles else []
        return [self.record("set_load", False, fields=self._feature_fields(False)), *start, *self.zero(rows)]

    def _load_angles(self) -> list[np.ndarray]:
        plan, records = self.plan, []
        if plan.n_angles:
            first = self._angle(plan.n_rows - plan.n_angles)
            fields = self._angle_fields(plan.n_angles, self.angle_columns, first, self._angles)
            records.append(self.record("set_load", True, fields=fields))
        if plan.products:
            records.append(self.record("set_products", False, fields=self._products()))
        if self._cosine:
            numbers = [number for _, factor, offset in self._cosine for number in (factor, offset)]
            fields: dict[int, int] = {
                SetField.COUNT: len(self._cosine),
                SetField.BASES: self.table([self._angle(plan.n_rows if a is None else a) for a, _, _ in self._cosine]),
                SetField.FACTORS: self._numbers(numbers),
                SetField.BEFORE: self._cosines,
            }
            records += self.zero([self._angle(plan.n_rows)])  # the angle of constants
            records.append(self.record("set_cosines", fields=fields))
        return records

    def _numbers(self, values: list[float]) -> int:
        return self.table(torch.tensor(values, dtype=torch.float64).to(self.dtype))

    def _products(self) -> dict[int, int]:
        plan = self.plan
        first, second = ([self._angle(pair[k]) for pair in plan.products] for k in range(2))
        products = [self._angle(plan.n_features + i) for i in range(len(plan.products))]
        return {
            SetField.COUNT: len(products),
            SetField.BASES: self.table(first),
            SetField.STEPS: self.table(second),
            SetField.ANGLES: self.table(products),
            SetField.SUMS: self._gradients - self._angles,
        }

    def _fixed_phases(self, passes: list[TilePass]) -> torch.Tensor:
        tables = []
        for p in passes:
            if p.fixed:
                self._fixed_at[id(p)] = len(tables) * self.dim * self.components
                tables.append(_phases_of(p.fixed, self.dim))
        phases = torch.stack(tables) if tables else torch.ones(1, self.dim, dtype=torch.complex128)
        parts = torch.view_as_real(phases) if self.components == 2 else phases.real
        return parts.to(self.dtype).contiguous()

    def _cosines_of(self, rotations: list[Rotation]) -> int:
        places = [self._cosines + 2 * self.lanes * self._cosine[_kind(rotation)] for rotation in rotations]
        return self.table(places)

    def _phase_tables(self, p: TilePass) -> list[np.ndarray]:
        records = []
        for rotations, place in zip((p.before, p.after), self._tables[id(p)]):
            if rotations:
                signs = [float(p.sign(rotation, row)) for rotation in rotations for row in range(2**p.width)]
                fields: dict[int, int] = {
                    SetField.COUNT: len(rotations),
                    SetField.ANGLES: self._cosines_of(rotations),
                    SetField.FACTORS: self._numbers(signs),
                    SetField.BEFORE: place,
                }
                records.append(self.record("set_phases", p.width, fields=fields))
        return records

    def _options(self, p: TilePass) -> tuple[bool, bool, int, int, bool]:
        xs, ys = (sum(1 << wire for wire in group) for group in (p.xs, p.ys))
        return bool(p.fixed), bool(p.before), xs, ys, bool(p.after)

    def _fields(self, p: TilePass) -> dict[int, int]:
        before, after = self._tables[id(p)]
        return self.tile(self._bases[id(p)], p.steps()) | {
            SetField.ANGLES: self._cosines_of(p.turns),
            SetField.FIXED: self._fixed_at.get(id(p), 0),
            SetField.BEFORE: before,
            SetField.AFTER: after,
        }

    def _forward(self, p: TilePass) -> np.ndarray:
        return self.record("set_forward", p.width, self.components, *self._options(p), fields=self._fields(p))

    def _backward_passes(self, measures: bool) -> list[np.ndarray]:
        """Records of the passes taken back, the last one first; with `measures` the gradients of all angles."""
        rows = [self._gradients + k * self.lanes for k in range(self.plan.n_rows + 1)]
        records = self.zero(rows) if measures else []
        for p in self._back_passes[::-1]:
            records += self._backward(p, measures)
        if measures and self.plan.products:
            records.append(self.record("set_products", True, fields=self._products()))
        return records

    def _backward(self, p: TilePass, measures: bool) -> list[np.ndarray]:
        fields = self._fields(p) | {SetField.SUMS: self._sums} | self._gradient_fields(p.turns, [])
        options = (p.width, self.components, measures, *self._options(p))
        records, sums = [self.record("set_backward", *options, fields=fields)], self._sums
        for rotations in (p.before, p.after) if measures else ():
            if rotations:
                signs = [p.sign(rotation, row) for rotation in rotations for row in range(2**p.width)]
                fields = {SetField.COUNT: len(rotations), SetField.SUMS: sums} | self._gradient_fields(rotations, signs)
                records.append(self.record("set_phase_sums", p.width, fields=fields))
                sums += self.lanes * 2**p.width
        return records

    def _gradient_fields(self, rotations: list[Rotation], signs: list[int]) -> dict[int, int]:
        spare = self.plan.n_rows
        places = [spare if rotation.angle is None else rotation.angle for rotation in rotations]
        factors = [rotation.factor for rotation in rotations]
        if signs:
            each = len(signs) // len(rotations)
            factors = [sign * factors[i // each] for i, sign in enumerate(signs)]
        return {
            SetField.GRADIENTS: self.table([self._gradients + place * self.lanes for place in places]),
            SetField.FACTORS: self._numbers(factors),
        }

    def _store_features(self) -> np.ndarray:
        """A record that writes the gradients of the features."""
        return self.record("set_store", False, fields=self._feature_fields(True))

    def _store_angles(self) -> np.ndarray:
        """A record that writes the gradients of the angles."""
        first = self._gradients + (self.plan.n_rows - self.plan.n_angles) * self.lanes
        fields = self._angle_fields(self.plan.n_angles, self.angle_columns, first, self._gradients)
        return self.record("set_store", True, fields=fields)


def _kind(rotation: Rotation) -> tuple[int | None, float, float]:
    return rotation.angle, rotation.factor, rotation.offset


def _phases_of(fixed: list[Rotation], dim: int) -> torch.Tensor:
    """(dim,) complex: the product of fixed phases."""
    masks, values = zip(*(phase for rotation in fixed for phase in rotation.phases))
    odd = np.arange(dim) & np.array(masks)[:, None]
    for shift in (8, 4, 2, 1):  # parities of 16 bits
        odd ^= odd >> shift
    total = torch.from_numpy(np.array(values) @ (odd & 1))
    return torch.polar(torch.ones_like(total), total)
