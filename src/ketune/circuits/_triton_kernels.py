"""Triton kernels that keep a sample's state on the chip from its features to its readouts, and back.

A program works on S samples at a time. Their states are two tiles (H, S W), real and imaginary parts: row h and column
s W + w hold the amplitude of basis state h W + w of sample s. The same tile reads as (H S, W), so a layer is one product
from the right with its low matrix and one from the left with its high matrix, and no tile is ever transposed.

On the way back a program recomputes the final states, then takes them and their cotangents back side by side by the
adjoint matrices, so nothing of a state's size reaches memory. Each program adds the cotangents of the small matrices up
in a slice of its own; the slices are summed afterwards, in the same order every time.

Flags of a layer: 1 its matrices are complex; 2 it turns only phases; 4 basis states are permuted after it; 8 the state
before it has an imaginary part.

The arguments that all kernels share: `high` (layers, C, H, H) and `low` (layers, C, W, W) hold the matrices by their
place in the stacks, real parts before imaginary ones; `layers` (layers, 2) flags and place of each layer; `moves`
(layers, 2, H W) the basis state to read for each basis state, forward and back, plus 2^30 where the sign changes.
"""

import triton
import triton.language as tl

# Triton's functions take what they close over as compile-time constants only when it is wrapped so.
SMALLEST_SQUARED_NORM = tl.constexpr(1e-30)  # as `ketune.circuits._dtypes.SMALLEST_SQUARED_NORM`
SIGN_BIT = tl.constexpr(1 << 30)


@triton.jit
def _square(pointer, N: tl.constexpr):
    """An (N, N) matrix."""
    index = tl.arange(0, N)
    return tl.load(pointer + index[:, None] * N + index[None, :])


@triton.jit
def _square_transposed(pointer, N: tl.constexpr):
    index = tl.arange(0, N)
    return tl.load(pointer + index[:, None] + index[None, :] * N)


