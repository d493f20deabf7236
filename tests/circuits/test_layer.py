import copy
import math
import pickle

import pennylane as qml
import pytest
import torch
from torch import nn

from ketune.circuits import (
    Circuit,
    Gate,
    Hamiltonian,
    QuantumLayer,
    run,
    rxryrz_ring,
    ry_ring,
    ryrz_ring_ry,
    strongly_entangling,
    to_pennylane,
)

PRECISE = {"atol": 1e-12, "rtol": 0}


def reuploading_layer(readout="pauli_z"):
    """Two features, each uploaded in three layers; the first also as two angles of one layer."""
    circuit = rxryrz_ring(2, 3)  # angles 0 to 17, six in each layer
    return QuantumLayer(
        circuit, "reuploading", readout, feature_angles=[[0, 6, 12, 2], (3, 9, 15)], dtype=torch.float64
    )


def test_a_layer_runs_its_circuit_with_its_angles():
    layer = QuantumLayer(ryrz_ring_ry(3), readout=["XII", "ZZI"], n_features=6)
    x = torch.randn(4, 6)
    torch.testing.assert_close(layer(x), run(layer.circuit, x, layer.angles, readout=["XII", "ZZI"]))
    assert layer.n_outputs == 2


def test_the_default_feature_count_fills_the_wires():
    assert QuantumLayer(ry_ring(5)).n_features == 32
    assert QuantumLayer(ry_ring(5), encoding="angle").n_features == 5


def test_the_first_amplitudes_are_a_linear_map():
    layer = QuantumLayer(rxryrz_ring(3), readout="amplitudes", n_readouts=2, n_features=5)
    x = torch.randn(7, 5)
    matrix = layer(torch.eye(5))
    assert matrix.shape == (5, 2)
    torch.testing.assert_close(layer(x), x @ matrix)


