"""One function for each picture of a method, drawn from the method's own objects wherever it has them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

import ketune
from ketune.adapters.orthogonal import cayley_change, skew
from ketune.adapters.quic import QuicUpdate
from ketune.adapters.sparse_linear import scattered
from ketune.circuits import crz_two_rings, with_uploads
from ketune.optim.proximal import soft_threshold
from ketune.quantization import FixedClipping, TensorScheme, best_ratios, fake_quantize
from ketune.quantization.outliers import find_outliers
from method_shapes import (
    FROZEN,
    FROZEN_AT,
    MADE,
    NORMAL,
    PLAIN,
    SLATE,
    SMALL,
    SPLIT,
    TRAINED,
    TRAINED_BLUE,
    Canvas,
    Kind,
    wire_heights,
)

FULL = 84.0  # height that stands for the layer's width


def sora() -> Canvas:
    """Rank by rank through a gate, and the soft threshold that switches ranks off."""
    c = Canvas("SoRA", r"$y = W_0\,x + \frac{\alpha}{r}\,B\,(g \odot A\,x)$", 322)
    c.frozen_lane()
    r, lane = ketune.SoraConfig().r, 176.0
    gate = torch.empty(r).normal_(generator=torch.Generator().manual_seed(3))
    kept = soft_threshold(gate, 0.5) != 0
    heights = wire_heights(r, lane, 9)
    c.into(98, lane)
    c.funnel(123, lane, 50, FULL + 10, FULL - 10, TRAINED, "$A$", 13)
    for height, alive in zip(heights, kept):
        c.line((148, height), (242, height), colour=SLATE if alive else "#b9c0c8", width=1.0)
        c.line((258, height), (352, height), colour=SLATE if alive else "#e4e7eb", width=1.0)
        c.dot(250, height, 3.9, TRAINED if alive else PLAIN)
    c.funnel(377, lane, 50, FULL - 10, FULL + 10, TRAINED, "$B$", 13)
    c.out_of(402, lane)
    c.text(250, lane + 50, "gate $g$, one number for each rank")
    c.text(377, lane - 57, "0 at the start", color=SLATE)
    # The map that closes the gates, beside what it is for.
    x, y, half = 250.0, 76.0, 28.0
    c.line((x - half, y), (x + half, y), colour="#b9c0c8", width=1.0)
    c.line((x, y - half), (x, y + half), colour="#b9c0c8", width=1.0)
    values = torch.tensor([-1.0, -0.4, 0.4, 1.0], dtype=torch.float64)
    shrunk = soft_threshold(values, 0.4).tolist()
    c.line(*((x + half * a, y + half * b) for a, b in zip(values.tolist(), shrunk)), colour=TRAINED_BLUE, width=2, z=4)
    c.arrow((x, y + half + 4), (x, lane - 42), colour=TRAINED_BLUE)
    c.text(x - half - 12, y, "after each step of the\noptimiser: soft threshold\nof every gate", ha="right")
    c.text(x + half + 12, y, "a gate at zero ends its rank;\nketune.prune drops it and\nleaves a plain LoRA", ha="left")
    return c


def qaa() -> Canvas:
    """The activation as amplitudes, the circuit, its readouts, and the map back."""
    c = Canvas("QAA", r"$y = W_0\,x + s\,W_{\mathrm{up}}\,z(x)$", 290)
    c.frozen_lane()
    config, lane, pitch = ketune.QAAConfig(), 122.0, 25.0
    circuit = config.circuit_for(16)
    c.into(70, lane)
    c.box(87, lane, 34, 104, PLAIN)
    c.text(87, lane, "pad, normalise", rotation=90)
    end = c.circuit(circuit, 104, lane, 26, pitch)
    for height in wire_heights(circuit.n_wires, lane, pitch):
        c.box(end + 11, height, 22, 17, PLAIN, r"$\langle Z\rangle$", SMALL)
        c.line((end + 22, height), (end + 52, height), width=1.0)
    c.funnel(end + 77, lane, 50, FULL, FULL + 16, TRAINED, r"$W_{\mathrm{up}}$", 12)
    c.out_of(end + 102, lane)
    c.text(end + 37, lane + 49, "$z$", 11)
    c.text(end + 77, lane - 61, "0 at the start", color=SLATE)
    c.text((104 + end) / 2, lane - 61, r"a circuit on $n = \lceil \log_2 d\,\rceil$ qubits (4 drawn)")
    c.text(87, lane + 62, r"$|x\rangle$", 11)
    return c


def quanta() -> Canvas:
    """The activation as a tensor, gates on pairs of its axes, less the circuit they started as."""
    c = Canvas("QuanTA", r"$y = W_0\,x + T\,x - S\,x$", 396)
    c.frozen_lane()
    chain = ketune.QuantaConfig(axes=[16, 8, 8, 4]).chain(4096, 4096)
    sizes, pitch, column, first = chain.in_axes, 24.0, 37.0, 108.0
    lanes = {"T": 236.0, "S": 108.0}
    for name, lane in lanes.items():
        kind = TRAINED if name == "T" else FROZEN
        heights = wire_heights(len(sizes), lane, pitch)
        end = first + 12 + column * len(chain.gates)
        c.into(72, lane)
        c.box(80, lane, 16, 92, PLAIN)
        c.box(end + 8, lane, 16, 92, PLAIN)
        for size, height in zip(sizes, heights):
            c.line((88, height), (end, height), width=1.0)
            c.text(98, height + 6, str(size), SMALL, color=SLATE)
        for number, gate in enumerate(chain.gates):
            x = first + 6 + column * (number + 0.5)
            m, n = (heights[axis] for axis in gate.axes)
            c.line((x, m), (x, n), colour=kind.edge, width=5, z=3)
            c.dot(x, m, 6, kind, z=4)
            c.dot(x, n, 6, kind, z=4)
            if name == "T":
                c.text(x, heights[0] + 19, f"${math.prod(gate.inputs)}^2$")
        c.text(end + 30, lane + 14, f"${name}\\,x$", 12)
        c.dot(SPLIT, lanes["T"])
    middle, minus = (lanes["T"] + lanes["S"]) / 2, 440.0
    c.arrow((end + 16, lanes["T"]), (minus, lanes["T"]), (minus, middle + 8))
    c.arrow((end + 16, lanes["S"]), (minus, lanes["S"]), (minus, middle - 8))
    c.node(minus, middle, "-")
    c.out_of(minus + 8, middle)
    c.text(minus - 14, middle, "0 at the start", color=SLATE, ha="right")
    shape = " × ".join(map(str, sizes))
    c.text(
        72,
        lanes["T"] - 64,
        f"$T$: a trained gate on each pair of axes, its size above it;\n4096 numbers are a tensor of {shape}",
        ha="left",
        color=SLATE,
    )
    c.text(72, lanes["S"] - 58, "$S$: the same gates as they started, from a seed", ha="left", color=SLATE)
    return c


def quantum_peft() -> Canvas:
    """Singular values between columns of two circuits."""
    c = Canvas("Quantum-PEFT", r"$y = W_0\,x + \sum_t U_t\,\mathrm{diag}(\lambda_t)\,V_t^{\top} x$", 346)
    c.frozen_lane()
    config, lane = ketune.QuantumPeftConfig(), 208.0
    c.into(104, lane)
    c.funnel(130, lane, 52, FULL, 48, MADE, r"$V^{\!\top}$", 13)
    c.arrow((156, lane), (228, lane))
    c.diagonal(252, lane, 48, config.rank)
    c.arrow((276, lane), (348, lane))
    c.funnel(374, lane, 52, 48, FULL, MADE, "$U$", 13)
    c.out_of(400, lane)
    c.text(252, lane + 36, r"$K$ singular values $\lambda$")
    c.text(252, lane - 36, "0 at the start", color=SLATE)
    circuit = config.circuit_for(16)
    for x in (130.0, 374.0):
        c.panel(x, 90, 146, 94)
        c.circuit(circuit, x - 70, 90, 25, 22)
        c.arrow((x, 137), (x, lane - 34), colour=TRAINED_BLUE)
    c.text(
        252, 90, "weights: the\nfirst $K$ columns\nof each circuit's\nmatrix, from\n$q + 2(q-1)L$ angles", color=SLATE
    )
    return c


def quic() -> Canvas:
    """A small rotation, its compounds on the diagonal, and what they do to the layer's output."""
    c = Canvas("QuIC", r"$y = W_0\,x + (R - I)\,W_0\,x$", 322)
    c.frozen_lane(branch=214.0)
    config, width = ketune.QuicConfig(), 16
    blocks = config.blocks(width)
    update = QuicUpdate(config, width, width)
    assert update.values is not None
    with torch.no_grad():
        update.values.normal_(0.0, 0.4, generator=torch.Generator().manual_seed(1))
        small = cayley_change(skew(update.values, blocks.n))[0] + torch.eye(blocks.n)
        change = update.change(torch.eye(width))
    n, cell, step = blocks.n, 8.0, 12.0
    x, y, low = 360.0, 142.0, 108.0
    left, top = x - cell * width / 2, y + cell * width / 2
    c.text(214, c.top + 10, r"$W_0\,x$")
    entry = top - n * cell / 2
    c.arrow((214, c.top), (214, entry), (left, entry))
    c.cells(x, y, cell, (change.abs() / change.abs().max()).sqrt().tolist(), MADE)
    c.out_of(left + cell * width, entry)
    c.text(left + n * cell + 6, entry, "$C_1(Q) - I$", ha="left")
    c.text(left + n * cell / 2, top - (n + math.comb(n, 2) / 2) * cell, "$C_2(Q)$\n$-\\,I$")
    c.text(x, y - cell * width / 2 - 13, "$R - I$, from compounds of one small rotation", color=SLATE)
    for i in range(n):
        for j in range(i):
            c.box(84 + (j - (n - 1) / 2) * step, low - (i - (n - 1) / 2) * step, step, step, TRAINED_CELL)
    c.box(84, low, step * n, step * n, Kind("none", PLAIN.edge, "-", PLAIN.ink))
    c.cells(196, low, step, (small.abs() / small.abs().max()).sqrt().tolist(), MADE)
    c.arrow((84 + step * n / 2, low), (196 - step * n / 2, low), colour=TRAINED_BLUE)
    c.arrow((196 + step * n / 2, low), (left, low), colour=TRAINED_BLUE)
    c.text(84, low + 42, "$S$, skew", NORMAL)
    c.text(196, low + 42, "$Q$", NORMAL)
    c.text(140, low + 9, "Cayley")
    c.text(84, low - 49, "$n(n-1)/2$ angles,\n0 at the start", color=SLATE)
    c.text(196, low - 49, "a rotation of\n$n$ axes", color=SLATE)
    return c


