"""Triton kernels that take samples from features to readouts, and back, in one launch; here the way forward.

A program works on S samples at a time. Their states are a tile (H, S W) of real numbers and one of imaginary ones: row
h and column s W + w hold the amplitude of basis state h W + w of sample s. The same memory reads as (H S, W), so a
layer is one product from the right with its low matrix and one from the left with its high matrix, and no tile is ever
transposed. Between products the tiles lie in a scratch of the program's own, which is written over and over and
therefore stays in the caches. A permutation of basis states is a store in another order.

Arguments that several functions share:

- `x`, `x_row`, `x_column`, `n_features`: features (B, n_features) of any floating type, and their strides;
- `high` (layers, C, H, H), `low` (layers, C, W, W): the matrices by their place in the stacks, real parts first;
- `layers` (layers, 2): flags and place of each layer. Flags: 1 its matrices are complex; 2 it turns only phases; 4
  basis states are permuted after it; 8 the state before it has an imaginary part;
- `moves` (layers, 2, H W): where each basis state goes after the layer, and the inverse, plus a bit for a sign;
- `scratch` (programs, 2 C H S W).
"""

# Compile-time constants look like other types to a type checker.
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

import triton
import triton.language as tl

from ketune.circuits._triton_tiles import (
    AS_THEY_ARE,
    CONJUGATE_LEFT,
    CONJUGATE_RIGHT,
    load_tile,
    product,
    store_permuted,
    store_tile,
)

SMALLEST_SQUARED_NORM = tl.constexpr(1e-30)  # as `ketune.circuits._dtypes.SMALLEST_SQUARED_NORM`


