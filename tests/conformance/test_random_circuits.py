"""Random circuits of every gate against PennyLane and Qiskit: values to 1e-12, gradients to 1e-10, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.random_circuits import circuits

from ketune.circuits import run, simulate, to_pennylane, to_qiskit

SETTINGS = settings(deadline=None, max_examples=40, database=None)


def draw_numbers(circuit, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2**circuit.n_wires, dtype=torch.float64, generator=generator)
    angles = torch.randn(circuit.n_angles, dtype=torch.float64, generator=generator)
    return (x / x.norm()).requires_grad_(), angles.requires_grad_(), generator


def agree(circuit, x, angles, wanted, generator):
    """Final state and probabilities, and the gradients of those by `simulate` and `run`."""
    state = simulate(circuit, angles, x)
    torch.testing.assert_close(state.to(torch.complex128), wanted.to(torch.complex128), atol=1e-12, rtol=0)
    probabilities = wanted.abs().square()
    ours = run(circuit, x, angles, readout="probabilities")
    torch.testing.assert_close(ours, probabilities, atol=1e-12, rtol=0)
    linear = run(circuit, x, angles, readout="amplitudes")
    torch.testing.assert_close(linear, wanted.real, atol=1e-12, rtol=0)
    if not wanted.requires_grad:
        return
    weights = torch.randn(ours.shape, dtype=torch.float64, generator=generator)
    inputs = (x, angles) if circuit.n_angles else (x,)
    # `run` normalises its features, so that its gradient is PennyLane's without the part along x.
    for quantity, theirs, along in (
        (state.abs().square(), probabilities, True),
        (ours, probabilities, False),
        (linear, wanted.real, True),
    ):
        expected = torch.autograd.grad(theirs, inputs, weights, retain_graph=True)
        got = torch.autograd.grad(quantity, inputs, weights, retain_graph=True)
        first = expected[0] if along else expected[0] - (expected[0] @ x) * x
        torch.testing.assert_close(got[0], first, atol=1e-10, rtol=0)
        for mine, its in zip(got[1:], expected[1:]):
            torch.testing.assert_close(mine, its, atol=1e-10, rtol=0)


@SETTINGS
@given(circuits(), st.integers(0, 2**31))
def test_pennylane_agrees_with_values_and_gradients(circuit, seed):
    qml = pytest.importorskip("pennylane")
    x, angles, generator = draw_numbers(circuit, seed)
    device = qml.device("default.qubit", wires=circuit.n_wires)

    @qml.qnode(device, interface="torch", diff_method="backprop")
    def node(x, angles):
        qml.StatePrep(x, wires=range(circuit.n_wires), validate_norm=False)
        to_pennylane(circuit)(angles)
        return qml.state()

    agree(circuit, x, angles, node(x, angles), generator)


@SETTINGS
@given(circuits(), st.integers(0, 2**31))
def test_qiskit_agrees(circuit, seed):
    pytest.importorskip("qiskit")
    from qiskit.quantum_info import Statevector

    x, angles, generator = draw_numbers(circuit, seed)
    wanted = Statevector(x.detach().numpy().astype(complex)).evolve(to_qiskit(circuit, angles)).data
    agree(circuit, x, angles, torch.from_numpy(wanted), generator)
