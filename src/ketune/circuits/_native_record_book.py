"""Records of the compiled simulator: which kernel runs, on which rows, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ketune.circuits import _native_code as code
from ketune.circuits._native_emitter import RECORD, Field
from ketune.circuits._passes import Word, sign_table, span

READOUT_WIDTH = 4
"""Bits of the rows whose squares are summed at a time."""

MOST_WRITTEN_OUT = 16
"""Words up to which the readout is code of its own, rather than a loop over words."""


class Program(NamedTuple):
    """Records of one kind of call: before the blocks of a piece, on every block, after them."""

    records: np.ndarray
    address: int
    before: int
    middle: int
    after: int
    size: int  # elements of a thread's workspace


def put_together(
    before: Sequence[np.ndarray], middle: Sequence[np.ndarray], after: Sequence[np.ndarray], size: int
) -> Program:
    """Records one after the other."""
    records = np.concatenate([*before, *middle, *after])
    return Program(records, records.ctypes.data, len(before), len(middle), len(after), size)


class RecordBook:
    """Writes records for one type of computation and keeps everything they point to.

    A workspace begins with the rows of the state. `arrange` says where the cotangent of the state stands, and the row
    of the factors that come with the norms.

    Args:
        bits: 32 or 64, the floating-point type.
        n_wires: number of wires.
        components: 1 for real states, 2 for complex ones.

    Attributes:
        lanes: samples in a block.
        row: numbers of a row of a state.
        out_columns: basis states, padded to whole groups of lanes.
    """

    def __init__(self, bits: int, n_wires: int, components: int) -> None:
        self.bits, self.n_wires, self.components, self.dim = bits, n_wires, components, 2**n_wires
        self.dtype = torch.float32 if bits == 32 else torch.float64
        self.lanes = code.vector_bytes() * 8 // bits
        self.row = self.lanes * components
        self.out_columns = whole(self.dim, self.lanes)
        self.cotangent = self.factor = 0
        self._kept: list[Tensor] = []

    def arrange(self, cotangent: int, factor: int) -> None:
        """Workspace offsets that every record may need."""
        self.cotangent, self.factor = cotangent, factor

    def table(self, values: list[int] | Tensor) -> int:
        """Address of a table of int32, or of a tensor, that lives as long as the records."""
        tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.int32)
        self._kept.append(tensor)
        return tensor.data_ptr()

    def record(self, name: str, *options: object, fields: Mapping[int, int]) -> np.ndarray:
        """One pass: a kernel with its options, and its fields by position."""
        record = np.zeros(RECORD, dtype=np.int64)
        record[Field.KERNEL] = code.kernel(self.bits, self.lanes, name, *options)
        record[Field.COTANGENT], record[Field.FACTOR] = self.cotangent, self.factor
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
        """Zeros in the rows at some workspace offsets."""
        if not offsets:
            return []
        fields: dict[int, int] = {Field.COUNT: len(offsets), Field.BASES: self.table(offsets)}
        return [self.record("zero", self.components, fields=fields)]

    def probabilities(self, outputs: Sequence[Word]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Records that read probabilities out, and that start the cotangent of the state from theirs."""
        rows = span([word.parity for word in outputs][::-1])
        offsets = [row * self.row for row in rows] + [self.dim * self.row] * (self.out_columns - self.dim)
        fields: dict[int, int] = {
            Field.COUNT: self.out_columns // self.lanes,
            Field.BASES: self.table(offsets),
            Field.WORDS: self.dim,
        }
        weights = self.record("load", self.components, "weights", fields=fields)
        scale = self.record("scale", self.components, fields={Field.COUNT: self.dim})
        return self.record("store", self.components, True, fields=fields), [weights, scale]

    def words(self, words: Sequence[Word], signs: int, sums: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Records that read words out, and that start the cotangent of the state from theirs.

        Args:
            words: the words.
            signs: where the signs that the angles gave them begin in Io.TURNS.
            sums: workspace offset of two rows for each word and for the norm.
        """
        width = min(READOUT_WIDTH, self.n_wires)
        bases = list(range(0, self.dim, 2**width))
        parities = [word.parity for word in words] + [0]  # the last one is the norm
        patterns = [parity & (2**width - 1) for parity in parities]
        fields = self.tile(bases, list(range(2**width))) | {
            Field.TURNS: signs,
            Field.WORDS: len(parities),
            Field.SIGNS: self.table(sign_table(parities, bases).to(self.dtype).contiguous()),
            Field.PATTERNS: self.table(patterns),
            Field.SUMS: sums,
        }
        written_out = tuple(patterns) if len(patterns) <= MOST_WRITTEN_OUT else ()
        first, second = (
            self.record(name, width, self.components, written_out, fields=fields) for name in ("readout", "seed")
        )
        return first, [second]


def whole(count: int, lanes: int) -> int:
    """Padded to whole groups of lanes."""
    return -(-count // lanes) * lanes


def forward_width() -> int:
    """Wires that one pass turns at a time going forward."""
    return 3 if code.n_registers() == 32 else 2


def backward_width(components: int) -> int:
    """Wires that one pass takes back at a time."""
    wide = 3 if components == 1 else 2
    return wide if code.n_registers() == 32 else wide - 1