@triton.jit
def phases(high, low, H: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    """Real and imaginary parts (H, S W) of what a diagonal layer multiplies by."""
    rows = tl.arange(0, H) * (H + 1)
    columns = (tl.arange(0, S * W) % W) * (W + 1)
    high_re, high_im = tl.load(high + rows)[:, None], tl.load(high + H * H + rows)[:, None]
    low_re, low_im = tl.load(low + columns)[None, :], tl.load(low + W * W + columns)[None, :]
    return high_re * low_re - high_im * low_im, high_re * low_im + high_im * low_re


@triton.jit
def by_low(
    memory,
    is_complex,
    flags,
    low,
    R: tl.constexpr,
    W: tl.constexpr,
    BACK: tl.constexpr,
    COMPLEX: tl.constexpr,
    P: tl.constexpr,
):
    """States (R, W) in memory times the transpose of the low matrix, or on the way back its conjugate."""
    k_stride: tl.constexpr = W if BACK else 1
    column: tl.constexpr = 1 if BACK else W
    conjugate: tl.constexpr = CONJUGATE_RIGHT if BACK else AS_THEY_ARE
    return product(
        memory, W, 1, R * W, is_complex, low, k_stride, column, W * W, flags & 1, R, W, W, conjugate, COMPLEX, P
    )


@triton.jit
def by_high(
    memory, flags, high, H: tl.constexpr, N: tl.constexpr, BACK: tl.constexpr, COMPLEX: tl.constexpr, P: tl.constexpr
):
    """The high matrix, or on the way back its adjoint, times states (H, N) in memory."""
    row: tl.constexpr = 1 if BACK else H
    k_stride: tl.constexpr = H if BACK else 1
    conjugate: tl.constexpr = CONJUGATE_LEFT if BACK else AS_THEY_ARE
    return product(
        high, row, k_stride, H * H, flags & 1, memory, N, 1, H * N, flags & 9, H, H, N, conjugate, COMPLEX, P
    )


@triton.jit
def final_states(
    x,
    x_row,
    x_column,
    n_features,
    high,
    low,
    layers,
    moves,
    n_layers,
    memory,
    first_sample,
    n_samples,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    COMPLEX: tl.constexpr,
    P: tl.constexpr,
):
    """Puts the final states of S samples into memory, without the last permutation where it only renames readouts."""
    parts: tl.constexpr = 2 if COMPLEX else 1
    columns = tl.arange(0, S * W)
    basis = tl.arange(0, H)[:, None] * W + (columns % W)[None, :]
    samples = (first_sample + columns // W).to(tl.int64)[None, :]
    re = tl.load(x + samples * x_row + basis * x_column, (samples < n_samples) & (basis < n_features), 0.0)
    re = re.to(tl.float32)
    im = tl.zeros((H, S * W), tl.float32)
    store_tile(memory, re, im, H, S * W, COMPLEX)
    for layer in range(n_layers):
        flags, place = tl.load(layers + 2 * layer), tl.load(layers + 2 * layer + 1)
        high_here, low_here = high + place * (parts * H * H), low + place * (parts * W * W)
        if flags & 2:
            if COMPLEX:
                old_re, old_im = load_tile(memory, flags & 8, H, S * W, COMPLEX)
                turn_re, turn_im = phases(high_here, low_here, H, S, W)
                re = old_re * turn_re - old_im * turn_im
                im = old_re * turn_im + old_im * turn_re
        else:
            mid_re, mid_im = by_low(memory, flags & 8, flags, low_here, H * S, W, False, COMPLEX, P)
            store_tile(memory, mid_re, mid_im, H * S, W, COMPLEX)
            re, im = by_high(memory, flags, high_here, H, S * W, False, COMPLEX, P)
        if flags & 4:
            store_permuted(memory, re, im, moves + layer * (2 * H * W), H, S, W, H, S * W, COMPLEX)
        else:
            store_tile(memory, re, im, H, S * W, COMPLEX)


@triton.jit
def by_sample(tile, H: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    """Sums (S,) of a tile over each sample's numbers."""
    return tl.sum(tl.sum(tl.reshape(tile, (H, S, W)), 2), 0)


@triton.jit
def spread(values, S: tl.constexpr, W: tl.constexpr):
    """One number a sample, (S,), for each column of a tile, (1, S W)."""
    return tl.reshape(tl.broadcast_to(values[:, None], (S, W)), (1, S * W))


# Arguments that must not make another kernel when they happen to be 1 or a multiple of 16: compiling takes seconds.
SIZES = ("n_features", "n_layers", "n_signs", "n_samples", "n_outputs")


@triton.jit(do_not_specialize=SIZES)
def forward(
    x,
    x_row,
    x_column,
    n_features,
    high,
    low,
    layers,
    moves,
    n_layers,
    signs_high,
    signs_low,
    n_signs,
    ends,
    scratch,
    out,
    norms,
    n_samples,
    n_outputs,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    K: tl.constexpr,
    COMPLEX: tl.constexpr,
    WORDS: tl.constexpr,
    P: tl.constexpr,
):
    """Readouts (B, n_outputs) and squared norms (B,).

    Words of I and Z are sums over basis states of a sign of h times a sign of w: `signs_high` (H, n_signs) and
    `signs_low` (W, n_signs). For probabilities `ends` (H W) says where each basis state ends.
    """
    parts: tl.constexpr = 2 if COMPLEX else 1
    memory = scratch + tl.program_id(0).to(tl.int64) * (2 * parts * H * S * W)
    for tile in range(tl.program_id(0), tl.cdiv(n_samples, S), tl.num_programs(0)):
        final_states(
            x,
            x_row,
            x_column,
            n_features,
            high,
            low,
            layers,
            moves,
            n_layers,
            memory,
            tile * S,
            n_samples,
            H,
            S,
            W,
            COMPLEX,
            P,
        )
        re, im = load_tile(memory, True, H, S * W, COMPLEX)
        squares = re * re + im * im
        norm = tl.maximum(by_sample(squares, H, S, W), SMALLEST_SQUARED_NORM)
        samples = (tile * S + tl.arange(0, S)).to(tl.int64)
        tl.store(norms + samples, norm, samples < n_samples)
        if WORDS:
            store_tile(memory, squares, im, H, S * W, False)
            for first in range(0, n_outputs, K):
                words = first + tl.arange(0, K)
                of_high = tl.load(signs_high + tl.arange(0, H)[:, None] * n_signs + words[None, :])
                sums, _ = product(
                    memory,
                    W,
                    1,
                    0,
                    False,
                    signs_low + first,
                    n_signs,
                    1,
                    0,
                    False,
                    H * S,
                    W,
                    K,
                    AS_THEY_ARE,
                    False,
                    "ieee",
                )
                sums = tl.sum(tl.reshape(sums, (H, S, K)) * of_high[:, None, :], 0)
                inside = (samples < n_samples)[:, None] & (words < n_outputs)[None, :]
                tl.store(out + samples[:, None] * n_outputs + words[None, :], sums / norm[:, None], inside)
        else:
            columns = tl.arange(0, S * W)
            basis = tl.arange(0, H)[:, None] * W + (columns % W)[None, :]
            of_column = (tile * S + columns // W).to(tl.int64)[None, :]
            to = of_column * n_outputs + tl.load(ends + basis)
            tl.store(out + to, squares / spread(norm, S, W), of_column < n_samples)
