"""Pieces of the Triton kernels: products of complex matrices in memory, and tiles that are stored in another order.

A complex matrix is two real ones, the imaginary part at a fixed distance after the real one. All functions here are
compiled by Triton. Matrices are read in chunks of 16 numbers of the summed index. A product in full float32 has no
tensor cores; Triton then keeps every factor of a thread's rows and columns in registers, and whole products of 32 or 64
rows spilled thousands of bytes a thread when compiled for sm_90, where chunks spill none.
"""

# Compile-time constants look like other types to a type checker.
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

import triton
import triton.language as tl

CHUNK = tl.constexpr(16)  # the fewest that `tl.dot` takes
SIGN_BIT = tl.constexpr(1 << 30)  # as `ketune.circuits._triton_tables`
AS_THEY_ARE, CONJUGATE_LEFT, CONJUGATE_RIGHT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _real_sum(left, left_k, right, right_k, K: tl.constexpr, M: tl.constexpr, N: tl.constexpr, P: tl.constexpr):
    """One real product; `left` (M, CHUNK) and `right` (CHUNK, N) point to the first chunk."""
    total = tl.zeros((M, N), tl.float32)
    for k in range(0, K, CHUNK):
        total = tl.dot(tl.load(left + k * left_k), tl.load(right + k * right_k), total, input_precision=P)
    return total


@triton.jit
def product(
    left,
    left_row,
    left_k,
    left_distance,
    left_is_complex,
    right,
    right_k,
    right_column,
    right_distance,
    right_is_complex,
    M: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    CONJUGATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    P: tl.constexpr,
):
    """Real and imaginary part (M, N) of a matrix (M, K) times one (K, N), of which one may be conjugated.

    The matrices are given by pointers, strides and the distance of their imaginary parts, which are read only where
    the factor is complex.
    """
    chunk = tl.arange(0, CHUNK)
    a = left + tl.arange(0, M)[:, None] * left_row + chunk[None, :] * left_k
    b = right + chunk[:, None] * right_k + tl.arange(0, N)[None, :] * right_column
    re = _real_sum(a, left_k, b, right_k, K, M, N, P)
    im = tl.zeros((M, N), tl.float32)
    if COMPLEX:
        if right_is_complex:
            im = _real_sum(a, left_k, b + right_distance, right_k, K, M, N, P)
            if CONJUGATE == CONJUGATE_RIGHT:
                im = -im
        if left_is_complex:
            cross = _real_sum(a + left_distance, left_k, b, right_k, K, M, N, P)
            im = im - cross if CONJUGATE == CONJUGATE_LEFT else im + cross
            if right_is_complex:
                both = _real_sum(a + left_distance, left_k, b + right_distance, right_k, K, M, N, P)
                re = re - both if CONJUGATE == AS_THEY_ARE else re + both
    return re, im


@triton.jit
def real_part(
    left,
    left_row,
    left_k,
    left_distance,
    right,
    right_k,
    right_column,
    right_distance,
    are_complex,
    M: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    COMPLEX: tl.constexpr,
    P: tl.constexpr,
):
    """The real part (M, N) of a matrix times the conjugate of another."""
    chunk = tl.arange(0, CHUNK)
    a = left + tl.arange(0, M)[:, None] * left_row + chunk[None, :] * left_k
    b = right + chunk[:, None] * right_k + tl.arange(0, N)[None, :] * right_column
    re = _real_sum(a, left_k, b, right_k, K, M, N, P)
    if COMPLEX:  # noqa: SIM102 (the one at compile time, the other at run time)
        if are_complex:
            re += _real_sum(a + left_distance, left_k, b + right_distance, right_k, K, M, N, P)
    return re


@triton.jit
def flat(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Places (ROWS, COLUMNS) of a tile's numbers in memory."""
    return tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def load_tile(memory, is_complex, ROWS: tl.constexpr, COLUMNS: tl.constexpr, COMPLEX: tl.constexpr):
    """Real and imaginary part of the states in memory."""
    places = flat(ROWS, COLUMNS)
    re = tl.load(memory + places)
    im = tl.zeros((ROWS, COLUMNS), tl.float32)
    if COMPLEX:  # noqa: SIM102
        if is_complex:
            im = tl.load(memory + ROWS * COLUMNS + places)
    return re, im


@triton.jit
def store_tile(memory, re, im, ROWS: tl.constexpr, COLUMNS: tl.constexpr, COMPLEX: tl.constexpr):
    """Replaces the states in memory, once every thread has read what it needs of them."""
    places = memory + flat(ROWS, COLUMNS)
    tl.debug_barrier()
    tl.store(places, re)
    if COMPLEX:
        tl.store(places + ROWS * COLUMNS, im)
    tl.debug_barrier()


@triton.jit
def store_permuted(
    memory,
    re,
    im,
    moves,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COMPLEX: tl.constexpr,
):
    """The same, with every basis state stored where `moves` (H W) says, plus SIGN_BIT where its sign changes."""
    places = flat(ROWS, COLUMNS)
    packed = tl.load(moves + places // (S * W) * W + places % W)
    to = packed & (SIGN_BIT - 1)
    to = memory + to // W * (S * W) + places // W % S * W + to % W
    signs = tl.where(packed >= SIGN_BIT, -1.0, 1.0)
    tl.debug_barrier()
    tl.store(to, re * signs)
    if COMPLEX:
        tl.store(to + H * S * W, im * signs)
    tl.debug_barrier()


@triton.jit
def add_to(memory, tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Adds a tile to memory that only this program touches."""
    places = memory + flat(ROWS, COLUMNS)
    tl.store(places, tl.load(places) + tile)