TRAINED_CELL = Kind(TRAINED.fill, "#ffffff", "-", "#ffffff")


def compass() -> Canvas:
    """A diagonal between frames that the loss points, and circuits that may turn them."""
    c = Canvas(
        "Compass", r"$y = W_0\,x + s\,U\,C_{\mathrm{out}}\,\mathrm{diag}(\lambda)\,C_{\mathrm{in}}^{\top}\,V\,x$", 384
    )
    c.frozen_lane()
    config, lane = ketune.CompassConfig(rank=4, n_layers=1), 248.0
    _, m, _ = config.shape(64, 64)
    c.into(76, lane)
    c.funnel(97, lane, 42, FULL, 48, FROZEN, "$V$", 13)
    c.arrow((118, lane), (156, lane))
    c.funnel(178, lane, 44, 48, 40, MADE, r"$C_{\mathrm{in}}^{\top}$", 11)
    c.arrow((200, lane), (232, lane))
    c.diagonal(252, lane, 40, config.rank)
    c.arrow((272, lane), (304, lane))
    c.funnel(326, lane, 44, 40, 48, MADE, r"$C_{\mathrm{out}}$", 11)
    c.arrow((348, lane), (386, lane))
    c.funnel(407, lane, 42, 48, FULL, FROZEN, "$U$", 13)
    c.out_of(428, lane)
    c.text(252, lane + 32, r"$\lambda$, 0 at the start")
    circuit = (config.circuits([(64, 64)]) or [])[0]
    for x in (178.0, 326.0):
        c.panel(x, 154, 138, 72)
        c.circuit(circuit, x - 66, 154, 24, 22, lead=6)
        c.arrow((x, 190), (x, lane - 24), colour=TRAINED_BLUE)
    c.text(252, 106, "two circuits may turn the frames; by default they are left out", color=SLATE)
    c.box(252, 64, 250, 34, PLAIN)
    c.text(252, 64, "before training, on a few batches: the directions\nin which the loss falls fastest")
    c.arrow((127, 64), (97, 64), (97, lane - 35), colour=TRAINED_BLUE)
    c.arrow((377, 64), (407, 64), (407, lane - 35), colour=TRAINED_BLUE)
    assert m == 2**circuit.n_wires
    return c


