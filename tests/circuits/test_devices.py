"""Devices: Qiskit's and PennyLane's answers against our own simulator, on states that tell the wires apart."""

import pytest
import torch
from qiskit_aer import AerSimulator

from ketune.circuits import (
    Circuit,
    DeviceLayer,
    DeviceRunner,
    Gate,
    Hamiltonian,
    QuantumLayer,
    open_device,
    run,
    ry_ring,
    ryrz_ring_ry,
    with_uploads,
)
from ketune.circuits._gates import GATES

EXACT = (
    "statevector",
    "aer",
    "pennylane:default.qubit",
    "pennylane:lightning.qubit",
    "pennylane:default.mixed",
)
SAMPLED = (*EXACT, "generic:5")
WORDS = ["XYZ", "ZZI", "IIX", "ZIY"]
EVERY_GATE = Circuit(
    3,
    (Gate("U", (1,), matrix=((0.6, 0.8j), (0.8j, 0.6))), Gate("U", (2, 0), matrix=torch.eye(4).roll(1, 0).tolist()))
    + tuple(
        Gate(name, (k % 3, (k + 1) % 3)[: spec.n_wires], None if not spec.has_angle else 0)
        for k, (name, spec) in enumerate(GATES.items())
    ),
)
"""All gates, those with an angle sharing one."""


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noiseless_backend(n_qubits=5):
    line = [[k, k + 1] for k in range(n_qubits - 1)]
    return AerSimulator(coupling_map=line, basis_gates=["cx", "rz", "sx", "x"], n_qubits=n_qubits)


# ------------------------------------------------------------------------------------------------------ exact values


@pytest.mark.parametrize("device", EXACT)
@pytest.mark.parametrize(("encoding", "n_features"), [("amplitude", 7), ("angle", 2), ("iqp", 3), ("basis", 3)])
@pytest.mark.parametrize("readout", ["pauli_z", "probabilities", WORDS], ids=str)
def test_a_device_agrees_with_our_simulator(device, encoding, n_features, readout):
    x, angles = doubles(2, n_features), doubles(1, seed=1)
    if encoding == "basis":
        x = (x > 0).double()
    ours = run(EVERY_GATE, x, angles, encoding=encoding, readout=readout)
    theirs = DeviceRunner(device)(EVERY_GATE, x, angles, encoding=encoding, readout=readout)
    assert theirs.dtype == torch.float64
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize("device", EXACT)
def test_wires_keep_their_order(device):
    # |100>: only wire 0 is 1, so its Z is -1, and of 8 basis states number 4 is certain.
    circuit = Circuit(3, (Gate("X", (0,)),))
    on_device, angles = DeviceRunner(device), torch.zeros(0)
    assert on_device(circuit, None, angles).tolist() == pytest.approx([-1, 1, 1])
    assert on_device(circuit, None, angles, readout="probabilities").tolist() == pytest.approx([0] * 4 + [1] + [0] * 3)
    bits = torch.tensor([0.0, 1.0, 0.0])
    assert on_device(Circuit(3, ()), bits, angles, encoding="basis").tolist() == pytest.approx([1, -1, 1])
    amplitudes = torch.tensor([0.0, 1.0])  # |001>
    assert on_device(Circuit(3, ()), amplitudes, angles).tolist() == pytest.approx([1, 1, -1])


@pytest.mark.parametrize("device", ["statevector", "aer", "pennylane:default.qubit"])
def test_angles_with_leading_dimensions_broadcast_with_features(device):
    circuit = ryrz_ring_ry(2)
    angles, x = doubles(3, 1, circuit.n_angles), doubles(4, 3, seed=1)
    ours = run(circuit, x, angles)
    theirs = DeviceRunner(device)(circuit, x, angles)
    assert theirs.shape == (3, 4, 2)
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


def test_hamiltonians_are_put_together_from_their_words():
    hamiltonians = [Hamiltonian((0.5, -2.0), ("ZI", "XX")), Hamiltonian((1.5,), ("YZ",))]
    circuit, x = ryrz_ring_ry(2), doubles(3, 4)
    angles = doubles(circuit.n_angles, seed=1)
    theirs = DeviceRunner("aer")(circuit, x, angles, readout=hamiltonians)
    torch.testing.assert_close(theirs, run(circuit, x, angles, readout=hamiltonians), atol=1e-6, rtol=0)


