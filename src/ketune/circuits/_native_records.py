"""Records of the compiled simulator: which kernel runs, on which rows, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from ketune.circuits import _native_code as code
from ketune.circuits._native_code import RECORD, Field
from ketune.circuits._passes import Word, sign_table, span

READOUT_WIDTH = 4
"""Bits of the rows whose squares are summed at a time."""

MOST_WRITTEN_OUT = 16
"""Words up to which the readout is code of its own, rather than a loop over words."""


class Records:
    """What records for one type of computation share, with everything they point to.

    Args:
        bits: 32 or 64, the floating-point type.
        n_wires: number of wires.
        components: 1 for real states, 2 for complex ones.

    Attributes:
        lanes: samples in a block.
        row: numbers of a row of a state.
        cotangent: where the workspace holds the cotangent of the state; between the two is a spare row.
        out_columns: basis states, padded to whole groups of lanes.
    """

    def __init__(self, bits: int, n_wires: int, components: int) -> None:
        self.bits, self.n_wires, self.components, self.dim = bits, n_wires, components, 2**n_wires
        self.dtype = torch.float32 if bits == 32 else torch.float64
        self.array_type = np.float32 if bits == 32 else np.float64
        self.lanes = code.vector_bytes() * 8 // bits
        self.row = self.lanes * components
        self.cotangent = (self.dim + 1) * self.row
        self.out_columns = -(-self.dim // self.lanes) * self.lanes
        self._kept: list[Tensor] = []
        self._programs: dict[tuple[object, ...], np.ndarray] = {}

    def program(self, key: tuple[object, ...], records: Callable[[], list[np.ndarray]]) -> np.ndarray:
        """The records of a kind of call, one after the other, put together once."""
        if key not in self._programs:
            self._programs[key] = np.concatenate(records())
        return self._programs[key]

    def table(self, values: list[int] | Tensor) -> int:
        """Address of a table of int32, or of a tensor, that lives as long as the records."""
        tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.int32)
        self._kept.append(tensor)
        return tensor.data_ptr()

    def record(self, name: str, *options: object, fields: dict[int, int]) -> np.ndarray:
        """One pass: a kernel with its options, and its fields by position."""
        record = np.zeros(RECORD, dtype=np.int64)
        record[Field.KERNEL] = code.kernel(self.bits, self.lanes, name, *options)
        record[Field.COTANGENT] = self.cotangent
        for field, value in fields.items():
            record[field] = value
        return record

    def tile(self, bases: list[int], steps: list[int]) -> dict[int, int]:
        """Fields of a pass over tiles of rows `base ^ step`."""
        return {
            Field.COUNT: len(bases),
            Field.BASES: self.table([base * self.row for base in bases]),
            Field.STEPS: self.table([step * self.row for step in steps]),
        }

    def zero(self, offsets: list[int]) -> list[np.ndarray]:
        """Zeros in the rows of some workspace offsets."""
        if not offsets:
            return []
        fields: dict[int, int] = {Field.COUNT: len(offsets), Field.BASES: self.table(offsets)}
        return [self.record("zero", self.components, fields=fields)]

    def rows_of_outputs(self, outputs: Iterable[Word]) -> Tensor:
        """Offset of the row of each basis state at the end, and of the spare row for columns beyond them."""
        rows = span([word.parity for word in outputs][::-1])
        rows += [self.dim] * (self.out_columns - self.dim)
        return torch.tensor([row * self.row for row in rows], dtype=torch.int32)

    def outputs(self, name: str, option: bool, rows: Tensor) -> np.ndarray:
        """A record that moves squares or their weights between rows and columns; `rows` must outlive it."""
        fields: dict[int, int] = {Field.COUNT: self.out_columns // self.lanes, Field.BASES: rows.data_ptr()}
        return self.record(name, self.components, option, fields=fields)

    def scale(self) -> np.ndarray:
        """A record that turns weights of squares into the cotangent of the state."""
        return self.record("scale", self.components, fields={Field.COUNT: self.dim})

    def readouts(self, words: Iterable[Word]) -> tuple[np.ndarray, np.ndarray]:
        """Records that sum squares under the signs of words and of one, the norm; and their way back."""
        width = min(READOUT_WIDTH, self.n_wires)
        bases = list(range(0, self.dim, 2**width))
        parities = [word.parity for word in words] + [0]
        patterns = [parity & (2**width - 1) for parity in parities]
        fields = self.tile(bases, list(range(2**width)))
        fields |= {
            Field.WORDS: len(parities),
            Field.SIGNS: self.table(sign_table(parities, bases).to(self.dtype).contiguous()),
            Field.PATTERNS: self.table(patterns),
        }
        written_out = tuple(patterns) if len(patterns) <= MOST_WRITTEN_OUT else ()
        first, second = (
            self.record(name, width, self.components, written_out, fields=fields) for name in ("readout", "seed")
        )
        return first, second