def prequant() -> Canvas:
    """What rounding does to a weight, and a sparse matrix that trains where it does most."""
    c = Canvas("PreQuant", r"$y = W_0\,x + S\,x$", 362)
    c.frozen_lane()
    lane, side, count, bits = 100.0, 12, 8, 4
    # A weight with heavy tails, as those of language models have.
    normal = torch.randn(5, side, side, generator=torch.Generator().manual_seed(1))
    weight = normal[0] / normal[1:].square().mean(0).sqrt()
    scheme = TensorScheme(bits)
    quantized = fake_quantize(weight, scheme, FixedClipping(best_ratios(weight, scheme)))
    index = find_outliers(weight, count, "error", quantized)
    moved = (weight - quantized).abs()
    trained = scattered(torch.ones(count), index, (side, side))
    c.arrow((FROZEN_AT, c.top - 20), (FROZEN_AT, 250), colour=TRAINED_BLUE)
    c.cells(FROZEN_AT, 208, 7, (moved / moved.max()).tolist(), PLAIN)
    c.text(FROZEN_AT, 156, "$|W_0 - Q(W_0)|$")
    c.arrow((FROZEN_AT + 42, 208), (300, 208), (300, lane + 42), colour=TRAINED_BLUE)
    c.text(
        200,
        230,
        f"the entries that rounding to {bits} bits moves farthest:\n0.5 % of a weight, here {count} of {side**2}",
        ha="left",
    )
    c.into(258, lane)
    c.cells(300, lane, 7, trained.tolist(), TRAINED)
    c.out_of(342, lane)
    c.text(410, lane + 16, "0 at the start", color=SLATE)
    c.text(250, lane + 26, "$S$", 13)
    c.text(300, 48, "only these entries train; codes and steps stay as they are", color=SLATE)
    return c


