"""One pass of the compiled simulator, written with llvmlite as Ketune does, and as loops for Numba.

The pass turns three wires of a block of samples: for every tile of 8 rows, twelve pairs `(a - t b, b + t a)`, each row
as many float32 numbers as a vector register has. Both must give the same numbers. Printed are the time to compile and
the rate of multiply-adds once compiled. Numba is not a dependency of Ketune:

    pip install numba
    python benchmarks/numba_kernel.py
"""

from __future__ import annotations

import time

import numpy as np
import torch

from ketune.circuits import _native_code as code
from ketune.circuits._native_emitter import RECORD, Field, Io

N_WIRES, WIDTH = 10, 3
TANGENTS = np.array([0.3, -0.2, 0.1], dtype=np.float32)


def least(call, turns: int = 9, repeats: int = 200) -> float:
    """Least CPU seconds of a call."""
    best = float("inf")
    for _ in range(turns):
        start = time.process_time()
        for _ in range(repeats):
            call()
        best = min(best, time.process_time() - start)
    return best / repeats


def with_llvmlite(state: torch.Tensor, bases: np.ndarray, steps: np.ndarray):
    """A call of our kernel on the state, in place."""
    record = np.zeros(RECORD, dtype=np.int64)
    record[Field.KERNEL] = code.kernel(32, state.shape[1], "forward", WIDTH, 1, "none")
    record[Field.COUNT], record[Field.BASES], record[Field.STEPS] = len(bases), bases.ctypes.data, steps.ctypes.data
    pointers = np.zeros(len(Io), dtype=np.int64)
    pointers[Io.TURNS] = TANGENTS.ctypes.data
    run = code.function(32, state.shape[1], "forward", WIDTH, 1, "none")
    return lambda: run(state.data_ptr(), 0, record.ctypes.data, pointers.ctypes.data)


def with_numba(numba, state: np.ndarray, bases: np.ndarray, steps: np.ndarray):
    """The same as loops: tiles, wires, pairs, samples."""
    lanes = state.shape[1]

    @numba.njit(fastmath=True, error_model="numpy", boundscheck=False)
    def turn(state, bases, steps, tangents):
        tile = np.empty((8, lanes), dtype=np.float32)
        for base in bases:
            for row in range(8):
                for lane in range(lanes):
                    tile[row, lane] = state[(base ^ steps[row]) // lanes, lane]
            for wire in range(3):
                t, bit = tangents[wire], 1 << wire
                for low in range(8):
                    if low & bit == 0:
                        for lane in range(lanes):
                            a, b = tile[low, lane], tile[low | bit, lane]
                            tile[low, lane], tile[low | bit, lane] = a - t * b, b + t * a
            for row in range(8):
                for lane in range(lanes):
                    state[(base ^ steps[row]) // lanes, lane] = tile[row, lane]

    return lambda: turn(state, bases, steps, TANGENTS)


def main() -> None:
    import numba

    lanes = code.vector_bytes() // 4
    masks = [1 << bit for bit in (2, 5, 8)]
    steps = np.array([sum(m for q, m in enumerate(masks) if j >> q & 1) for j in range(8)], dtype=np.int32) * lanes
    rows = [row for row in range(2**N_WIRES) if not any(row & mask for mask in masks)]
    bases = np.array(rows, dtype=np.int32) * lanes
    ours = torch.randn(2**N_WIRES, lanes)
    theirs = ours.numpy().copy()
    calls, compiling = {}, {}
    for name, make in (
        ("llvmlite", lambda: with_llvmlite(ours, bases, steps)),
        ("Numba", lambda: with_numba(numba, theirs, bases, steps)),
    ):
        start = time.perf_counter()
        calls[name] = make()
        calls[name]()
        compiling[name] = time.perf_counter() - start
    assert np.allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5), "the two passes differ"
    work = 2**N_WIRES * lanes * WIDTH
    print(f"{'':10}{'compile, s':>12}{'us a pass':>12}{'10^9 multiply-adds/s':>24}")
    for name, call in calls.items():
        seconds = least(call)
        print(f"{name:10}{compiling[name]:12.2f}{1e6 * seconds:12.1f}{work / seconds / 1e9:24.1f}")


if __name__ == "__main__":
    main()
