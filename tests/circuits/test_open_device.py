"""Opening devices by name, and what is said about those that cannot be opened or cannot do something."""

import sys

import pennylane as qml
import pytest
import torch
from qiskit.providers.fake_provider import GenericBackendV2

from ketune.circuits import (
    Circuit,
    DeviceError,
    DeviceRunner,
    Gate,
    NoiseModel,
    PauliChannel,
    open_device,
    ry_ring,
)
from ketune.circuits.devices import _on_ibm

NOISE = NoiseModel(two_wire=(PauliChannel.depolarising(0.1),))


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
    title, extra = package.replace("_", "-"), "ibm" if "ibm" in package else "devices"
    with pytest.raises(ImportError, match=rf'{title} is not installed; run: pip install "ketune\[{extra}\]"'):
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