def qtha() -> Canvas:
    """Tensor trains in and out of a bottleneck, in it a circuit beside a dense map."""
    c = Canvas("QTHA", r"$y = W_0\,x + \frac{\alpha}{r}\,\mathrm{MPO}_B\,M_B\,(W_c\,z + W_q\,\mathrm{QNN}(z))$", 366)
    c.frozen_lane()
    lane, low = 222.0, 100.0
    config = ketune.QTHAConfig(r=3)
    first, last = config.trains(3584, 3584)
    for x, train, name in ((92.0, first, "A"), (442.0, last, "B")):
        heights = wire_heights(len(train.in_modes), lane, 21)
        c.line((x, heights[0]), (x, heights[-1]), colour=TRAINED_BLUE, width=3)
        for height, into, out in zip(heights, train.in_modes, train.out_modes):
            c.line((x - 22, height), (x + 22, height), width=1.0)
            c.dot(x, height, 6.5, TRAINED, z=4)
            c.text(x - 14, height + 6, str(into), color=SLATE)
            c.text(x + 14, height + 6, str(out), color=SLATE)
        c.text(x, lane + 52, f"$\\mathrm{{MPO}}_{name}$", NORMAL)
    c.into(69, lane)
    c.line((70, lane + 36), (70, lane - 36), width=2.4)
    c.funnel(129, lane, 30, 74, 40, TRAINED, "$M_A$", 11)
    c.arrow((144, lane), (244, lane))
    c.dot(166, lane)
    c.text(166, lane + 11, "$z$", 11)
    c.box(262, lane, 36, 40, TRAINED, "$W_c$", 11)
    c.arrow((280, lane), (364, lane))
    c.node(372, lane)
    c.arrow((380, lane), (390, lane))
    c.funnel(405, lane, 30, 40, 74, TRAINED, "$M_B$", 11)
    c.line((464, lane + 36), (464, lane - 36), width=2.4)
    c.out_of(464, lane)
    c.text(442, lane - 46, "last core 0 at the start", color=SLATE)
    # The branch of the circuit.
    circuit, uploads = with_uploads([crz_two_rings(config.r)])
    heights = wire_heights(config.r, low, 26)
    c.arrow((166, lane), (166, low + 50), (SPLIT, low + 50), (SPLIT, low), (69, low))
    c.line((70, low + 36), (70, low - 36), width=2.4)
    end = c.circuit(circuit, 70, low, 24, 26, [angle for feature in uploads for angle in feature], lead=6)
    for height in heights:
        c.box(end + 11, height, 22, 17, PLAIN, r"$\langle Z\rangle$", SMALL)
        c.line((end + 22, height), (end + 32, height), width=1.0)
    c.box(end + 47, low, 30, 72, TRAINED, "$W_q$", 11)
    c.arrow((end + 62, low), (372, low), (372, lane - 8))
    c.text(
        70, low - 51, "a circuit on $r$ qubits (3 drawn); the first RY turn by $z$, the input", color=SLATE, ha="left"
    )
    return c