@triton.jit
def _phases(high, low, H: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    """Real and imaginary parts (H, S W) of what a diagonal layer multiplies by."""
    rows = tl.arange(0, H) * (H + 1)
    columns = (tl.arange(0, S * W) % W) * (W + 1)
    high_re, high_im = tl.load(high + rows)[:, None], tl.load(high + H * H + rows)[:, None]
    low_re, low_im = tl.load(low + columns)[None, :], tl.load(low + W * W + columns)[None, :]
    return high_re * low_re - high_im * low_im, high_re * low_im + high_im * low_re


@triton.jit
def _sources(moves, H: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    """Where in a flat tile each of its numbers comes from, and the sign it takes."""
    place = tl.arange(0, H * S * W)
    basis = place // (S * W) * W + place % W
    sample = place // W % S
    packed = tl.load(moves + basis)
    source = packed & (SIGN_BIT - 1)
    return source // W * (S * W) + sample * W + source % W, tl.where(packed >= SIGN_BIT, -1.0, 1.0)


@triton.jit
def _moved(tile, sources, signs, H: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    flat = tl.gather(tl.reshape(tile, (H * S * W,)), sources, 0)
    return tl.reshape(flat * signs, (H, S * W))


@triton.jit
def _run_layer(
    re,
    im,
    flags,
    high,
    low,
    moves,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    COMPLEX: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """States after one layer; pointers are those of the layer."""
    if flags & 2:
        if COMPLEX:
            turn_re, turn_im = _phases(high, low, H, S, W)
            new_re = re * turn_re - im * turn_im
            im = re * turn_im + im * turn_re
            re = new_re
    else:
        low_re = _square_transposed(low, W)
        in_re = tl.reshape(re, (H * S, W))
        mid_re = tl.dot(in_re, low_re, input_precision=PRECISION)
        if COMPLEX:
            in_im = tl.reshape(im, (H * S, W))
            mid_im = in_im
            if flags & 8:
                mid_im = tl.dot(in_im, low_re, input_precision=PRECISION)
            if flags & 1:
                low_im = _square_transposed(low + W * W, W)
                mid_im += tl.dot(in_re, low_im, input_precision=PRECISION)
                if flags & 8:
                    mid_re -= tl.dot(in_im, low_im, input_precision=PRECISION)
        high_re = _square(high, H)
        to_re = tl.reshape(mid_re, (H, S * W))
        re = tl.dot(high_re, to_re, input_precision=PRECISION)
        if COMPLEX:
            to_im = tl.reshape(mid_im, (H, S * W))
            im = to_im
            if flags & 9:
                im = tl.dot(high_re, to_im, input_precision=PRECISION)
            if flags & 1:
                high_im = _square(high + H * H, H)
                re -= tl.dot(high_im, to_im, input_precision=PRECISION)
                im += tl.dot(high_im, to_re, input_precision=PRECISION)
    if flags & 4:
        sources, signs = _sources(moves, H, S, W)
        re = _moved(re, sources, signs, H, S, W)
        if COMPLEX:
            im = _moved(im, sources, signs, H, S, W)
    return re, im


@triton.jit
def _final_states(
    x,
    x_row,
    x_column,
    n_features,
    high,
    low,
    layers,
    moves,
    n_layers,
    first_sample,
    n_samples,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    COMPLEX: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Final states of S samples, before the last layer's permutation where that only renames readouts."""
    parts: tl.constexpr = 2 if COMPLEX else 1
    columns = tl.arange(0, S * W)
    basis = tl.arange(0, H)[:, None] * W + (columns % W)[None, :]
    samples = (first_sample + columns // W).to(tl.int64)[None, :]
    re = tl.load(x + samples * x_row + basis * x_column, (samples < n_samples) & (basis < n_features), 0.0)
    re = re.to(tl.float32)
    im = tl.zeros_like(re)
    for layer in range(n_layers):
        flags, place = tl.load(layers + 2 * layer), tl.load(layers + 2 * layer + 1)
        re, im = _run_layer(
            re,
            im,
            flags,
            high + place * (parts * H * H),
            low + place * (parts * W * W),
            moves + layer * (2 * H * W),
            H,
            S,
            W,
            COMPLEX,
            PRECISION,
        )
    return re, im


@triton.jit
def _squares(re, im, COMPLEX: tl.constexpr):
    return re * re + im * im if COMPLEX else re * re


@triton.jit
def _by_sample(tile, H: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    """Sums (S,) of a tile over each sample's numbers."""
    return tl.sum(tl.sum(tl.reshape(tile, (H, S, W)), 2), 0)


@triton.jit
def _spread(values, S: tl.constexpr, W: tl.constexpr):
    """One number a sample, (S,), for each column of a tile, (1, S W)."""
    return tl.reshape(tl.broadcast_to(values[:, None], (S, W)), (1, S * W))


@triton.jit
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
    PRECISION: tl.constexpr,
):
    """Readouts (B, n_outputs) and squared norms (B,).

    Words of I and Z are sums over basis states of a sign of h times a sign of w: `signs_high` (H, n_signs) and
    `signs_low` (W, n_signs). For probabilities `ends` (H W) says where each basis state ends.
    """
    for tile in range(tl.program_id(0), tl.cdiv(n_samples, S), tl.num_programs(0)):
        re, im = _final_states(
            x,
            x_row,
            x_column,
            n_features,
            high,
            low,
            layers,
            moves,
            n_layers,
            tile * S,
            n_samples,
            H,
            S,
            W,
            COMPLEX,
            PRECISION,
        )
        squares = _squares(re, im, COMPLEX)
        norm = tl.maximum(_by_sample(squares, H, S, W), SMALLEST_SQUARED_NORM)
        samples = (tile * S + tl.arange(0, S)).to(tl.int64)
        tl.store(norms + samples, norm, samples < n_samples)
        if WORDS:
            for first in range(0, n_outputs, K):
                words = first + tl.arange(0, K)
                of_low = tl.load(signs_low + tl.arange(0, W)[:, None] * n_signs + words[None, :])
                of_high = tl.load(signs_high + tl.arange(0, H)[:, None] * n_signs + words[None, :])
                sums = tl.dot(tl.reshape(squares, (H * S, W)), of_low, input_precision="ieee")
                sums = tl.sum(tl.reshape(sums, (H, S, K)) * of_high[:, None, :], 0)
                inside = (samples < n_samples)[:, None] & (words < n_outputs)[None, :]
                tl.store(out + samples[:, None] * n_outputs + words[None, :], sums / norm[:, None], inside)
        else:
            columns = tl.arange(0, S * W)
            basis = tl.arange(0, H)[:, None] * W + (columns % W)[None, :]
            of_column = (tile * S + columns // W).to(tl.int64)[None, :]
            to = of_column * n_outputs + tl.load(ends + basis)
            tl.store(out + to, squares / _spread(norm, S, W), of_column < n_samples)


@triton.jit
def _add_to(pointer, tile, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Adds a (ROWS, COLUMNS) tile to memory that only this program touches."""
    places = pointer + tl.arange(0, ROWS)[:, None] * stride + tl.arange(0, COLUMNS)[None, :]
    tl.store(places, tl.load(places) + tile)


@triton.jit
def _phases_back(
    re,
    im,
    back_re,
    back_im,
    high,
    low,
    sums,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    NEED_ANGLES: tl.constexpr,
):
    """States and cotangents before a diagonal layer; adds the cotangent (2, H, W) of its phases to `sums`."""
    turn_re, turn_im = _phases(high, low, H, S, W)
    if NEED_ANGLES:
        new_re = re * turn_re + im * turn_im
        im = im * turn_re - re * turn_im
        re = new_re
        d_re = tl.sum(tl.reshape(back_re * re + back_im * im, (H, S, W)), 1)
        d_im = tl.sum(tl.reshape(back_im * re - back_re * im, (H, S, W)), 1)
        _add_to(sums, d_re, W, H, W)
        _add_to(sums + H * W, d_im, W, H, W)
    new_re = back_re * turn_re + back_im * turn_im
    back_im = back_im * turn_re - back_re * turn_im
    return re, im, new_re, back_im


@triton.jit
def _high_back(re, im, flags, high, H: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr):
    """A tile (H, ...) times the adjoint of the high matrix from the left."""
    high_re = _square_transposed(high, H)
    new_re = tl.dot(high_re, re, input_precision=PRECISION)
    new_im = im
    if COMPLEX:
        if flags & 9:
            new_im = tl.dot(high_re, im, input_precision=PRECISION)
        if flags & 1:
            high_im = _square_transposed(high + H * H, H)
            new_re += tl.dot(high_im, im, input_precision=PRECISION)
            new_im -= tl.dot(high_im, re, input_precision=PRECISION)
    return new_re, new_im


@triton.jit
def _low_back(re, im, flags, low, W: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr):
    """A tile (..., W) times the conjugate of the low matrix from the right; real where the layer took a real state."""
    low_re = _square(low, W)
    new_re = tl.dot(re, low_re, input_precision=PRECISION)
    new_im = im
    if COMPLEX:
        if flags & 8:
            new_im = tl.dot(im, low_re, input_precision=PRECISION)
        else:
            new_im = tl.zeros_like(im)
        if flags & 1:
            low_im = _square(low + W * W, W)
            new_re += tl.dot(im, low_im, input_precision=PRECISION)
            if flags & 8:
                new_im -= tl.dot(re, low_im, input_precision=PRECISION)
    return new_re, new_im


@triton.jit
def _add_products(
    left_re,
    left_im,
    right_re,
    right_im,
    flags,
    sums,
    N: tl.constexpr,
    COMPLEX: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds left (N, ...) times the conjugate of right (..., N), as (2 or 1, N, N), to `sums`."""
    real = tl.dot(left_re, right_re, input_precision=PRECISION)
    if COMPLEX:
        real += tl.dot(left_im, right_im, input_precision=PRECISION)
        if flags & 1:
            imaginary = tl.dot(left_im, right_re, input_precision=PRECISION)
            imaginary -= tl.dot(left_re, right_im, input_precision=PRECISION)
            _add_to(sums + N * N, imaginary, N, N, N)
    _add_to(sums, real, N, N, N)


@triton.jit
def _run_layer_back(
    re,
    im,
    back_re,
    back_im,
    flags,
    high,
    low,
    moves,
    sums,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    COMPLEX: tl.constexpr,
    NEED_ANGLES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """States and cotangents before one layer, from those after it."""
    parts: tl.constexpr = 2 if COMPLEX else 1
    if flags & 4:
        sources, signs = _sources(moves + H * W, H, S, W)
        back_re = _moved(back_re, sources, signs, H, S, W)
        if COMPLEX:
            back_im = _moved(back_im, sources, signs, H, S, W)
        if NEED_ANGLES:
            re = _moved(re, sources, signs, H, S, W)
            if COMPLEX:
                im = _moved(im, sources, signs, H, S, W)
    if flags & 2:
        if COMPLEX:
            re, im, back_re, back_im = _phases_back(re, im, back_re, back_im, high, low, sums, H, S, W, NEED_ANGLES)
    else:
        if NEED_ANGLES:
            re, im = _high_back(re, im, flags, high, H, COMPLEX, PRECISION)
            _add_products(
                back_re, back_im, tl.trans(re), tl.trans(im), flags, sums, H, COMPLEX, PRECISION
            )
            row_re, row_im = tl.reshape(re, (H * S, W)), tl.reshape(im, (H * S, W))
            row_re, row_im = _low_back(row_re, row_im, flags, low, W, COMPLEX, PRECISION)
            re, im = tl.reshape(row_re, (H, S * W)), tl.reshape(row_im, (H, S * W))
        back_re, back_im = _high_back(back_re, back_im, flags, high, H, COMPLEX, PRECISION)
        row_re, row_im = tl.reshape(back_re, (H * S, W)), tl.reshape(back_im, (H * S, W))
        if NEED_ANGLES:
            _add_products(
                tl.trans(row_re),
                tl.trans(row_im),
                tl.reshape(re, (H * S, W)),
                tl.reshape(im, (H * S, W)),
                flags,
                sums + parts * H * H,
                W,
                COMPLEX,
                PRECISION,
            )
        row_re, row_im = _low_back(row_re, row_im, flags, low, W, COMPLEX, PRECISION)
        back_re, back_im = tl.reshape(row_re, (H, S * W)), tl.reshape(row_im, (H, S * W))
    return re, im, back_re, back_im


@triton.jit
def backward(
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
    cotangent,
    out,
    norms,
    d_x,
    d_matrices,
    n_samples,
    n_outputs,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    K: tl.constexpr,
    COMPLEX: tl.constexpr,
    WORDS: tl.constexpr,
    NEED_X: tl.constexpr,
    NEED_ANGLES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Cotangents of the features, (B, n_features), and of the matrices, summed over the samples of each program.

    `d_matrices` is (programs, layers, C (H H + W W)), zeros at first: by place the cotangents (C, H, H) and (C, W, W),
    or (2, H, W) of the phases of a diagonal layer. `cotangent` and `out` are (B, n_outputs), contiguous.
    """
    parts: tl.constexpr = 2 if COMPLEX else 1
    size: tl.constexpr = parts * (H * H + W * W)
    mine = d_matrices + tl.program_id(0).to(tl.int64) * n_layers * size
    columns = tl.arange(0, S * W)
    basis = tl.arange(0, H)[:, None] * W + (columns % W)[None, :]
    for tile in range(tl.program_id(0), tl.cdiv(n_samples, S), tl.num_programs(0)):
        re, im = _final_states(
            x,
            x_row,
            x_column,
            n_features,
            high,
            low,
            layers,
            moves,
            n_layers,
            tile * S,
            n_samples,
            H,
            S,
            W,
            COMPLEX,
            PRECISION,
        )
        samples = (tile * S + tl.arange(0, S)).to(tl.int64)
        of_column = (tile * S + columns // W).to(tl.int64)[None, :]
        # out = sums / norm, so the norm, to which every square belongs, has the cotangent -sum(cotangent out) / norm.
        norm = tl.load(norms + samples, samples < n_samples, 1.0)
        if WORDS:
            weights = tl.zeros((H * S, W), tl.float32)
            of_norm = tl.zeros((S,), tl.float32)
            for first in range(0, n_outputs, K):
                words = first + tl.arange(0, K)
                inside = (samples < n_samples)[:, None] & (words < n_outputs)[None, :]
                places = samples[:, None] * n_outputs + words[None, :]
                scaled = tl.load(cotangent + places, inside, 0.0) * (2.0 / norm)[:, None]
                of_norm += tl.sum(scaled * tl.load(out + places, inside, 0.0), 1)
                of_low = tl.load(signs_low + tl.arange(0, W)[None, :] * n_signs + words[:, None])
                of_high = tl.load(signs_high + tl.arange(0, H)[:, None] * n_signs + words[None, :])
                left = tl.reshape(of_high[:, None, :] * scaled[None, :, :], (H * S, K))
                weights += tl.dot(left, of_low, input_precision="ieee")
            weights = tl.reshape(weights, (H, S * W)) - _spread(of_norm, S, W)
        else:
            places = of_column * n_outputs + tl.load(ends + basis)
            weights = tl.load(cotangent + places, of_column < n_samples, 0.0) * _spread(2.0 / norm, S, W)
            of_norm = _by_sample(weights * _squares(re, im, COMPLEX), H, S, W) / norm
            weights -= _spread(of_norm, S, W)
        back_re = weights * re
        back_im = weights * im
        for number in range(n_layers):
            layer = n_layers - 1 - number
            flags, place = tl.load(layers + 2 * layer), tl.load(layers + 2 * layer + 1)
            re, im, back_re, back_im = _run_layer_back(
                re,
                im,
                back_re,
                back_im,
                flags,
                high + place * (parts * H * H),
                low + place * (parts * W * W),
                moves + layer * (2 * H * W),
                mine + place * size,
                H,
                S,
                W,
                COMPLEX,
                NEED_ANGLES,
                PRECISION,
            )
        if NEED_X:
            inside = (of_column < n_samples) & (basis < n_features)
            tl.store(d_x + of_column * n_features + basis, back_re, inside)
        # What this tile added to memory must be there before the next one reads it, whichever thread does.
        tl.debug_barrier()