def test_a_zero_vector_reads_out_as_zeros_and_an_empty_batch_as_nothing():
    circuit = ry_ring(2)
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    found = DeviceRunner("statevector")(circuit, x, torch.ones(2))
    torch.testing.assert_close(found, run(circuit, x, torch.ones(2)), atol=1e-6, rtol=0)
    assert not found[0].any()
    assert DeviceRunner("aer")(circuit, x[:0], torch.ones(2)).shape == (0, 2)


@pytest.mark.parametrize("encoding", ["amplitude", "angle", "iqp", "reuploading"])
def test_a_device_layer_gives_what_its_layer_gives(encoding):
    options = {"n_repeats": 2} if encoding == "iqp" else {}
    circuit = ryrz_ring_ry(2)
    if encoding == "reuploading":
        circuit, feature_angles = with_uploads([circuit] * 2)
        options["feature_angles"] = feature_angles
    layer = QuantumLayer(circuit, encoding, generator=torch.Generator().manual_seed(0), **options)
    x = torch.randn(2, 3, layer.n_features, generator=torch.Generator().manual_seed(1))
    on_device = DeviceLayer(layer, "statevector")
    assert on_device(x).dtype == torch.float32
    torch.testing.assert_close(on_device(x), layer(x), atol=1e-6, rtol=0)
    assert on_device.angles is layer.angles


# ------------------------------------------------------------------------------------------------------------- shots


@pytest.mark.parametrize("device", SAMPLED)
def test_shots_scatter_about_the_exact_values(device):
    circuit, x = ryrz_ring_ry(3), doubles(3, 6)
    angles = doubles(circuit.n_angles, seed=1)
    opened = noiseless_backend() if device.startswith("generic") else device
    found = DeviceRunner(opened, shots=4000, seed=1)(circuit, x, angles, readout=WORDS)
    exact = run(circuit, x, angles, readout=WORDS)
    scores = (found - exact) / ((1 - exact**2) / 4000).sqrt()
    assert scores.abs().max() < 4.5
    assert scores.abs().mean() > 0.3


@pytest.mark.parametrize("device", SAMPLED)
def test_a_seed_repeats_the_shots_of_a_sequence_of_calls(device):
    circuit = Circuit(2, (Gate("H", (0,)), Gate("RX", (1,), 0)))
    first, second = (DeviceRunner(device, shots=100, seed=3) for _ in range(2))
    # Equal circuits must not share their luck: not those of a batch, not those of two settings, not two calls.
    x, angles = torch.ones(6, 4), torch.full((1,), 1.0)
    readout = ["XI", "ZI", "IX", "IZ"]
    found = first(circuit, x, angles, readout=readout)
    assert torch.equal(found, second(circuit, x, angles, readout=readout))
    assert len(set(found[:, 0].tolist())) > 1
    assert len(set(found[:, 3].tolist())) > 1
    assert not torch.equal(found[:, 0], found[:, 3])
    assert not torch.equal(found, first(circuit, x, angles, readout=readout))


def test_a_routed_circuit_is_read_on_the_right_qubits():
    # On a line of qubits a gate between the ends needs swaps, which move wires.
    circuit = Circuit(4, (Gate("X", (0,)), Gate("CNOT", (0, 3)), Gate("CNOT", (3, 1)), Gate("CNOT", (0, 3))))
    for level in range(4):
        on_device = DeviceRunner(noiseless_backend(), shots=10, optimization_level=level)
        assert on_device(circuit, None, torch.zeros(0)).tolist() == [-1, -1, 1, 1]


def test_jobs_hold_no_more_circuits_than_allowed():
    device = open_device("aer", max_circuits=3)
    sizes = []
    original = device._run

    def counted(programs, options):
        sizes.append(sum(program.n_rows for program in programs))
        return original(programs, options)

    device._run = counted
    circuit, x = ryrz_ring_ry(2), doubles(4, 4)
    angles = doubles(circuit.n_angles, seed=1)
    found = DeviceRunner(device)(circuit, x, angles, readout=["XI", "ZZ"])
    assert sizes == [3, 3, 2]
    torch.testing.assert_close(found, run(circuit, x, angles, readout=["XI", "ZZ"]), atol=1e-6, rtol=0)


def test_a_parametrised_circuit_is_transpiled_once():
    device = open_device(noiseless_backend())
    on_device, circuit = DeviceRunner(device, shots=10), ryrz_ring_ry(2)
    for seed in range(3):
        on_device(circuit, doubles(4, 2, seed=seed), doubles(circuit.n_angles, seed=seed), encoding="angle")
    assert len(device._circuits) == 1
