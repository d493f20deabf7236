"""QNodes as layers: the same numbers and gradients as PennyLane's TorchLayer."""

import math

import pytest
import torch

from ketune.circuits import layer_from_qnode

qml = pytest.importorskip("pennylane")

N = 4
WIRES = range(N)


def make(function, wires=N):
    return qml.qnode(qml.device("default.qubit", wires=wires))(function)


def each_z():
    return [qml.expval(qml.Z(wire)) for wire in WIRES]


def angle_embedding_y(inputs, weights):
    qml.AngleEmbedding(inputs, wires=WIRES, rotation="Y")
    qml.BasicEntanglerLayers(weights, wires=WIRES)
    return each_z()


def scaled_embedding_x(inputs, weights):
    qml.AngleEmbedding(math.pi * inputs + 0.1, wires=[3, 0, 1])
    qml.StronglyEntanglingLayers(weights.reshape(-1, N, 3), wires=WIRES)
    hermitian = qml.Hermitian([[1.0, 2.0], [2.0, 0.0]], wires=1)
    sums = [qml.Z(0) @ qml.X(2), 0.5 * qml.Y(1) + qml.Z(3) @ qml.Z(0) + 0.25 * qml.I(0), hermitian]
    return [qml.expval(sums[0]), qml.probs(wires=[2, 0]), *map(qml.expval, sums[1:])]


def amplitudes(inputs, weights):
    qml.AmplitudeEmbedding(inputs, wires=WIRES, pad_with=0.0, normalize=True)
    qml.StronglyEntanglingLayers(weights, wires=WIRES)
    return qml.probs(wires=WIRES)


def amplitudes_and_angles(inputs, weights):
    qml.AmplitudeEmbedding(inputs, wires=WIRES, normalize=True)
    for wire in WIRES:
        qml.RX(weights[wire] - 2 * inputs[..., wire], wires=wire)
        qml.CZ(wires=[wire, (wire + 1) % N])
    return each_z()


def re_uploading(inputs, first, second):
    for layer in range(2):
        for wire in WIRES:
            qml.RX(inputs[..., wire], wires=wire)
            qml.Rot(*first[layer, wire], wires=wire)
        for wire in range(N - 1):
            qml.CZ(wires=[wire, wire + 1])
    qml.RY(second, wires=0)
    return qml.expval(qml.Z(0))


def only_batches(inputs, weights):
    for wire in WIRES:
        qml.RZ(inputs[:, wire], wires=wire)
        qml.RY(weights[wire], wires=wire)
    return [qml.expval(qml.X(wire)) for wire in WIRES]


def iqp(inputs, weights):
    qml.IQPEmbedding(inputs, wires=WIRES, n_repeats=2)
    qml.BasicEntanglerLayers(weights, wires=WIRES, rotation=qml.RY)
    return [qml.expval(qml.X(0))]


CASES = [
    (angle_embedding_y, {"weights": (3, N)}, N, "angle"),
    (scaled_embedding_x, {"weights": 2 * N * 3}, 3, "angle"),
    (amplitudes, {"weights": (2, N, 3)}, 11, "amplitude"),
    (amplitudes_and_angles, {"weights": N}, 2**N, "amplitude"),
    (re_uploading, {"first": (2, N, 3), "second": 1}, N, "angle"),
    (only_batches, {"weights": N}, N, None),
    (iqp, {"weights": (3, N)}, N, "iqp"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_values_and_gradients_are_those_of_the_torchlayer(case):
    function, shapes, n_features, encoding = case
    qnode = make(function)
    torch.manual_seed(0)
    theirs = qml.qnn.TorchLayer(qnode, shapes).double()
    ours = layer_from_qnode(theirs)
    assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()
    x = torch.randn(3, 2, n_features, dtype=torch.float64, requires_grad=True)
    wanted, out = theirs(x), ours(x)
    torch.testing.assert_close(out, wanted, atol=1e-12, rtol=0)
    cotangent = torch.randn_like(out)
    inputs = (x, *theirs.parameters())
    for mine, its in zip(torch.autograd.grad(out, inputs, cotangent), torch.autograd.grad(wanted, inputs, cotangent)):
        torch.testing.assert_close(mine, its, atol=1e-10, rtol=0)
    embedding = ours._program(n_features).embedding
    assert (embedding and embedding.encoding) == encoding


def test_the_same_seed_and_state_dict_give_the_same_layer():
    shapes = {"weights": (3, N)}
    qnode = make(angle_embedding_y)
    torch.manual_seed(3)
    theirs = qml.qnn.TorchLayer(qnode, shapes)
    torch.manual_seed(3)
    ours = layer_from_qnode(qnode, shapes)
    assert torch.equal(ours.weights, theirs.weights)
    other = layer_from_qnode(qnode, shapes, init_method=torch.nn.init.zeros_)
    assert not other.weights.any()
    other.load_state_dict(theirs.state_dict())
    x = torch.randn(5, N)
    torch.testing.assert_close(other(x), theirs(x), atol=1e-5, rtol=0)
    assert other(x).dtype == torch.float32
    assert other.imported(N).names[:2] == ("weights[0,0]", "weights[0,1]")
    assert "angle_embedding_y" in repr(other)


def test_a_layer_made_of_a_torchlayer_shares_its_parameters():
    theirs = qml.qnn.TorchLayer(make(angle_embedding_y), {"weights": (1, N)})
    ours = layer_from_qnode(theirs)
    assert ours.weights is theirs.weights


def quadratic(inputs, weights):
    qml.RX(inputs[0] ** 2 + weights[0], wires=0)
    return qml.expval(qml.Z(0))


def padded_with_ones(inputs, weights):
    qml.AmplitudeEmbedding(inputs, wires=WIRES, pad_with=1.0)
    qml.RX(weights[0], wires=0)
    return qml.expval(qml.Z(0))


def part_of_the_wires(inputs, weights):
    qml.AmplitudeEmbedding(inputs, wires=[1, 0], normalize=True)
    qml.RX(weights[0], wires=0)
    return qml.expval(qml.Z(0))


def late_embedding(inputs, weights):
    qml.RX(weights[0], wires=0)
    qml.AmplitudeEmbedding(inputs, wires=WIRES, pad_with=0.0)
    return qml.expval(qml.Z(0))


def variance(inputs, weights):
    qml.RX(inputs[0] + weights[0], wires=0)
    return qml.var(qml.Z(0))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (quadratic, "angle of RX .* not linear in inputs"),
        (padded_with_ones, "padded with zeros"),
        (part_of_the_wires, "all wires in order"),
        (late_embedding, "prepares a state"),
        (variance, "returns var.*expectations and probabilities"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(function, message):
    with pytest.raises(ValueError, match=message):
        layer_from_qnode(make(function), {"weights": 2})(torch.randn(3, 4))


def test_shots_and_missing_shapes_are_refused():
    qnode = qml.set_shots(make(angle_embedding_y), shots=100)
    with pytest.raises(ValueError, match="finite number of shots"):
        layer_from_qnode(qnode, {"weights": (1, N)})(torch.randn(3, N))
    with pytest.raises(ValueError, match="weight_shapes=None"):
        layer_from_qnode(qnode)
    with pytest.raises(ValueError, match="pass it alone"):
        layer_from_qnode(qml.qnn.TorchLayer(make(iqp), {"weights": (1, N)}), {"weights": (1, N)})
