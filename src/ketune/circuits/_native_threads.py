"""How the compiled simulator shares a batch among threads: in pieces, which whoever is free takes next."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ketune.circuits import _native_code as code
from ketune.circuits._helper_threads import run_together
from ketune.circuits._native_code import Control
from ketune.circuits._native_record_book import Program

FEWEST_PIECES = 16
"""Pieces of a large batch, at least; each has sums of its own, so results do not depend on which thread took it."""

ROWS_OF_A_PIECE = 1024
"""Rows of states in a piece, at least: adding up its sums should cost little beside them."""

ROWS_OF_A_THREAD = 4096
"""Rows times stages for which it pays to wake one more thread."""

_Control = ctypes.c_int64 * len(Control)


@dataclass(frozen=True)
class Division:
    """A batch of blocks in pieces.

    Attributes:
        blocks: blocks of the batch.
        length: blocks of a piece.
        threads: threads that take pieces.
    """

    blocks: int
    length: int
    threads: int

    @property
    def pieces(self) -> int:
        """Number of pieces."""
        return -(-self.blocks // self.length)


def divide(blocks: int, rows: int, stages: int) -> Division:
    """Pieces and threads for some blocks of `rows` rows each, which pass through `stages` stages."""
    threads = torch.get_num_threads()
    length = max(1, ROWS_OF_A_PIECE // rows, -(-blocks // max(FEWEST_PIECES, 4 * threads)))
    threads = max(1, min(threads, -(-blocks // length), blocks * rows * stages // ROWS_OF_A_THREAD))
    return Division(blocks, length, threads)


def run_pieces(program: Program, division: Division, like: Tensor, pointers: Any) -> None:
    """Runs a program on all pieces.

    Args:
        program: the records.
        division: pieces and threads.
        like: a tensor of the type of computation.
        pointers: an array of the addresses in `Io`.
    """
    stride = program.size + 64
    spaces = like.new_empty(division.threads, stride)
    control = _Control(
        0, division.pieces, division.blocks, division.length, program.before, program.middle, program.after
    )
    drive, first, step = code.driver(), spaces.data_ptr(), stride * spaces.itemsize
    shared = program.address, ctypes.addressof(pointers), ctypes.addressof(control)
    starts = [first + i * step for i in range(division.threads)]
    mine, *others = (partial(drive, start, *shared) for start in starts)
    run_together(mine, others)
