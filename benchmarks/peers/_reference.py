"""The work item in float64, by NumPy and the adjoint method: what every peer is checked against before it is timed."""

from __future__ import annotations

import numpy as np

from peers import ROTATIONS, cnot_ring

_PAULIS = {
    "RX": np.array([[0, 1], [1, 0]], complex),
    "RY": np.array([[0, -1j], [1j, 0]], complex),
    "RZ": np.array([[1, 0], [0, -1]], complex),
}


def _on_wire(matrix: np.ndarray, states: np.ndarray, wire: int) -> np.ndarray:
    pairs = states.reshape(len(states) << wire, 2, -1)
    return np.einsum("ij,bjk->bik", matrix, pairs).reshape(states.shape)


def reference(
    x: np.ndarray, angles: np.ndarray, weights: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """out (B, n), dx (B, 2^n) and the angles' gradient of every sample (B, ...), which the caller sums."""
    n_layers, n_wires = angles.shape[:2]
    x, angles, weights = (np.asarray(array, np.float64) for array in (x, angles, weights))
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / norms
    paulis = [_PAULIS[name] for name in ROTATIONS[kind]]
    index = np.arange(x.shape[1])
    order = index
    for control, target in cnot_ring(n_wires):
        fired = (index >> (n_wires - 1 - control)) & 1
        order = order[index ^ (fired << (n_wires - 1 - target))]
    signs = 1.0 - 2.0 * ((index[:, None] >> np.arange(n_wires - 1, -1, -1)) & 1)
    places = [(layer, wire, k) for layer in range(n_layers) for wire in range(n_wires) for k in range(len(paulis))]

    def gate(place: tuple[int, int, int], sign: float = 1.0) -> np.ndarray:
        half = sign * angles[place] / 2
        return np.cos(half) * np.eye(2) - 1j * np.sin(half) * paulis[place[2]]

    states = unit.astype(complex)
    for place in places:
        states = _on_wire(gate(place), states, place[1])
        if place[1:] == (n_wires - 1, len(paulis) - 1):
            states = states[:, order]
    out = np.abs(states) ** 2 @ signs

    # out = <psi|O|psi> with O = sum of the weighted Z: the adjoint O|psi> runs back beside the state.
    adjoint = (weights @ signs.T) * states
    back = np.argsort(order)
    dangles = np.empty((len(x), *angles.shape))
    for place in reversed(places):
        if place[1:] == (n_wires - 1, len(paulis) - 1):
            states, adjoint = states[:, back], adjoint[:, back]
        turned = _on_wire(paulis[place[2]], states, place[1])  # d gate / d angle = -i/2 Pauli gate
        dangles[(slice(None), *place)] = np.einsum("bi,bi->b", adjoint.conj(), turned).imag
        states, adjoint = (_on_wire(gate(place, -1.0), array, place[1]) for array in (states, adjoint))
    d_unit = 2 * adjoint.real
    dx = (d_unit - unit * (unit * d_unit).sum(1, keepdims=True)) / norms
    return out, dx, dangles