def test_a_generator_decides_the_angles():
    first, second = (QuantumLayer(ry_ring(6, 50), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.angles, second.angles)
    assert first.angles.abs().max() <= math.pi
    # Uniform on [-pi, pi): variance pi^2 / 3.
    assert first.angles.var().item() == pytest.approx(math.pi**2 / 3, rel=0.15)


def test_a_layer_learns_the_angles_that_made_its_targets():
    generator = torch.Generator().manual_seed(0)
    target = QuantumLayer(ryrz_ring_ry(3), generator=generator)
    layer = QuantumLayer(ryrz_ring_ry(3), generator=generator)
    x = torch.randn(64, 8, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(150):
        loss = (layer(x) - target(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


def test_reuploading_gives_the_values_and_gradients_of_pennylane():
    layer = reuploading_layer(["XY", "ZI"])
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    trained = layer.angles.detach().clone().requires_grad_()

    @qml.qnode(qml.device("default.qubit", wires=2), interface="torch", diff_method="backprop")
    def theirs(x, weights):
        queue = iter(weights)
        for step in range(3):
            for wire in range(2):
                qml.RX(x[..., wire], wires=wire)
                qml.RY(next(queue), wires=wire)
                qml.RZ(x[..., 0] if (step, wire) == (0, 0) else next(queue), wires=wire)
            qml.CNOT([0, 1])
        return qml.expval(qml.X(0) @ qml.Y(1)), qml.expval(qml.Z(0))

    ours, expected = layer(x), torch.stack(theirs(x, trained), -1)
    torch.testing.assert_close(ours, expected, **PRECISE)
    for mine, other in zip(
        torch.autograd.grad(ours.sin().sum(), (x, layer.angles)),
        torch.autograd.grad(expected.sin().sum(), (x, trained)),
    ):
        torch.testing.assert_close(mine, other, **PRECISE)


def test_reuploading_takes_any_leading_dimensions_and_puts_features_where_they_belong():
    layer = reuploading_layer()
    assert (layer.n_features, layer.angles.shape) == (2, (11,))
    for lead in ((), (4,), (2, 3), (0,)):
        x = torch.randn(*lead, 2, dtype=torch.float64)
        assert layer(x).shape == (*lead, 2)
    every = layer.all_angles(torch.tensor([10.0, 20.0]))
    assert (every[[0, 2, 6, 12]] == 10).all()
    assert (every[[3, 9, 15]] == 20).all()
    torch.testing.assert_close(every[[1, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17]], layer.angles.detach())


def test_a_reuploading_qubit_with_trained_scales_learns_a_series_that_one_upload_cannot():
    # n uploads give frequencies up to n (Schuld, Sweke, Meyer, Phys. Rev. A 103, 032430, 2021).
    torch.manual_seed(0)
    names = ("RY", "RZ", "RX", "RY", "RZ", "RX", "RY")
    circuit = Circuit(1, tuple(Gate(name, (0,), k) for k, name in enumerate(names)))
    x = torch.linspace(-math.pi, math.pi, 40)[:, None]
    target = 0.5 * torch.cos(2 * x)

    def best(feature_angles):
        scale = nn.Linear(1, len(feature_angles), bias=False)
        nn.init.ones_(scale.weight)
        model = nn.Sequential(scale, QuantumLayer(circuit, "reuploading", feature_angles=feature_angles))
        optimizer = torch.optim.Adam(model[1].parameters(), lr=0.1)
        for _ in range(100):
            loss = (model(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert best([2, 5]) < 0.01
    assert best([2]) > 0.1


def test_a_layer_takes_the_place_of_a_pennylane_torch_layer():
    n_wires, n_layers = 3, 2
    circuit = strongly_entangling(n_wires, n_layers)

    @qml.qnode(qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    def node(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(n_wires), rotation="Y")
        qml.StronglyEntanglingLayers(weights, wires=range(n_wires))
        return [qml.expval(qml.Z(wire)) for wire in range(n_wires)]

    theirs = qml.qnn.TorchLayer(node, {"weights": (n_layers, n_wires, 3)}).double()
    ours = QuantumLayer(circuit, "angle", dtype=torch.float64)
    with torch.no_grad():
        ours.angles.copy_(theirs.weights.flatten())
    for lead in ((), (5,), (2, 3)):
        x = torch.randn(*lead, n_wires, dtype=torch.float64, requires_grad=True)
        mine, other = ours(x), theirs(x)
        torch.testing.assert_close(mine, other, **PRECISE)
        (slope,), (expected,) = (torch.autograd.grad(out.sin().sum(), x) for out in (mine, other))
        torch.testing.assert_close(slope, expected, **PRECISE)


@pytest.mark.parametrize("readout", [Hamiltonian((0.5, 2.0), ("XYI", "ZZI")), [Hamiltonian((1.0,), ("ZII",))] * 2])
def test_hamiltonians_read_out_as_their_energies(readout):
    layer = QuantumLayer(ryrz_ring_ry(3), "iqp", readout, n_repeats=2, dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    several = [readout] if isinstance(readout, Hamiltonian) else readout

    @qml.qnode(qml.device("default.qubit", wires=3), interface="torch")
    def theirs(x, hamiltonian):
        qml.IQPEmbedding(x, wires=range(3), n_repeats=2)
        to_pennylane(layer.circuit)(layer.angles.detach())
        return qml.expval(hamiltonian)

    def operator(hamiltonian):
        return qml.dot(hamiltonian.coefficients, [qml.pauli.string_to_pauli_word(w) for w in hamiltonian.words])

    expected = torch.stack([theirs(x, operator(hamiltonian)) for hamiltonian in several], -1)
    assert layer.n_outputs == len(several)
    torch.testing.assert_close(layer(x).detach(), expected, **PRECISE)
    assert f"<{len(several)} of" in repr(layer)


LAYERS = {
    "amplitude": lambda: QuantumLayer(ry_ring(3), readout="amplitudes", n_readouts=2),
    "angle": lambda: QuantumLayer(ryrz_ring_ry(3), "angle", readout=Hamiltonian((0.5, 2.0), ("XYI", "ZZI"))),
    "iqp": lambda: QuantumLayer(ryrz_ring_ry(3), "iqp", n_repeats=2),
    "reuploading": lambda: QuantumLayer(rxryrz_ring(3), "reuploading", feature_angles=[0, [1, 2], 5]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_copies_pickles_and_saved_states_keep_the_function(name):
    layer = LAYERS[name]()
    x = torch.randn(2, layer.n_features)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
    other = LAYERS[name]()
    assert list(layer.state_dict()) == ["angles"]
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_changes_type_and_stands_between_others(name):
    layer = LAYERS[name]()
    model = nn.Sequential(nn.Linear(5, layer.n_features), layer, nn.Linear(layer.n_outputs, 1))
    x = torch.randn(2, 3, 5)
    single = model(x)
    assert single.shape == (2, 3, 1)
    double = model.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, atol=1e-5, rtol=0)
    double.sum().backward()
    assert layer.angles.grad.dtype == torch.float64
    model.zero_grad()
    assert layer.bfloat16()(torch.randn(2, layer.n_features, dtype=torch.bfloat16)).dtype == torch.float32
    assert model.to("meta")[1].angles.device.type == "meta"


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_compiles_to_one_graph(name):
    torch._dynamo.reset()
    layer = LAYERS[name]()
    x = torch.randn(4, layer.n_features)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    (ours,) = torch.autograd.grad(compiled(x).sin().sum(), layer.angles)
    torch.testing.assert_close(ours, torch.autograd.grad(layer(x).sin().sum(), layer.angles)[0])


def test_meta_learning_differentiates_through_a_step_of_a_layer():
    layer = reuploading_layer()
    x = torch.randn(6, 2, dtype=torch.float64)

    def after_step(angles):
        (slope,) = torch.autograd.grad(loss(angles), angles, create_graph=True)
        return loss(angles - 0.2 * slope)

    def loss(angles):
        return torch.func.functional_call(layer, {"angles": angles}, (x,)).square().mean()

    assert torch.autograd.gradcheck(after_step, layer.angles.detach().requires_grad_())


def test_features_that_are_angles_must_be_angles_and_only_once():
    circuit = ry_ring(3)
    for arguments, message in (
        ({"feature_angles": [0, 3]}, r"feature_angles\[1\] names angle 3; the circuit has 0 to 2"),
        ({"feature_angles": [0, [1, 0]]}, r"feature_angles\[1\] names angle 0, which feature 0 has"),
        ({"feature_angles": [0, []]}, r"feature_angles\[1\] is empty"),
        ({"feature_angles": []}, r"at least one feature"),
        ({}, r"pass feature_angles"),
        ({"feature_angles": [0], "n_features": 2}, r"n_features=2: feature_angles has 1 entries"),
    ):
        with pytest.raises(ValueError, match=message):
            QuantumLayer(circuit, "reuploading", **arguments)
    with pytest.raises(ValueError, match=r"encoding='angle' with feature_angles=\[0\]"):
        QuantumLayer(circuit, "angle", feature_angles=[0])
    with pytest.raises(ValueError, match=r"encoding='qft'.*'iqp', 'reuploading'"):
        QuantumLayer(circuit, "qft")


def test_printing_tells_the_circuit():
    assert "n_wires=3, n_gates=6, n_angles=3, encoding='amplitude'" in repr(QuantumLayer(ry_ring(3)))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="9 features"):
        QuantumLayer(ry_ring(3), n_features=9)
    with pytest.raises(ValueError, match="'pauli_y'"):
        QuantumLayer(ry_ring(3), readout="pauli_y")
    with pytest.raises(ValueError, match="x has 7 features; this layer takes 8"):
        QuantumLayer(ry_ring(3))(torch.randn(2, 7))
