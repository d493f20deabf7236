"""Devices: Qiskit's and PennyLane's answers against our own simulator, on states that tell the wires apart."""

import os
import subprocess
import sys

import numpy as np
import pennylane as qml
import pytest
import torch
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel as AerNoiseModel
from qiskit_aer.noise import ReadoutError, depolarizing_error

from ketune.circuits import (
    Channel,
    Circuit,
    DeviceError,
    DeviceLayer,
    DeviceRunner,
    Gate,
    Hamiltonian,
    NoiseModel,
    PauliChannel,
    QuantumLayer,
    noisy_run,
    open_device,
    run,
    ry_ring,
    ryrz_ring_ry,
    with_uploads,
)
from ketune.circuits._gates import GATES
from ketune.circuits.devices import _on_ibm

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


# ------------------------------------------------------------------------------------------------------------- noise

PAIRS = PauliChannel(("XX", "ZI", "IY", "ZY"), (0.05, 0.03, 0.04, 0.02))
NOISE = NoiseModel((Channel("phase_damping", 0.05), Channel("depolarising", 0.02)), (PAIRS,), readout_error=0.03)


@pytest.mark.parametrize("shots", [None, 20000])
@pytest.mark.parametrize("method", ["density_matrix", "statevector"])
def test_our_noise_on_aer_is_the_noise_of_noisy_run(shots, method):
    if shots is None and method == "statevector":
        pytest.skip("trajectories are never exact")
    turns = tuple(Gate(name, (wire,), wire) for wire, name in enumerate(("RX", "RY", "RX")))
    circuit = Circuit(
        3, (*turns, Gate("CNOT", (0, 1)), Gate("CRX", (1, 2), 3), Gate("ISWAP", (2, 0)), Gate("SX", (1,)))
    )
    x, angles = doubles(3, 8), doubles(circuit.n_angles, seed=1)
    generator = torch.Generator().manual_seed(2)
    ours = noisy_run(circuit, x, angles, NOISE, 20000, readout=WORDS, generator=generator)
    clean = run(circuit, x, angles, readout=WORDS)
    device = open_device("aer", noise=NOISE, loading="free", method=method)
    theirs = DeviceRunner(device, shots=shots, seed=3)(circuit, x, angles, readout=WORDS)
    torch.testing.assert_close(theirs, ours, atol=0.035, rtol=0)
    assert (ours - clean).abs().max() > 0.1


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


# ----------------------------------------------------------------------------------------------- opening and refusals


def test_devices_open_by_name_and_as_they_are():
    assert open_device("pennylane:default.mixed").name == "pennylane:default.mixed"
    assert not open_device("pennylane:default.mixed").is_hardware
    assert open_device(qml.device("default.qubit", wires=["a", "b"])).name == "pennylane:default.qubit"
    backend = GenericBackendV2(3, seed=0)
    assert open_device(backend).backend is backend
    assert open_device("generic:4", noise_info=False).backend.num_qubits == 4
    device = open_device("aer")
    assert open_device(device) is device


def test_wires_of_a_pennylane_device_keep_their_names():
    device = qml.device("default.qubit", wires=["b", "a", "c"])
    found = DeviceRunner(device)(Circuit(2, (Gate("X", (0,)),)), None, torch.zeros(0))
    assert found.tolist() == pytest.approx([-1, 1])


@pytest.mark.parametrize(
    ("device", "options", "words"),
    [
        ("qiskit", {}, "'qiskit': unknown; choose one of statevector, aer"),
        ("aer:3", {}, "takes nothing behind a colon"),
        ("generic:x", {}, "'generic:5'"),
        ("ibm", {}, "'ibm:least_busy'"),
        ("pennylane:", {}, "name what to open"),
        ("pennylane:no.such", {}, "is its plugin installed"),
        ("aer", {"noise": 0.1}, "noise=float"),
        ("aer", {"loading": "magic"}, "'gates', 'free'"),
        ("aer", {"method": "magic"}, "'density_matrix'"),
        ("aer", {"noises": 0.1}, "cannot take noises"),
        ("statevector", {"noise": NoiseModel()}, "cannot take noise"),
        (3, {}, "device int"),
    ],
)
def test_what_cannot_be_opened_is_named(device, options, words):
    with pytest.raises(DeviceError, match=words):
        open_device(device, **options)