def qpa() -> Canvas:
    """A circuit and a small network that make the factors of a LoRA, chunk by chunk."""
    c = Canvas("QPA", r"$y = W_0\,x + s\,U(\theta)\,D(\theta)\,x$", 376)
    c.frozen_lane()
    config, lane, low = ketune.QPAConfig(n_layers=2), 236.0, 104.0
    c.into(204, lane)
    c.funnel(230, lane, 52, FULL, 44, MADE, "$D$", 13)
    c.arrow((256, lane), (344, lane))
    c.funnel(370, lane, 52, 44, FULL, MADE, "$U$", 13)
    c.out_of(396, lane)
    c.text(300, lane + 9, "$r$ numbers")
    c.text(370, lane + 51, "0 at the start", color=SLATE)
    n_chunks = 8
    circuit = config.circuit_of(n_chunks)
    for height in wire_heights(circuit.n_wires, low, 24):
        c.text(32, height, r"$|0\rangle$", NORMAL)
    end = c.circuit(circuit, 44, low, 23, 24)
    c.box(end + 14, low, 28, 68, PLAIN)
    c.text(end + 14, low, r"$p_i \rightarrow q_i$", NORMAL, rotation=90)
    x = end + 100
    c.arrow((end + 28, low), (x - 34, low), colour=TRAINED_BLUE)
    c.funnel(x, low, 68, 48, 88, TRAINED, "mapping\nnetwork", SMALL)
    c.text(end + 14, low - 50, "bits of $i$")
    c.arrow((end + 36, low - 50), (end + 46, low - 50), (end + 46, low - 14), (x - 34, low - 14), colour=TRAINED_BLUE)
    strip, cell, chosen = x + 80, 11.0, 4
    c.arrow((x + 34, low), (strip - 10, low), colour=TRAINED_BLUE)
    for number in range(n_chunks):
        kind = Kind("#9fcbe6", *MADE[1:]) if number == chosen else MADE
        c.box(strip, low + (chosen - number) * cell, 20, cell, kind)
    c.text(strip + 18, low, "chunk $i$ of\nthe numbers\nin $U$ and $D$", ha="left")
    c.arrow((strip, low + 4.5 * cell), (strip, 176), (230, 176), (230, lane - 33), colour=TRAINED_BLUE)
    c.arrow((370, 176), (370, lane - 33), colour=TRAINED_BLUE)
    return c


PICTURES: dict[str, Callable[[], Canvas]] = {
    "sora": sora,
    "qaa": qaa,
    "quanta": quanta,
    "quantum_peft": quantum_peft,
    "quic": quic,
    "compass": compass,
    "prequant": prequant,
    "qtha": qtha,
    "qpa": qpa,
}
"""What draws each method, by the method's name."""
