"""The way back of `ketune.circuits._triton_kernels`, which explains the layout and the shared arguments.

A program recomputes the final states of its samples, then takes them and their cotangents back side by side by the
adjoint matrices, so that no state is kept. It adds the cotangents of the small matrices up in a slice of its own; the
slices are summed afterwards, in the same order every time.
"""

# Compile-time constants look like other types to a type checker.
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

import triton
import triton.language as tl

from ketune.circuits._triton_kernels import SIZES, by_high, by_low, by_sample, final_states, phases, spread
from ketune.circuits._triton_tiles import (
    CONJUGATE_RIGHT,
    add_to,
    flat,
    load_tile,
    product,
    real_part,
    store_permuted,
    store_tile,
)


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
    turn_re, turn_im = phases(high, low, H, S, W)
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
        mid_re, mid_im = by_high(states, flags, high, H, N, True, COMPLEX, P)
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
    back_re, back_im = by_high(back, flags, high, H, N, True, COMPLEX, P)
    store_tile(back, back_re, back_im, H, N, COMPLEX)
    if NEED_ANGLES:
        re, im = by_low(states, flags & 9, flags, low, R, W, True, COMPLEX, P)
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
    new_re, new_im = by_low(back, flags & 9, flags, low, R, W, True, COMPLEX, P)
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
    return tl.reshape(weights, (H, S * W)) - spread(of_norm, S, W)


@triton.jit(do_not_specialize=SIZES)
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
            weights = tl.load(cotangent + places, of_column < n_samples, 0.0) * spread(2.0 / norm, S, W)
            of_norm = by_sample(weights * (re * re + im * im), H, S, W) / norm
            weights -= spread(of_norm, S, W)
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
