"""The tables by which compiled code makes tangents and phases of angles (`_native_angles`) and goes the way back.

Each slot of the circuit, a 2 x 2 matrix, is a turn between a lead and a trail phase. Everything that the angles decide
is worked out by that code at every call; here are the constants: which angles make which slot, which slots make which
phases and turns, and which signs change when a turn becomes a flip and a smaller turn.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ketune.circuits._gate_matrices import angle_tables, most_rotations
from ketune.circuits._layers import slot_terms
from ketune.circuits._native_code import vector_bytes
from ketune.circuits._native_maps import DIAGONAL, GENERAL, REAL, Map
from ketune.circuits._passes import Passes

_KINDS = {"diagonal": DIAGONAL, "real": REAL, "general": GENERAL}


class AngleTables:
    """Constants of one circuit for one type of computation.

    Args:
        passes: the stages.
        n_angles: length of the angle vector.
        back_groups: for each stage the ranges of its turns that one pass takes back, in the order of the way back.
        lanes: samples in a block.
        components: 2 for complex states.

    Attributes:
        record: what the compiled code reads, see `Map`.
        address: where that stands.
        n_numbers: doubles that it works with.
        total_rows: rows of the sums over samples: two for each turn, one for each basis state of each stage, and
            padding to whole groups of lanes.
    """

    def __init__(
        self,
        passes: Passes,
        n_angles: int,
        back_groups: list[list[tuple[int, int]]],
        lanes: int,
        components: int,
    ) -> None:
        self._kept: list[Tensor] = []
        self.record = np.zeros(len(Map), dtype=np.int64)
        self.address = self.record.ctypes.data
        self.n_numbers = 0
        slots, turns, dim = [slot for _, slot in passes.slots], passes.turns(), 2**passes.n_wires
        n_slots, n_stages, rotations = len(slots), len(passes.stages), most_rotations(slots)
        self.total_rows = -(-(2 * len(turns) + n_stages * dim) // lanes) * lanes
        self.doubles = vector_bytes() // 8
        outputs = [] if passes.words else passes.outputs  # flips of words change signs, and those of outputs addresses
        places = max([len(stage.phases) for stage in passes.stages], default=0)
        sources, parities, z_slots, phase_flips, fixed = self._phases(passes, places)
        masks = [turn.flips for turn in turns] + phase_flips + [word.flips for word in (*passes.words, *outputs)]
        flip_words = -(-n_slots // 64)
        sizes = {
            Map.ANGLES: n_angles,
            Map.ROTATIONS: rotations,
            Map.SLOTS: n_slots,
            Map.TURNS: len(turns),
            Map.STAGES: n_stages,
            Map.DIM: dim,
            Map.SPECTRUM_SIZE: max(dim, self.doubles),
            Map.PLACES: places,
            Map.WORDS: len(passes.words),
            Map.OUTPUTS: len(outputs),
            Map.FLIP_WORDS: flip_words,
            Map.MASKS: len(masks),
            Map.FIXED: len(fixed),
            Map.ROW: lanes * components,
            Map.TOTAL_ROWS: self.total_rows,
        }
        for field, value in sizes.items():
            self.record[field] = value
        index, half = angle_tables(slots, rotations)
        terms = [torch.view_as_real(slot_terms(slot, rotations)).flatten() for slot in slots]
        first_turns = np.cumsum([0] + [len(stage.turns) for stage in passes.stages]).tolist()
        order, rows = _way_back(first_turns, back_groups)
        integers = {
            Map.INDEX: index.tolist(),
            Map.KINDS: [_KINDS[kind] for kind, _ in passes.slots],
            Map.TURN_SLOTS: [turn.slot for turn in turns],
            Map.FIRST_TURNS: first_turns,
            Map.BACK_ORDER: order,
            Map.SUM_ROWS: rows,
            Map.SOURCES: sources,
            Map.PARITIES: parities,
            Map.Z_SLOTS: z_slots,
            Map.OUTPUT_PARITIES: [output.parity for output in outputs],
        }
        for field, values in integers.items():
            self._table(field, torch.tensor(values, dtype=torch.int32))
        self._table(Map.FLIPS, _bit_words(masks, flip_words))
        self._table(Map.HALF, half.contiguous())
        self._table(Map.TERMS, torch.cat(terms) if terms else torch.zeros(0, dtype=torch.float64))
        self._table(Map.REFLECTED, torch.tensor([_reflected(*slot) for slot in passes.slots], dtype=torch.float64))
        self._table(Map.FIXED_PHASES, torch.tensor(fixed, dtype=torch.float64))
        counts = {
            Map.SPECTRUM: max(dim, self.doubles),
            Map.TRIG: n_slots * rotations * 2,
            Map.PRODUCTS: n_slots * 2**rotations,
            Map.MATRICES: n_slots * 8,
            Map.PHASES: 2 * n_slots + len(fixed),
            Map.TRAILS: n_slots * 2,
            Map.SLOPES: n_slots,
            Map.FLIPPED: flip_words,
            Map.SIGNS: len(masks),
            Map.COSINES: len(turns),
            Map.SCALES: n_stages,
            Map.GENERATORS: n_slots * 8,
            Map.GRADIENT: n_angles,
            Map.SUMS: self.total_rows,
        }
        for field, count in counts.items():
            self.record[field] = self.n_numbers
            self.n_numbers += -(-count // 8) * 8

    def _table(self, field: Map, values: Tensor) -> None:
        self._kept.append(values)
        self.record[field] = values.data_ptr()

    @staticmethod
    def _phases(passes: Passes, places: int) -> tuple[list[int], list[int], list[int], list[int], list[float]]:
        """Per stage and place: where the phase comes from, its parity, the slot that it turns about Z, its flips; and
        the fixed phases, of which the first is the zero that fills places."""
        n_slots, size = len(passes.slots), len(passes.stages) * places
        offsets = {"lead": 0, "diagonal": 0, "trail": n_slots}
        sources, parities, z_slots, flips, fixed = [2 * n_slots] * size, [0] * size, [-1] * size, [0] * size, [0.0]
        for stage, place, phase in passes.phases():
            i = stage * places + place
            if phase.part == "fixed":
                sources[i] = 2 * n_slots + len(fixed)
                fixed.append(phase.value)
            else:
                sources[i] = offsets[phase.part] + phase.slot
            if phase.part in ("trail", "diagonal"):
                z_slots[i] = phase.slot
            parities[i], flips[i] = phase.parity, phase.flips
        return sources, parities, z_slots, flips, fixed


def _reflected(kind: str, slot: list) -> float:
    """The lead phase of a real matrix that does not depend on angles: pi if it is a reflection."""
    if kind != "real":
        return 0.0
    idle = slot_terms(slot, sum(step.angle is not None for step in slot))[0].real  # all angles zero
    return math.pi if torch.det(idle) < 0 else 0.0


def _way_back(first_turns: list[int], back_groups: list[list[tuple[int, int]]]) -> tuple[list[int], list[int]]:
    """Turns in the order in which they are taken back, and for each turn the rows of its sums along Y and X.

    The kernels leave Y of all turns of a group and then X of all of them.
    """
    order, rows = [], [0] * (2 * first_turns[-1])
    for first, groups in zip(first_turns, back_groups):
        for start, stop in groups:
            order += range(first + start, first + stop)
            for i in range(start, stop):
                y = 2 * (first + start) + i - start
                rows[2 * (first + i) : 2 * (first + i) + 2] = y, y + stop - start
    return order, rows


def _bit_words(masks: list[int], n_words: int) -> Tensor:
    """Masks of any number of bits as rows of int64 words, the lowest bits first."""
    words = [mask >> 64 * word & (1 << 64) - 1 for mask in masks for word in range(n_words)]
    return torch.from_numpy(np.array(words, dtype=np.uint64).view(np.int64))
