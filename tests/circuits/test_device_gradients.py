"""Parameter-shift rules and the gradients that autograd gets from a device, against our exact ones."""

import math

import pytest
import torch

from ketune.circuits import (
    Circuit,
    DeviceError,
    DeviceLayer,
    DeviceRunner,
    Gate,
    NoiseModel,
    PauliChannel,
    QuantumLayer,
    open_device,
    run,
    ryrz_ring_ry,
    with_uploads,
)
from ketune.circuits._gates import GATES
from ketune.circuits._shift_rules import shift_rule

TURNING = [name for name, spec in GATES.items() if spec.has_angle]
FOUR_TERMS = {"CRX", "CRY", "CRZ", "ISINGXY"}


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scrambled(*gates):
    """Gates between others, so that every derivative shows in the readouts."""
    before = (*(Gate("U", (w,), matrix=((0.6, 0.8j), (0.8j, 0.6))) for w in range(2)), Gate("T", (0,)), Gate("H", (0,)))
    return Circuit(2, (*before, Gate("CNOT", (0, 1)), *gates, Gate("SX", (0,)), Gate("H", (1,)), Gate("CZ", (0, 1))))


def test_rules_have_the_published_numbers_of_terms_and_factors():
    assert {name for name in TURNING if len(shift_rule(name)) == 4} == FOUR_TERMS
    assert {name for name in TURNING if not shift_rule(name)} == {"GPHASE"}
    for name in set(TURNING) - FOUR_TERMS - {"GPHASE"}:
        assert shift_rule(name) == ((0.5, math.pi / 2), (-0.5, -math.pi / 2))
    near, far = (math.sqrt(2) + 1) / (4 * math.sqrt(2)), -(math.sqrt(2) - 1) / (4 * math.sqrt(2))
    for name in FOUR_TERMS:
        factors, shifts = zip(*shift_rule(name))
        assert factors == pytest.approx((near, -near, far, -far))
        assert shifts == pytest.approx([s * math.pi / 2 for s in (1, -1, 3, -3)])


@pytest.mark.parametrize("name", TURNING)
def test_the_gradient_of_every_gate_is_exact(name):
    circuit = scrambled(Gate(name, (1, 0)[: GATES[name].n_wires], 0))
    readout = ["XY", "ZI", "IZ", "YY"]
    weights, angles = doubles(4), doubles(1, seed=1).requires_grad_()
    (ours,) = torch.autograd.grad(run(circuit, None, angles, readout=readout) @ weights, angles)
    (theirs,) = torch.autograd.grad(
        DeviceRunner("statevector")(circuit, None, angles, readout=readout) @ weights, angles
    )
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)
    assert (name == "GPHASE") == (ours.abs().item() < 1e-9)


