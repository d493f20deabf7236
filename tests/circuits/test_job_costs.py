"""What a run will take, counted before, against what is then run."""

import pytest
import torch
from qiskit.providers.fake_provider import GenericBackendV2

from ketune.circuits import (
    Circuit,
    DeviceError,
    DeviceLayer,
    Gate,
    QuantumLayer,
    cost_estimate,
    open_device,
    ryrz_ring_ry,
    with_uploads,
)


@pytest.mark.parametrize("encoding", ["amplitude", "angle", "iqp", "reuploading"])
@pytest.mark.parametrize("readout", ["pauli_z", ["XI", "ZZ", "YI"]], ids=str)
def test_the_estimate_is_what_is_run(encoding, readout):
    circuit, options = ryrz_ring_ry(2), {}
    if encoding == "reuploading":
        circuit, options["feature_angles"] = with_uploads([circuit] * 2)
    layer = QuantumLayer(circuit, encoding, readout, **options)
    device = open_device("aer", max_circuits=7)
    run_circuits = []
    original = device._run

    def counted(programs, options):
        run_circuits.append(sum(program.n_rows for program in programs))
        return original(programs, options)

    device._run = counted
    features = encoding != "amplitude"
    expected = cost_estimate(
        layer, device, 5, 10, gradient="parameter_shift", feature_gradient=features, mitigate_readout=True
    )
    assert run_circuits == []
    x = torch.randn(5, layer.n_features, requires_grad=features)
    DeviceLayer(layer, device, shots=10, mitigate_readout=True)(x).sum().backward()
    assert expected.n_circuits == sum(run_circuits)
    assert expected.n_jobs == len(run_circuits)


def test_sizes_are_those_of_the_transpiled_circuit():
    # Three qubits on a line: a CNOT between the ends takes more than one.
    backend = GenericBackendV2(3, basis_gates=["cx", "rz", "sx", "x"], coupling_map=[[0, 1], [1, 2]], seed=0)
    circuit = Circuit(3, (Gate("CNOT", (0, 1)), Gate("CNOT", (1, 2)), Gate("CNOT", (0, 2)), Gate("RX", (0,), 0)))
    found = cost_estimate(circuit, backend, 1, 1000)
    assert found.n_two_wire_gates > 3
    transpiled = open_device(backend)
    del transpiled
    seconds = found.seconds / 1000
    assert 1e-7 < seconds < 1e-4
    assert cost_estimate(circuit, backend, 4, 500).seconds == pytest.approx(2000 * seconds)
    assert f"{found.seconds:.3g} s" in str(found)


def test_without_durations_there_is_a_reason_instead_of_seconds():
    found = cost_estimate(QuantumLayer(ryrz_ring_ry(2)), "pennylane:default.qubit", 3)
    assert found.seconds is None
    assert found.n_shots == 0
    assert "PennyLane" in found.reason
    assert "exact values" in str(found)
    assert found.to_dict()["n_circuits"] == 3


def test_state_preparation_is_counted():
    layer = QuantumLayer(ryrz_ring_ry(4))
    found, bare = (cost_estimate(each, "aer", 1) for each in (layer, layer.circuit))
    assert bare.n_two_wire_gates == layer.circuit.n_two_wire_gates
    # A state of n qubits needs about 2 ** n - n - 1 CNOTs.
    assert 8 <= found.n_two_wire_gates - bare.n_two_wire_gates <= 16


def test_several_circuits_add_up():
    circuit = ryrz_ring_ry(2)
    assert cost_estimate([circuit, circuit], "aer", 3, 10).n_shots == 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], "aer", 1), r"cost_estimate\(\[\]\)"),
        ((Circuit(1, ()), "aer", 0), "n_samples=0"),
        ((["circuit"], "aer", 1), "cost_estimate of str"),
        ((Circuit(1, ()), "generic:2", 1), "pass shots="),
    ],
)
def test_what_cannot_be_counted_is_refused(arguments, words):
    with pytest.raises(DeviceError, match=words):
        cost_estimate(*arguments)


def test_gradients_of_amplitudes_are_refused():
    with pytest.raises(DeviceError, match="leave feature_gradient out"):
        cost_estimate(QuantumLayer(ryrz_ring_ry(2)), "aer", 1, gradient="parameter_shift", feature_gradient=True)
