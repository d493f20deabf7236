"""Mitigation takes out of the results what readout errors put in."""

import pytest
import torch
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer.noise import NoiseModel as AerNoiseModel
from qiskit_aer.noise import ReadoutError

from ketune.circuits import (
    Circuit,
    DeviceError,
    DeviceLayer,
    DeviceRunner,
    Gate,
    NoiseModel,
    QuantumLayer,
    open_device,
    run,
    ryrz_ring_ry,
)

WORDS = ["ZZZ", "XIY", "IZI"]


def lopsided(n_qubits=3):
    """Other errors for 0 and for 1, and on every qubit."""
    noise = AerNoiseModel()
    for qubit in range(n_qubits):
        zero, one = 0.02 * (qubit + 1), 0.08 * (qubit + 1)
        noise.add_readout_error(ReadoutError([[1 - zero, zero], [one, 1 - one]]), [qubit])
    return noise


@pytest.mark.parametrize("noise", [NoiseModel(readout_error=0.1), lopsided()], ids=["equal", "lopsided"])
@pytest.mark.parametrize("readout", ["pauli_z", "probabilities", WORDS], ids=str)
def test_exact_results_come_back_to_the_clean_ones(noise, readout):
    layer = QuantumLayer(ryrz_ring_ry(3), readout=readout, generator=torch.Generator().manual_seed(0))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    device = open_device("aer", noise=noise)
    plain, mitigated = (DeviceLayer(layer, device, mitigate_readout=on)(x) for on in (False, True))
    assert (plain - layer(x)).abs().max() > 0.02
    torch.testing.assert_close(mitigated, layer(x), atol=1e-5, rtol=0)


def test_with_shots_the_bias_goes():
    circuit = ryrz_ring_ry(3)
    angles = torch.randn(circuit.n_angles, generator=torch.Generator().manual_seed(0)).double()
    exact = run(circuit, None, angles, readout=WORDS)
    rows = angles.expand(50, -1)
    device = open_device("aer", noise=lopsided())
    plain, mitigated = (
        DeviceRunner(device, shots=2000, mitigate_readout=on, seed=1)(circuit, None, rows, readout=WORDS).mean(0)
        for on in (False, True)
    )
    assert (plain - exact).abs().max() > 0.1
    assert (mitigated - exact).abs().max() < 0.03


def test_each_qubit_of_a_machine_is_calibrated_where_its_wire_is_read():
    # On a line, a gate between its ends moves wires, so that wires and qubits do not go by the same numbers.
    backend = GenericBackendV2(4, coupling_map=[[0, 1], [1, 2], [2, 3]], seed=0)
    for qubit in range(4):
        backend.target["measure"][(qubit,)].error = 0.05 + 0.05 * qubit
    circuit = Circuit(4, (Gate("X", (0,)), Gate("CNOT", (0, 3)), Gate("CNOT", (3, 1)), Gate("CNOT", (0, 3))))
    exact = run(circuit, None, torch.zeros(0))
    plain, mitigated = (
        DeviceRunner(backend, shots=8000, mitigate_readout=on, seed=0)(circuit, None, torch.zeros(0))
        for on in (False, True)
    )
    assert (plain - exact).abs().max() > 0.2
    assert (mitigated - exact).abs().max() < 0.1


def test_qubits_are_calibrated_once():
    device = open_device("aer", noise=lopsided())
    calls = []
    original = device.calibrate_readout

    def counted(qubits, options):
        calls.append((tuple(qubits), options.shots))
        return original(qubits, options)

    device.calibrate_readout = counted
    runner = DeviceRunner(device, shots=100, mitigate_readout=True, seed=0)
    for _ in range(2):
        runner(ryrz_ring_ry(3), None, torch.zeros(9), readout=WORDS)
    assert calls == [((0, 1, 2), 1000)]
    matrix = runner.calibration.matrices[0]
    assert matrix.sum(0).tolist() == pytest.approx([1, 1])


def test_a_qubit_that_reads_noise_is_refused():
    device = open_device("aer", noise=NoiseModel(readout_error=0.5))
    runner = DeviceRunner(device, mitigate_readout=True)
    with pytest.raises(DeviceError, match="qubit 0 reads 1 as often"):
        runner(Circuit(1, ()), None, torch.zeros(0))
