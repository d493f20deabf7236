"""The compiled simulator on sets of angles: every sample of a block, one a lane, turns by angles of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ketune.circuits import _native_code as code
from ketune.circuits._apart import apart
from ketune.circuits._native import SMALLEST_SQUARED_NORM, _pool
from ketune.circuits._native_code import RECORD
from ketune.circuits._native_sets_records import SetRecords
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
        r, count = self.records(samples.angles.dtype), samples.count
        blocks = -(-count // r.lanes)
        if self.readout == "probabilities":
            out = samples.angles.new_empty(blocks * r.lanes, r.out_columns)
            program = r.program(
                ("forward",), lambda: [*r.inputs, *r.phases, *r.forward, r.outputs("store", True, r.output_rows)]
            )
            _drive(r, program, samples, out=out)
            out = out[:count, : self.dim]
            norms = out.sum(1).clamp_min_(SMALLEST_SQUARED_NORM)
            return out / norms[:, None], norms
        program = r.program(("forward",), lambda: [*r.inputs, *r.phases, *r.forward, r.readout])
        sums = np.empty((blocks, len(self.rotations.words) + 1, r.lanes), r.array_type)
        _drive(r, program, samples, sums=sums)
        norms = np.maximum(sums[:, -1], SMALLEST_SQUARED_NORM)
        values = (sums[:, :-1] / norms[:, None]).transpose(0, 2, 1)
        readouts = np.ascontiguousarray(values).reshape(blocks * r.lanes, -1)[:count]
        return torch.from_numpy(readouts), torch.from_numpy(norms.reshape(-1)[:count])

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
        r, count = self.records(samples.angles.dtype), samples.count
        need_angles = need_angles and self.n_angles > 0
        blocks = -(-count // r.lanes)
        new = samples.angles.new_empty
        d_x = new(blocks * r.lanes, r.feature_columns) if need_x else None
        d_angles = new(blocks * r.lanes, r.angle_columns) if need_angles else None
        # out = sums / norm: every square carries the cotangent of the norm too.
        weights = cotangent.numpy() * (2.0 / norms.numpy())[:, None]
        norm_weights = -np.einsum("bk,bk->b", weights, out.numpy())
        sums = squares = None
        if self.readout == "probabilities":
            squares = samples.angles.new_zeros(blocks * r.lanes, r.out_columns)
            squares[:count, : self.dim] = torch.from_numpy(weights + norm_weights[:, None])
            seed = [r.outputs("load", True, r.output_rows), r.scale()]
        else:
            columns = np.zeros((blocks * r.lanes, weights.shape[1] + 1), r.array_type)
            columns[:count, :-1], columns[:count, -1] = weights, norm_weights
            sums = np.ascontiguousarray(columns.reshape(blocks, r.lanes, -1).transpose(0, 2, 1))
            seed = [r.seed]
        measures = need_angles or (need_x and self.encodes_angles)
        program = r.program(
            ("backward", need_x, need_angles),
            lambda: [
                *(*r.inputs, *r.phases, *r.back_phases, *r.forward, *seed, *r.back(measures)),
                *([r.store_features()] if need_x else []),
                *([r.store_angles()] if need_angles else []),
            ],
        )
        _drive(r, program, samples, out=d_x, sums=sums, weights=squares, d_angles=d_angles)
        return (
            None if d_x is None else d_x[:count, : self.n_features],
            None if d_angles is None else d_angles[:count, : self.n_angles],
        )


def _padded(tensor: Tensor, columns: int) -> Tensor:
    missing = columns - tensor.shape[1]
    return torch.nn.functional.pad(tensor, (0, missing)) if missing > 0 else tensor.contiguous()


def _drive(
    r: SetRecords,
    program: np.ndarray,
    samples: Samples,
    out: Tensor | None = None,
    sums: np.ndarray | None = None,
    weights: Tensor | None = None,
    d_angles: Tensor | None = None,
) -> None:
    """Runs records on all blocks."""
    features, angles = _padded(samples.features, r.feature_columns), _padded(samples.angles, r.angle_columns)
    columns = [0 if tensor is None else tensor.shape[1] for tensor in (out, weights)]
    shape = np.array(
        [samples.count - 1, features.shape[1], *columns, angles.shape[1], len(features), samples.each], dtype=np.int64
    )
    tensors = [features, out, None, None, r.fixed, None, weights, angles, d_angles]
    pointers = np.array([0 if tensor is None else tensor.data_ptr() for tensor in tensors], dtype=np.int64)
    pointers[2] = 0 if sums is None else sums.ctypes.data
    pointers[5] = shape.ctypes.data
    blocks = -(-samples.count // r.lanes)
    threads = max(1, min(torch.get_num_threads(), blocks // 2))
    spaces = features.new_empty(threads, -(-r.size // 64) * 64 + 64)
    drive, count = code.driver(), len(program) // RECORD
    edges = [blocks * i // threads for i in range(threads + 1)]
    first, step = spaces.data_ptr(), spaces.shape[1] * spaces.itemsize

    def work(i: int) -> None:
        drive(first + i * step, edges[i], program.ctypes.data, pointers.ctypes.data, count, edges[i + 1])

    others = [_pool(os.getpid()).submit(work, i) for i in range(1, threads)]
    work(0)
    for other in others:
        other.result()
