"""Parameter-shift rules, found from the gate table: exact derivatives from the circuit itself at shifted angles."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from ketune.circuits._gates import GATES
from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.simulate import simulate

ShiftRule = tuple[tuple[float, float], ...]
"""Pairs of a factor and a shift in radians: the derivative is the sum of factor times the value at angle + shift."""


@lru_cache(maxsize=64)
def shift_rule(name: str) -> ShiftRule:
    """The rule of a gate with an angle.

    An expectation is a trigonometric polynomial of the angle, whose frequencies are the differences of the eigenvalues
    of the gate's generator. One frequency (a rotation about a Pauli product, PHASE, CPHASE) gives the rule of two
    terms, two of them (CRX, CRY, CRZ, ISINGXY) the rule of four (Wierichs, Izaac, Wang, Lin, Quantum 6, 677, 2022).
    A gate that turns a global phase has no frequency, and its derivative is zero without a circuit.

    Args:
        name: a gate of the table that has an angle.

    Example:
        >>> shift_rule("RX")
        ((0.5, 1.5707963267948966), (-0.5, -1.5707963267948966))
        >>> len(shift_rule("CRY")), shift_rule("GPHASE")
        (4, ())
    """
    frequencies = _frequencies(name)
    if not frequencies:
        return ()
    count, unit = len(frequencies), frequencies[0]
    if not np.allclose(frequencies, unit * np.arange(1, count + 1)):
        raise NotImplementedError(f"{name}: frequencies {frequencies} are not multiples of the first one")
    shifts = np.array([(2 * k - 1) * math.pi / (2 * count * unit) for k in range(1, count + 1)])
    # sum_k 2 c_k sin(w s_k) = w for every frequency w: the rule is right for every wave, so for their sum.
    factors = np.linalg.solve(2 * np.sin(np.outer(frequencies, shifts)), np.array(frequencies))
    pairs = [(float(c), float(s)) for c, s in zip(factors, shifts)]
    return tuple(term for c, s in pairs for term in ((c, s), (-c, -s)))


def _frequencies(name: str) -> list[float]:
    """Positive differences between eigenvalues of the gate's generator, in rising order."""
    n_wires = GATES[name].n_wires
    circuit = Circuit(n_wires, (Gate(name, tuple(range(n_wires)), 0),))
    angle = 0.1  # so small that no eigenvalue's phase wraps
    starts = torch.eye(2**n_wires, dtype=torch.complex128)
    rows = simulate(circuit, torch.tensor([angle], dtype=torch.float64), starts)
    values = -np.angle(np.linalg.eigvals(rows.numpy().T)) / angle
    differences = np.abs(values[:, None] - values).round(9)
    return sorted({float(value) for value in differences.flatten()} - {0.0})
