"""MindQuantum: a state vector in C++, adjoint differentiation, one sample after the other.

It differentiates to the angles only. Each sample's state is set by hand, because its gradient operator takes features
as gate parameters, not as amplitudes. MindQuantum's qubit 0 is the least significant bit, so wires count back.
"""

from __future__ import annotations

from collections.abc import Callable

import mindquantum as mq
import numpy as np

from peers import ROTATIONS, cnot_ring

NAME = "MindQuantum"
PACKAGES = ("mindquantum",)
GRADIENTS = ("angles",)
NOTE = "one sample at a time, no gradient to the features"


def place(array: np.ndarray) -> np.ndarray:
    return array.copy()


def build(n_wires: int, n_layers: int, kind: str) -> Callable[..., tuple[np.ndarray, None, np.ndarray]]:
    circuit = mq.Circuit()
    names = []
    for _ in range(n_layers):
        for wire in range(n_wires):
            for name in ROTATIONS[kind]:
                names.append(f"angle{len(names)}")
                circuit += getattr(mq, name)(names[-1]).on(n_wires - 1 - wire)
        for control, target in cnot_ring(n_wires):
            circuit += mq.X.on(n_wires - 1 - target, n_wires - 1 - control)
    readouts = [mq.Hamiltonian(mq.QubitOperator(f"Z{n_wires - 1 - wire}"), mq.complex64) for wire in range(n_wires)]
    simulator = mq.Simulator("mqvector", n_wires, dtype=mq.complex64)
    operator = simulator.get_expectation_with_grad(readouts, circuit)

    def call(x: np.ndarray, angles: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, None, np.ndarray]:
        values = angles.ravel()
        out = np.empty(weights.shape, np.float32)
        dangles = np.zeros(values.shape, np.float64)
        for k, sample in enumerate(x):
            simulator.set_qs(sample / np.linalg.norm(sample))
            expectations, jacobian = operator(values)
            out[k] = expectations[0].real
            dangles += weights[k] @ jacobian[0].real
        return out, None, dangles.reshape(angles.shape)

    return call
