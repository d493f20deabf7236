"""Random circuits of every gate, arbitrary matrices among them, for property tests."""

import numpy as np
from hypothesis import strategies as st

from ketune.circuits import Circuit, Gate
from ketune.circuits._gates import GATES


def random_unitary(rng, size, real=False):
    sample = rng.normal(size=(size, size)) + (0 if real else 1j * rng.normal(size=(size, size)))
    return np.linalg.qr(sample)[0].astype(complex)


@st.composite
def circuits(draw, max_wires=4, max_gates=20, min_wires=1):
    n_wires = draw(st.integers(min_wires, max_wires))
    sizes = {name: spec.n_wires for name, spec in GATES.items()} | {"U1": 1, "U2": 2}
    names = sorted(name for name, size in sizes.items() if size <= n_wires)
    gates, n_angles = [], 0
    for name in draw(st.lists(st.sampled_from(names), max_size=max_gates)):
        wires = tuple(draw(st.permutations(range(n_wires)))[: sizes[name]])
        if name in ("U1", "U2"):
            rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
            matrix = random_unitary(rng, 2 ** len(wires), draw(st.booleans()))
            gates.append(Gate("U", wires, matrix=matrix))
            continue
        angle = None
        if GATES[name].has_angle:
            # Now and then an angle that an earlier gate uses too.
            angle = draw(st.integers(max(0, n_angles - 2), n_angles))
            n_angles = max(n_angles, angle + 1)
        gates.append(Gate(name, wires, angle))
    return Circuit(n_wires, tuple(gates))
