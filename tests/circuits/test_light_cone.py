"""Gates that cannot reach the readout are dropped, and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.random_circuits import circuits

from ketune.circuits import Circuit, Gate, run, rxryrz_ring, simulate
from ketune.circuits._light_cone import reaching_steps
from ketune.circuits.observables import word_signs


def names(circuit, readout):
    return [step.name for step in reaching_steps(circuit, readout)]


def test_phases_before_a_readout_of_z_are_dropped():
    kept = names(rxryrz_ring(4, 2), "pauli_z")
    assert kept.count("RZ") == 4
    assert names(rxryrz_ring(4, 2), "amplitudes").count("RZ") == 8


def test_a_phase_that_a_later_turn_sees_is_kept():
    circuit = Circuit(2, (Gate("RZ", (1,), 0), Gate("CNOT", (0, 1)), Gate("RY", (0,), 1)))
    assert names(circuit, "pauli_z") == ["RZ", "CNOT", "RY"]


def test_a_phase_on_the_control_commutes_with_the_cnot():
    circuit = Circuit(2, (Gate("RZ", (0,), 0), Gate("CNOT", (0, 1)), Gate("RY", (1,), 1)))
    assert names(circuit, "pauli_z") == ["CNOT", "RY"]


def test_wires_that_nothing_connects_to_the_readout_are_dropped():
    circuit = Circuit(3, (Gate("RY", (0,), 0), Gate("RY", (2,), 1), Gate("CNOT", (1, 2)), Gate("RX", (1,), 2)))
    assert names(circuit, ("ZII",)) == ["RY"]
    assert names(circuit, ("IIZ",)) == ["RY", "CNOT"]


@pytest.mark.parametrize("word", ["ZI", "IZ", "ZZ"])
def test_a_control_does_not_feel_its_target(word):
    circuit = Circuit(2, (Gate("RY", (0,), 0), Gate("RY", (1,), 1), Gate("CNOT", (0, 1))))
    assert names(circuit, (word,)) == (["RY"] if word == "ZI" else ["RY", "RY", "CNOT"])


@settings(deadline=None, database=None, max_examples=60)
@given(circuits(max_wires=4, max_gates=25, min_wires=2), st.integers(0, 2**31), st.data())
def test_the_readout_and_its_gradients_do_not_notice(circuit, seed, data):
    letters = st.text("IZ", min_size=circuit.n_wires, max_size=circuit.n_wires)
    words = data.draw(st.lists(letters, min_size=1, max_size=2))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2**circuit.n_wires, dtype=torch.float64, generator=generator).requires_grad_()
    angles = torch.randn(circuit.n_angles, dtype=torch.float64, generator=generator).requires_grad_()
    squares = simulate(circuit, angles, x).abs().square()
    expected = squares @ word_signs(words, torch.arange(2**circuit.n_wires)) / squares.sum(1, keepdim=True)
    out = run(circuit, x, angles, readout=words)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    inputs = (x, angles) if circuit.n_angles else (x,)
    for ours, theirs in zip(
        torch.autograd.grad(out.sum(), inputs), torch.autograd.grad(expected.sum(), inputs, allow_unused=True)
    ):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, atol=1e-10, rtol=0)
