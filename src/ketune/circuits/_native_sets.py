"""The compiled simulator on sets of angles: every sample of a block, one a lane, turns by angles of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ketune.circuits._apart import apart
from ketune.circuits._native_emitter import Io, Shape
from ketune.circuits._native_record_book import Program, whole
from ketune.circuits._native_sets_code import SetIo, SetShape
from ketune.circuits._native_sets_records import SetRecords
from ketune.circuits._native_threads import divide, run_pieces
from ketune.circuits._rotations import Rotations


@dataclass(frozen=True)
class Samples:
    """A batch in the type of computation.

    Attributes:
        features: (rows, n_features): a row for each sample, or fewer, which all sets of angles share.
        angles: (sets, n_angles).
        each: samples for each set; sample s has angles s // each, and features s modulo rows.
    """

    features: Tensor
    angles: Tensor
    each: int

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.angles) * self.each


class NativeSets:
    """A circuit made ready for a batch with sets of angles and one readout that is diagonal.

    Args:
        rotations: the circuit. Its angles are the features if those are angles, then products of features, then the
            angles of the sets.
        readout: "pauli_z", "probabilities" or a tuple of words of I and Z.
        encodes_angles: whether the features are angles, and the state starts as |0...0>; else they are its amplitudes.
        n_features: number of features.
        products: which features are multiplied.
        n_angles: length of a set of angles.
    """

    def __init__(
        self,
        rotations: Rotations,
        readout: str | tuple[str, ...],
        encodes_angles: bool,
        n_features: int,
        products: list[tuple[int, int]],
        n_angles: int,
    ) -> None:
        self.rotations, self.readout, self.dim = rotations, readout, 2**rotations.n_wires
        self.encodes_angles, self.n_features, self.products = encodes_angles, n_features, products
        self.n_angles = n_angles
        self.n_rows = (n_features + len(products) if encodes_angles else 0) + n_angles
        self.components = 1 if rotations.is_real or not rotations.steps else 2
        self._records: dict[int, SetRecords] = {}

    def records(self, dtype: torch.dtype) -> SetRecords:
        """Records for a type of computation."""
        bits = 32 if dtype == torch.float32 else 64
        if bits not in self._records:
            self._records[bits] = apart(lambda: SetRecords(self, bits))
        return self._records[bits]

    def run(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """Readouts (samples, outputs) and squared norms (samples,), which count as `SMALLEST_SQUARED_NORM` at least."""
        r, count, new = self.records(samples.angles.dtype), samples.count, samples.angles.new_empty
        padded = whole(count, r.lanes)
        norms = new(padded)
        if self.readout == "probabilities":
            out = new(padded, r.out_columns)
            _drive(
                r, r.program(False, False, False), samples, {Io.OUT: out, Io.NORMS: norms}, {Shape.OUT: r.out_columns}
            )
            out = out[:count, : self.dim].contiguous()
        else:
            out = new(count, len(self.rotations.words))
            _drive(r, r.program(False, False, False), samples, {Io.READOUTS: out, Io.NORMS: norms}, {})
        return out, norms[:count]

    def run_back(
        self, samples: Samples, cotangent: Tensor, out: Tensor, norms: Tensor, need_x: bool, need_angles: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Cotangents of the features (samples, n_features) and of the angles (samples, n_angles), one of each sample.

        Args:
            samples: as for `run`.
            cotangent: (samples, outputs) of the readouts, in the type of computation.
            out: the readouts.
            norms: the squared norms.
            need_x: whether the first result is wanted.
            need_angles: whether the second one is.
        """
        r, count, new = self.records(samples.angles.dtype), samples.count, samples.angles.new_empty
        need_angles = need_angles and self.n_angles > 0
        padded = whole(count, r.lanes)
        d_x = new(padded, r.feature_columns) if need_x else new(0)
        d_angles = new(padded, r.angle_columns) if need_angles else new(0)
        if self.readout == "probabilities":
            cotangent = pad(cotangent, (0, r.out_columns - self.dim))
        tensors = {
            Io.OUT: d_x,
            Io.READOUTS: out.contiguous(),
            Io.NORMS: norms.contiguous(),
            Io.WEIGHTS: cotangent.contiguous(),
            SetIo.D_ANGLES: d_angles,
        }
        shape: dict[int, int] = {Shape.OUT: r.feature_columns, Shape.WEIGHTS: r.out_columns}
        _drive(r, r.program(True, need_x, need_angles), samples, tensors, shape)
        return (
            d_x[:count, : self.n_features] if need_x else None,
            d_angles[:count, : self.n_angles] if need_angles else None,
        )


def _padded(tensor: Tensor, columns: int) -> Tensor:
    missing = columns - tensor.shape[1]
    return pad(tensor, (0, missing)) if missing > 0 else tensor.contiguous()


def _drive(
    r: SetRecords, program: Program, samples: Samples, tensors: Mapping[int, Tensor], numbers: Mapping[int, int]
) -> None:
    """Runs a program on all blocks, with tensors by their place in `Io` and numbers by theirs in `Shape`."""
    features, angles = _padded(samples.features, r.feature_columns), _padded(samples.angles, r.angle_columns)
    shape = (ctypes.c_int64 * (len(Shape) + len(SetShape)))()
    shape[Shape.LAST], shape[Shape.IN], shape[SetShape.ANGLE_COLUMNS] = (
        samples.count - 1,
        *map(_width, (features, angles)),
    )
    shape[SetShape.IN_ROWS], shape[SetShape.SAMPLES] = len(features), samples.each
    for place, number in numbers.items():
        shape[place] = number
    pointers = (ctypes.c_int64 * len(Io))()
    inputs = {Io.IN: features, SetIo.ANGLES: angles, Io.PHASES: r.fixed, Io.TURNS: r.word_signs}
    for place, tensor in {**inputs, **tensors}.items():
        pointers[place] = tensor.data_ptr()
    pointers[Io.SHAPE] = ctypes.addressof(shape)
    run_pieces(program, divide(-(-samples.count // r.lanes), r.dim, r.n_passes), features, pointers)


def _width(tensor: Tensor) -> int:
    return tensor.shape[1]
