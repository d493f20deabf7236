"""Triton kernels that take samples from features to readouts, and back, in one launch.

A program works on S samples at a time. Their states are a tile (H, S W) of real numbers and one of imaginary ones: row
h and column s W + w hold the amplitude of basis state h W + w of sample s. The same memory reads as (H S, W), so a
layer is one product from the right with its low matrix and one from the left with its high matrix, and no tile is ever
transposed. Between products the tiles lie in a scratch of the program's own, which is written over and over and
therefore stays in the caches. A permutation of basis states is a store in another order.

On the way back a program recomputes the final states, then takes them and their cotangents back side by side by the
adjoint matrices, so that no state is kept. Each program adds the cotangents of the small matrices up in a slice of its
own; the slices are summed afterwards, in the same order every time.

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
    add_to,
    flat,
    load_tile,
    product,
    real_part,
    store_permuted,
    store_tile,
)

SMALLEST_SQUARED_NORM = tl.constexpr(1e-30)  # as `ketune.circuits._dtypes.SMALLEST_SQUARED_NORM`


@triton.jit
def _phases(high, low, H: tl.constexpr, S: tl.constexpr, W: tl.constexpr):
    """Real and imaginary parts (H, S W) of what a diagonal layer multiplies by."""
    rows = tl.arange(0, H) * (H + 1)
    columns = (tl.arange(0, S * W) % W) * (W + 1)
    high_re, high_im = tl.load(high + rows)[:, None], tl.load(high + H * H + rows)[:, None]
    low_re, low_im = tl.load(low + columns)[None, :], tl.load(low + W * W + columns)[None, :]
    return high_re * low_re - high_im * low_im, high_re * low_im + high_im * low_re


@triton.jit
def _by_low(
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
def _by_high(
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
                turn_re, turn_im = _phases(high_here, low_here, H, S, W)
                re = old_re * turn_re - old_im * turn_im
                im = old_re * turn_im + old_im * turn_re
        else:
            mid_re, mid_im = _by_low(memory, flags & 8, flags, low_here, H * S, W, False, COMPLEX, P)
            store_tile(memory, mid_re, mid_im, H * S, W, COMPLEX)
            re, im = _by_high(memory, flags, high_here, H, S * W, False, COMPLEX, P)
        if flags & 4:
            store_permuted(memory, re, im, moves + layer * (2 * H * W), H, S, W, H, S * W, COMPLEX)
        else:
            store_tile(memory, re, im, H, S * W, COMPLEX)


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
        _final_states(
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
        norm = tl.maximum(_by_sample(squares, H, S, W), SMALLEST_SQUARED_NORM)
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
            tl.store(out + to, squares / _spread(norm, S, W), of_column < n_samples)


@triton.jit
def _phases_back(
    states,
    back,
    high,
    low,
    sums,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    NEED_ANGLES: tl.constexpr,
    COMPLEX: tl.constexpr,
):
    """States and cotangents before a diagonal layer; adds the cotangent (2, H, W) of its phases to `sums`."""
    turn_re, turn_im = _phases(high, low, H, S, W)
    old_re, old_im = load_tile(back, True, H, S * W, COMPLEX)
    re, im = load_tile(states, True, H, S * W, COMPLEX)
    if NEED_ANGLES:
        new_re = re * turn_re + im * turn_im
        im = im * turn_re - re * turn_im
        re = new_re
        d_re = tl.sum(tl.reshape(old_re * re + old_im * im, (H, S, W)), 1)
        d_im = tl.sum(tl.reshape(old_im * re - old_re * im, (H, S, W)), 1)
        add_to(sums, d_re, H, W)
        add_to(sums + H * W, d_im, H, W)
    return re, im, old_re * turn_re + old_im * turn_im, old_im * turn_re - old_re * turn_im


@triton.jit
def _layer_back(
    states,
    back,
    flags,
    high,
    low,
    sums,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    NEED_ANGLES: tl.constexpr,
    COMPLEX: tl.constexpr,
    P: tl.constexpr,
):
    """States and cotangents (H S, W) before a layer, from those in memory; adds the cotangents of its matrices to
    `sums`, (C, H, H) and then (C, W, W)."""
    parts: tl.constexpr = 2 if COMPLEX else 1
    N: tl.constexpr = S * W
    R: tl.constexpr = H * S
    re, im = tl.zeros((R, W), tl.float32), tl.zeros((R, W), tl.float32)
    if NEED_ANGLES:
        mid_re, mid_im = _by_high(states, flags, high, H, N, True, COMPLEX, P)
        store_tile(states, mid_re, mid_im, H, N, COMPLEX)
        # Cotangents times the adjoint of the states, summed over columns and samples.
        if flags & 1:
            d_re, d_im = product(
                back, N, 1, H * N, flags & 9, states, 1, N, H * N, flags & 9, H, N, H, CONJUGATE_RIGHT, COMPLEX, P
            )
            add_to(sums + H * H, d_im, H, H)
            add_to(sums, d_re, H, H)
        else:
            d_re = real_part(back, N, 1, H * N, states, 1, N, H * N, flags & 8, H, N, H, COMPLEX, P)
            add_to(sums, d_re, H, H)
    back_re, back_im = _by_high(back, flags, high, H, N, True, COMPLEX, P)
    store_tile(back, back_re, back_im, H, N, COMPLEX)
    if NEED_ANGLES:
        re, im = _by_low(states, flags & 9, flags, low, R, W, True, COMPLEX, P)
        store_tile(states, re, im, R, W, COMPLEX)
        of_low = sums + parts * H * H
        if flags & 1:
            low_re, low_im = product(
                back, 1, W, R * W, flags & 9, states, W, 1, R * W, flags & 8, W, R, W, CONJUGATE_RIGHT, COMPLEX, P
            )
            add_to(of_low + W * W, low_im, W, W)
            add_to(of_low, low_re, W, W)
        else:
            low_re = real_part(back, 1, W, R * W, states, W, 1, R * W, flags & 8, W, R, W, COMPLEX, P)
            add_to(of_low, low_re, W, W)
    new_re, new_im = _by_low(back, flags & 9, flags, low, R, W, True, COMPLEX, P)
    return re, im, new_re, new_im


@triton.jit
def _weights_of_words(
    cotangent,
    out,
    signs_high,
    signs_low,
    n_signs,
    norm,
    samples,
    n_samples,
    n_outputs,
    H: tl.constexpr,
    S: tl.constexpr,
    W: tl.constexpr,
    K: tl.constexpr,
):
    """Twice the cotangent (H, S W) of the squares for a readout of words.

    A readout is a sum of squares over the norm, so the norm, to which every square belongs, has the cotangent
    -sum(cotangent out) / norm.
    """
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
        weights = tl.dot(left, of_low, weights, input_precision="ieee")
    return tl.reshape(weights, (H, S * W)) - _spread(of_norm, S, W)


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
    scratch,
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
    P: tl.constexpr,
):
    """Cotangents of the features, (B, n_features), and of the matrices, summed over the samples of each program.

    `d_matrices` is (programs, layers, C (H H + W W)), zeros at first: by place the cotangents (C, H, H) and (C, W, W),
    or (2, H, W) of the phases of a diagonal layer. `cotangent` and `out` are (B, n_outputs), contiguous.
    """
    parts: tl.constexpr = 2 if COMPLEX else 1
    size: tl.constexpr = parts * (H * H + W * W)
    program = tl.program_id(0).to(tl.int64)
    sums = d_matrices + program * n_layers * size
    states = scratch + program * (2 * parts * H * S * W)
    back = states + parts * H * S * W
    columns = tl.arange(0, S * W)
    basis = tl.arange(0, H)[:, None] * W + (columns % W)[None, :]
    for tile in range(tl.program_id(0), tl.cdiv(n_samples, S), tl.num_programs(0)):
        _final_states(
            x,
            x_row,
            x_column,
            n_features,
            high,
            low,
            layers,
            moves,
            n_layers,
            states,
            tile * S,
            n_samples,
            H,
            S,
            W,
            COMPLEX,
            P,
        )
        re, im = load_tile(states, True, H, S * W, COMPLEX)
        samples = (tile * S + tl.arange(0, S)).to(tl.int64)
        of_column = (tile * S + columns // W).to(tl.int64)[None, :]
        norm = tl.load(norms + samples, samples < n_samples, 1.0)
        if WORDS:
            weights = _weights_of_words(
                cotangent, out, signs_high, signs_low, n_signs, norm, samples, n_samples, n_outputs, H, S, W, K
            )
        else:
            places = of_column * n_outputs + tl.load(ends + basis)
            weights = tl.load(cotangent + places, of_column < n_samples, 0.0) * _spread(2.0 / norm, S, W)
            of_norm = _by_sample(weights * (re * re + im * im), H, S, W) / norm
            weights -= _spread(of_norm, S, W)
        store_tile(back, weights * re, weights * im, H, S * W, COMPLEX)
        for number in range(n_layers):
            layer = n_layers - 1 - number
            flags, place = tl.load(layers + 2 * layer), tl.load(layers + 2 * layer + 1)
            high_here, low_here = high + place * (parts * H * H), low + place * (parts * W * W)
            sums_here = sums + place * size
            # In rows of W from here on: (H S, W).
            row_re, row_im = tl.zeros((H * S, W), tl.float32), tl.zeros((H * S, W), tl.float32)
            back_re, back_im = row_re, row_im
            if flags & 2:
                if COMPLEX:
                    old = _phases_back(states, back, high_here, low_here, sums_here, H, S, W, NEED_ANGLES, COMPLEX)
                    row_re, row_im = tl.reshape(old[0], (H * S, W)), tl.reshape(old[1], (H * S, W))
                    back_re, back_im = tl.reshape(old[2], (H * S, W)), tl.reshape(old[3], (H * S, W))
            else:
                row_re, row_im, back_re, back_im = _layer_back(
                    states, back, flags, high_here, low_here, sums_here, H, S, W, NEED_ANGLES, COMPLEX, P
                )
            before = 0
            if layer > 0:
                before = tl.load(layers + 2 * (layer - 1))
            if before & 4:
                # Undo the permutation that came before this layer.
                inverse = moves + (2 * layer - 1) * (H * W)
                store_permuted(back, back_re, back_im, inverse, H, S, W, H * S, W, COMPLEX)
                if NEED_ANGLES:
                    store_permuted(states, row_re, row_im, inverse, H, S, W, H * S, W, COMPLEX)
            else:
                store_tile(back, back_re, back_im, H * S, W, COMPLEX)
                if NEED_ANGLES:
                    store_tile(states, row_re, row_im, H * S, W, COMPLEX)
        if NEED_X:
            inside = (of_column < n_samples) & (basis < n_features)
            d_features = tl.load(back + flat(H, S * W))
            tl.store(d_x + of_column * n_features + basis, d_features, inside)
        tl.debug_barrier()