@pytest.mark.parametrize("device", ["statevector", "aer", "pennylane:default.qubit"])
def test_gates_that_share_an_angle_add_their_gradients(device):
    circuit = scrambled(Gate("RX", (0,), 0), Gate("CRY", (0, 1), 0), Gate("RZ", (1,), 1), Gate("ISINGXY", (0, 1), 0))
    x, weights = doubles(3, 4), doubles(3, 4, seed=1)
    angles = doubles(2, seed=2).requires_grad_()
    (ours,) = torch.autograd.grad((run(circuit, x, angles, readout="probabilities") * weights).sum(), angles)
    found = DeviceRunner(device)(circuit, x, angles, readout="probabilities")
    (theirs,) = torch.autograd.grad((found * weights).sum(), angles)
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize("encoding", ["angle", "iqp", "reuploading"])
def test_features_that_are_angles_have_gradients(encoding):
    circuit, options = ryrz_ring_ry(2), {}
    if encoding == "reuploading":
        circuit, options["feature_angles"] = with_uploads([circuit] * 2)
    layer = QuantumLayer(circuit, encoding, generator=torch.Generator().manual_seed(0), **options).double()
    on_device = DeviceLayer(layer, "statevector")
    x = doubles(2, 3, layer.n_features).requires_grad_()
    for wanted in ((x, layer.angles), (x,), (layer.angles,)):
        ours = torch.autograd.grad(layer(x).square().sum(), wanted)
        theirs = torch.autograd.grad(on_device(x).square().sum(), wanted)
        for a, b in zip(theirs, ours):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_noisy_circuit_has_the_gradient_of_the_noisy_circuit():
    noise = NoiseModel(two_wire=(PauliChannel.depolarising(0.1),), readout_error=0.02)
    on_device = DeviceRunner(open_device("aer", noise=noise))
    circuit = ryrz_ring_ry(2)
    angles, step = doubles(circuit.n_angles), 1e-5

    def energy(values):
        return on_device(circuit, None, values, readout=["ZX"]).sum()

    angles.requires_grad_()
    (found,) = torch.autograd.grad(energy(angles), angles)
    with torch.no_grad():
        steps = step * torch.eye(len(angles), dtype=torch.float64)
        differences = torch.stack([(energy(angles + s) - energy(angles - s)) / (2 * step) for s in steps])
    torch.testing.assert_close(found, differences, atol=1e-6, rtol=0)
    assert found.abs().max() > 0.1


def test_gradients_from_shots_are_unbiased():
    circuit = ryrz_ring_ry(2)
    angles, n_shots = doubles(circuit.n_angles).requires_grad_(), 2000
    rows = angles.expand(20, -1)
    (found,) = torch.autograd.grad(DeviceRunner("aer", shots=n_shots, seed=0)(circuit, None, rows).sum() / 20, angles)
    (exact,) = torch.autograd.grad(run(circuit, None, angles).sum(), angles)
    # Each is a sum of two readouts of two shifted circuits, factor 1/2, mean of 20.
    assert (found - exact).abs().max() < 4 * (2 / (2 * n_shots * 20)) ** 0.5 * 2
    assert (found - exact).abs().max() > 0


def test_all_shifted_circuits_go_as_one_job():
    device = open_device("statevector")
    sizes = []
    original = device._run

    def counted(programs, options):
        sizes.append([program.n_rows for program in programs])
        return original(programs, options)

    device._run = counted
    layer = QuantumLayer(Circuit(2, (Gate("RX", (0,), 0), Gate("CRX", (0, 1), 1))), readout=["ZZ", "XI"])
    DeviceLayer(layer, device)(torch.randn(3, 4)).sum().backward()
    assert sizes == [[3, 3], [3 * (2 + 4)] * 2]


def test_gradients_of_amplitude_encoded_features_are_refused():
    layer = QuantumLayer(ryrz_ring_ry(2))
    x = torch.randn(2, 4, requires_grad=True)
    with pytest.raises(DeviceError, match=r"pass x\.detach\(\) to train the angles only"):
        DeviceLayer(layer, "statevector")(x)
    DeviceLayer(layer, "statevector")(x.detach()).sum().backward()
    assert layer.angles.grad is not None
    with torch.no_grad():
        DeviceLayer(layer, "statevector")(x)
    assert not DeviceLayer(layer, "statevector", gradient=None)(x).requires_grad


def test_an_unknown_gradient_is_refused():
    with pytest.raises(DeviceError, match="choose 'parameter_shift' or None"):
        DeviceRunner("statevector", gradient="adjoint")


def test_training_on_a_device_lowers_an_energy():
    circuit = ryrz_ring_ry(2)
    angles = doubles(circuit.n_angles, seed=5).requires_grad_()
    on_device, optimizer = DeviceRunner("statevector"), torch.optim.Adam([angles], lr=0.2)
    energies = []
    for _ in range(25):
        optimizer.zero_grad()
        energy = on_device(circuit, None, angles, readout=["ZZ"]).sum()
        energy.backward()
        optimizer.step()
        energies.append(energy.item())
    assert energies[-1] < -0.9 < energies[0]
