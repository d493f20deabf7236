"""Noise on Aer: ours against trajectories and PennyLane's density matrices, Aer's against closed forms."""

import numpy as np
import pennylane as qml
import pytest
import torch
from qiskit_aer.noise import NoiseModel as AerNoiseModel
from qiskit_aer.noise import ReadoutError, depolarizing_error

from ketune.circuits import (
    Channel,
    Circuit,
    DeviceError,
    DeviceRunner,
    Gate,
    NoiseModel,
    PauliChannel,
    noisy_run,
    open_device,
    run,
)

WORDS = ["XYZ", "ZZI", "IIX", "ZIY"]
PAIRS = PauliChannel(("XX", "ZI", "IY", "ZY"), (0.05, 0.03, 0.04, 0.02))
NOISE = NoiseModel((Channel("phase_damping", 0.05), Channel("depolarising", 0.02)), (PAIRS,), readout_error=0.03)


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("method", "shots", "tolerance"),
    [("density_matrix", None, 0.03), ("density_matrix", 20000, 0.04), ("statevector", 2000, 0.1)],
)
def test_our_noise_on_aer_is_the_noise_of_noisy_run(method, shots, tolerance):
    turns = tuple(Gate(name, (wire,), wire) for wire, name in enumerate(("RX", "RY", "RX")))
    circuit = Circuit(
        3, (*turns, Gate("CNOT", (0, 1)), Gate("CRX", (1, 2), 3), Gate("ISWAP", (2, 0)), Gate("SX", (1,)))
    )
    x, angles = doubles(2, 8), doubles(circuit.n_angles, seed=1)
    generator = torch.Generator().manual_seed(2)
    ours = noisy_run(circuit, x, angles, NOISE, 20000, readout=WORDS, generator=generator)
    clean = run(circuit, x, angles, readout=WORDS)
    device = open_device("aer", noise=NOISE, loading="free", method=method)
    theirs = DeviceRunner(device, shots=shots, seed=3)(circuit, x, angles, readout=WORDS)
    torch.testing.assert_close(theirs, ours, atol=tolerance, rtol=0)
    assert (ours - clean).abs().max() > 0.2


def test_exact_noise_on_aer_is_that_of_pennylanes_density_matrices():
    noise = NoiseModel((Channel("amplitude_damping", 0.2),), (PAIRS, Channel("amplitude_damping", 0.1)))
    circuit = Circuit(2, (Gate("RY", (0,), 0), Gate("CNOT", (0, 1)), Gate("RX", (1,), 1)))
    angles = doubles(2)

    @qml.qnode(qml.device("default.mixed", wires=2))
    def reference():
        qml.RY(angles[0].item(), 0)
        qml.AmplitudeDamping(0.2, 0)
        qml.CNOT([0, 1])
        qml.QubitChannel(pauli_kraus(PAIRS), [0, 1])
        qml.AmplitudeDamping(0.1, 0)
        qml.AmplitudeDamping(0.1, 1)
        qml.RX(angles[1].item(), 1)
        qml.AmplitudeDamping(0.2, 1)
        return qml.probs([0, 1])

    found = DeviceRunner(open_device("aer", noise=noise))(circuit, None, angles, readout="probabilities")
    torch.testing.assert_close(found, torch.tensor(reference(), dtype=torch.float64), atol=1e-10, rtol=0)


def pauli_kraus(channel):
    rest = 1 - sum(channel.probabilities)
    terms = [("II", rest), *zip(channel.words, channel.probabilities)]
    letters = {"I": np.eye(2), **{name: getattr(qml, name)(0).matrix() for name in "XYZ"}}
    return [chance**0.5 * np.kron(letters[word[0]], letters[word[1]]) for word, chance in terms]


def test_loading_by_gates_makes_errors_and_free_loading_makes_none():
    noise = NoiseModel(two_wire=(PauliChannel.depolarising(0.05),))
    x, circuit = doubles(2, 8), Circuit(3, ())
    exact = run(circuit, x, torch.zeros(0))
    free = DeviceRunner(open_device("aer", noise=noise, loading="free"))(circuit, x, torch.zeros(0))
    gates = DeviceRunner(open_device("aer", noise=noise))(circuit, x, torch.zeros(0))
    torch.testing.assert_close(free, exact, atol=1e-6, rtol=0)
    assert (gates - exact).abs().max() > 0.02


def test_a_noise_model_of_aer_is_run_exactly_and_with_shots():
    noise = AerNoiseModel()
    noise.add_all_qubit_quantum_error(depolarizing_error(0.1, 2), ["cx"])
    noise.add_all_qubit_readout_error(ReadoutError([[0.9, 0.1], [0.2, 0.8]]))
    noise.add_readout_error(ReadoutError([[1.0, 0.0], [0.5, 0.5]]), [0])
    # |11> by one CNOT: Aer's depolarising error of 0.1 leaves each Z at 0.9 times its value.
    circuit, empty = Circuit(2, (Gate("X", (0,)), Gate("CNOT", (0, 1)))), torch.zeros(0)
    device = open_device("aer", noise=noise)
    # Wire 1 is Qiskit's qubit 0. P(1) = 0.95; misread: 0.8 and 0.1 for wire 0, 0.5 and 0 for wire 1.
    expected = torch.tensor([1 - 2 * (0.95 * 0.8 + 0.05 * 0.1), 1 - 2 * 0.95 * 0.5])
    torch.testing.assert_close(DeviceRunner(device)(circuit, None, empty), expected, atol=1e-6, rtol=0)
    sampled = DeviceRunner(device, shots=20000, seed=0)(circuit, None, empty)
    torch.testing.assert_close(sampled, expected, atol=0.03, rtol=0)


def test_errors_on_gates_whose_angles_aer_does_not_bind_are_refused():
    noise = AerNoiseModel()
    noise.add_all_qubit_quantum_error(depolarizing_error(0.1, 2), ["crx"])
    with pytest.raises(DeviceError, match=r"crx.*such as cx"):
        open_device("aer", noise=noise)