def test_what_a_device_cannot_do_is_refused():
    circuit, angles = ry_ring(2), torch.zeros(2)
    with pytest.raises(DeviceError, match="pass shots="):
        DeviceRunner("generic:3")
    with pytest.raises(DeviceError, match="shots=0"):
        DeviceRunner("aer", shots=0)
    with pytest.raises(DeviceError, match="optimization_level=4"):
        DeviceRunner("aer", optimization_level=4)
    with pytest.raises(DeviceError, match="'amplitudes' cannot be measured"):
        DeviceRunner("aer")(circuit, None, angles, readout="amplitudes")
    with pytest.raises(DeviceError, match="has 2 qubits; the circuit needs 3"):
        DeviceRunner("generic:2", shots=1)(ry_ring(3), None, torch.zeros(3))
    with pytest.raises(DeviceError, match="has 1 wires; the circuit needs 2"):
        DeviceRunner(qml.device("default.qubit", wires=1))(circuit, None, angles)
    noisy = DeviceRunner(open_device("aer", noise=NOISE))
    with pytest.raises(DeviceError, match=r"4 \*\* 14 numbers"):
        noisy(ry_ring(14), None, torch.zeros(14))
    with pytest.raises(DeviceError, match="exact noise needs method='density_matrix'"):
        DeviceRunner(open_device("aer", noise=NOISE, method="statevector"))(circuit, None, angles)
    with pytest.raises(ValueError, match="takes 1 to 4"):
        DeviceRunner("aer")(circuit, torch.ones(5), angles)
    with pytest.raises(ValueError, match="angles have shape"):
        DeviceRunner("aer")(circuit, None, torch.zeros(3))


@pytest.mark.parametrize(
    ("device", "package"),
    [
        ("statevector", "qiskit"),
        ("aer", "qiskit_aer"),
        ("pennylane:default.qubit", "pennylane"),
        ("ibm:least_busy", "qiskit_ibm_runtime"),
        ("fake_manila", "qiskit_ibm_runtime"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch, device, package):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "qiskit_ibm_runtime":
        monkeypatch.setitem(sys.modules, "qiskit_ibm_runtime.fake_provider", None)
    title = package.replace("_", "-")
    with pytest.raises(ImportError, match=rf'{title} is not installed; run: pip install "ketune\[devices\]"'):
        open_device(device)


def test_fake_machines_run_with_their_noise():
    pytest.importorskip("qiskit_ibm_runtime")
    with pytest.raises(DeviceError, match="fake_manila"):
        open_device("fake_nowhere")
    circuit = Circuit(2, (Gate("X", (0,)), Gate("CNOT", (0, 1)), Gate("CNOT", (1, 0))))
    found = DeviceRunner("fake_manila", shots=4000, seed=0)(circuit, None, torch.zeros(0))
    assert 0.5 < found[0] < 1
    assert -1 < found[1] < -0.5


def test_the_sampler_of_ibm_runs_a_fake_machine_in_its_local_mode():
    pytest.importorskip("qiskit_ibm_runtime")
    from qiskit_ibm_runtime.fake_provider import FakeManilaV2

    circuit = Circuit(2, (Gate("X", (0,)), Gate("RX", (1,), 0)))
    runner = DeviceRunner(_on_ibm(FakeManilaV2(), {}), shots=4000, mitigate_readout=True)
    angles = torch.tensor([[0.0], [torch.pi]])
    torch.testing.assert_close(
        runner(circuit, None, angles), torch.tensor([[-1.0, 1.0], [-1.0, -1.0]]), atol=0.1, rtol=0
    )


def test_a_machine_without_an_account_is_refused_and_the_token_stays_unsaid(monkeypatch):
    pytest.importorskip("qiskit_ibm_runtime")
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "a-secret")
    monkeypatch.setenv("QISKIT_IBM_CHANNEL", "no-such-channel")
    with pytest.raises(DeviceError, match="QISKIT_IBM_TOKEN") as caught:
        open_device("ibm:least_busy")
    assert "a-secret" not in str(caught.value)


def test_importing_circuits_imports_no_optional_library():
    code = "import sys, ketune.circuits; print({'qiskit', 'pennylane', 'qiskit_aer'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert answer.stdout.strip() == "set()"
