"""QAA against its definition, and the fields that its ambiguities became."""

import math

import pennylane as qml
import pytest
import torch
from peft import get_peft_model
from tests.adapters.models import TwoLayers
from torch import nn

from ketune import QAAConfig
from ketune.adapters import ConfigError
from ketune.adapters.circuit_features import CircuitFeatures, n_wires_for, unit_factor, z_words


def updates_of(config, in_features=10, out_features=6):
    update = config.make_update(in_features, out_features)
    with torch.no_grad():
        for parameter in update.parameters():
            if not parameter.any():
                parameter.normal_()
    return update


def pennylane_values(x, angles, layers=1):
    """<Z> of each wire for RY, RZ, ring of CNOTs, RY; padded on the right and normalised by PennyLane."""
    n = n_wires_for(len(x))

    @qml.qnode(qml.device("default.qubit", wires=n))
    def circuit():
        qml.AmplitudeEmbedding(x.numpy(), wires=range(n), pad_with=0.0, normalize=True)
        for layer in angles.reshape(layers, 3, n).numpy() if angles.numel() else []:
            for wire in range(n):
                qml.RY(layer[0, wire], wires=wire)
                qml.RZ(layer[1, wire], wires=wire)
            for wire in range(n):
                qml.CNOT(wires=[wire, (wire + 1) % n])
            for wire in range(n):
                qml.RY(layer[2, wire], wires=wire)
        return [qml.expval(qml.Z(wire)) for wire in range(n)]

    return torch.tensor([float(value) for value in circuit()])


def flat_angles(circuit, angles):
    """The angles as [rotation kind, wire] for the one-layer circuit, whatever order the circuit keeps them in."""
    order = [(kind, wire) for kind in range(3) for wire in range(circuit.n_wires)]
    table = torch.zeros(3, circuit.n_wires, dtype=torch.float64)
    seen = dict.fromkeys(range(circuit.n_wires), 0)
    for gate in circuit.gates:
        if gate.angle is not None:
            table[seen[gate.wires[0]], gate.wires[0]] = angles[gate.angle]
            seen[gate.wires[0]] += 1
    assert len(order) == circuit.n_angles
    return table


@pytest.mark.parametrize("in_features", [5, 8, 11])
def test_the_update_is_the_published_one(in_features):
    """scale * (W_up z + b_up) with z from PennyLane."""
    update = updates_of(QAAConfig(readout_scale="raw", up_bias=True, scale=0.5), in_features).double()
    x = torch.randn(3, in_features, dtype=torch.float64)
    circuit = update.features.circuit
    table = flat_angles(circuit, update.features.angles.detach())
    z = torch.stack([pennylane_values(row, table.flatten()) for row in x]).double()
    expected = 0.5 * (z @ update.up.T + update.up_bias)
    assert torch.allclose(update(x), expected, atol=1e-6)


def test_the_branch_sees_the_direction_of_x_only():
    update = updates_of(QAAConfig())
    x = torch.randn(4, 10)
    for factor in (3.0, -0.5, 100.0):
        assert torch.allclose(update(factor * x), update(x), atol=1e-4)


def test_norm_restore_brings_the_length_back_but_not_the_sign():
    update = updates_of(QAAConfig(norm_restore=True))
    x = torch.randn(4, 10)
    assert torch.allclose(update(3 * x), 3 * update(x), atol=1e-4)
    assert torch.allclose(update(-x), update(x), atol=1e-4)
    unit = QAAConfig()
    plain = unit.make_update(10, 6)
    plain.load_state_dict(update.state_dict())
    length = x.norm(dim=-1, keepdim=True) / math.sqrt(10)
    assert torch.allclose(update(x), plain(x) * length, atol=1e-5)


def test_the_amplitude_readout_is_linear_keeps_the_sign_and_has_the_rank_of_its_width():
    update = updates_of(QAAConfig(readout="amplitudes", n_readouts=3))
    x, y = torch.randn(4, 10), torch.randn(4, 10)
    assert torch.allclose(update(2 * x - y), 2 * update(x) - update(y), atol=1e-4)
    assert torch.allclose(update(x), x @ update.delta_weight().T, atol=1e-4)
    assert torch.linalg.matrix_rank(update.delta_weight()) == 3


@pytest.mark.parametrize("readout", ["pauli_z", "probabilities"])
@pytest.mark.parametrize(("ansatz", "low", "high"), [("ry_ring", 0.93, 1.07), ("ryrz_ring_ry", 0.65, 1.07)])
def test_the_analytic_factor_brings_the_readout_to_unit_scale(readout, ansatz, low, high):
    """Over random directions of a random circuit; a complex circuit keeps a part of it."""
    x = torch.randn(4000, 64)
    words = z_words(6, 6) if readout == "pauli_z" else readout
    features = CircuitFeatures(QAAConfig(ansatz=ansatz).circuit_for(64), words, 6, trainable=False)
    z = features(x) * unit_factor(readout, 6)
    assert low < z.std(0).mean().item() < high


def test_layer_norm_gives_each_token_zero_mean_and_unit_variance():
    config = QAAConfig(readout_scale="layer_norm")
    update = config.make_update(16, 4)
    nn.init.eye_(update.up)
    out = update(torch.randn(5, 16))
    assert torch.allclose(out.mean(-1), torch.zeros(5), atol=1e-5)
    assert torch.allclose(out.var(-1, unbiased=False), torch.ones(5), atol=1e-2)


def test_more_readouts_than_wires_measure_pairs_then_triples():
    assert z_words(3, 7) == ["ZII", "IZI", "IIZ", "ZZI", "ZIZ", "IZZ", "ZZZ"]
    config = QAAConfig(n_readouts=12)
    assert config.readout_width(10) == 12
    with pytest.raises(ConfigError, match=r"n_readouts=16.*4 wires give at most 15"):
        QAAConfig(n_readouts=16).make_update(10, 3)


def test_pauli_words_are_continued_with_identities():
    config = QAAConfig(readout=["XZ", "IIIY"])
    assert config.pauli_words(10) == ["XZII", "IIIY"]
    assert config.make_update(10, 3)(torch.randn(2, 10)).shape == (2, 3)
    with pytest.raises(ConfigError, match="has only 3 wires"):
        config.make_update(8, 3)


def test_presets_are_what_they_say():
    published = QAAConfig.preset("published")
    assert (published.ansatz, published.n_layers, published.readout_scale, published.up_bias) == (
        "ry_ring",
        1,
        "raw",
        True,
    )
    recommended = QAAConfig.preset("recommended", n_layers=3, target_modules=["lin0"])
    assert (recommended.ansatz, recommended.n_layers) == ("ryrz_ring_ry", 3)
    assert QAAConfig.preset("recommended") == QAAConfig()
    with pytest.raises(ConfigError, match="choose one of 'published', 'recommended'"):
        QAAConfig.preset("paper")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (
            "readout",
            "pauli_x",
            r"unknown readout; choose one of 'pauli_z', 'probabilities', 'amplitudes' or pass Pauli",
        ),
        ("readout", ["XQ"], "made of I, X, Y and Z"),
        ("readout", [], "at least one word"),
        ("ansatz", "ry_rign", r"did you mean 'ry_ring'"),
        ("entangler", "star", "choose one of 'ring', 'linear', 'brick', 'all', 'none'"),
        ("n_layers", 0, "at least 1"),
        ("control", "quantum", "choose one of 'trained', 'frozen', 'classical', 'none'"),
        ("readout_scale", "batch_norm", "choose one of"),
        ("init_angles", "pi", "choose one of"),
        ("scale", 0.0, "must not be zero"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("bias", "some", "choose one of 'none', 'all', 'qaa_only'"),
        ("n_readouts", 0, "at least 1"),
    ],
)
def test_bad_values_are_refused_by_name_with_what_is_allowed(field, value, says):
    with pytest.raises(ConfigError, match=says) as caught:
        QAAConfig(**{field: value})
    assert str(caught.value).startswith(f"QAAConfig({field}={value!r}): ")
    assert "\n" not in str(caught.value)


def test_settings_that_would_break_the_linear_readout_are_refused():
    for field, value in (("up_bias", True), ("norm_restore", True), ("readout_scale", "layer_norm")):
        with pytest.raises(ConfigError, match="so that it can be merged"):
            QAAConfig(readout="amplitudes", **{field: value})
    with pytest.raises(ConfigError, match="target_modules as a list"):
        QAAConfig(target_modules="all-linear", layers_to_transform=[0])


def test_the_frozen_control_keeps_its_angles_through_saving_but_never_trains_them():
    update = QAAConfig(control="frozen").make_update(10, 4)
    assert "features.turns.start" in update.state_dict()
    assert [name for name, _ in update.named_parameters()] == ["up"]


def test_the_control_without_a_circuit_reads_the_input_itself():
    update = updates_of(QAAConfig(control="none", readout_scale="raw"))
    x = torch.randn(3, 10)
    z = torch.stack([pennylane_values(row.double(), torch.zeros(0)) for row in x]).float()
    assert torch.allclose(update(x), z @ update.up.T, atol=1e-5)


def test_calibration_spreads_the_readout_and_keeps_the_zero_start():
    torch.manual_seed(3)
    config = QAAConfig(target_modules=["lin0", "lin1"], init_angles="data")
    assert config.needs_calibration
    model = get_peft_model(TwoLayers(), config)
    x = torch.randn(256, 10) + 2.0
    before = model(x)
    angles = model.base_model.model.lin0.updates["default"].features.angles.detach().clone()
    from ketune.adapters import spread_readouts

    report = spread_readouts(model, [{"x": x}])
    assert set(report) == {"base_model.model.lin0", "base_model.model.lin1"}
    assert all(after > start for start, after in report.values())
    assert not torch.equal(model.base_model.model.lin0.updates["default"].features.angles, angles)
    assert torch.equal(model(x), before)
    with pytest.raises(ValueError, match="at least one batch"):
        config.calibrate(model, [], "default")
    with pytest.raises(ValueError, match="no QAA circuit of that name"):
        spread_readouts(model, [{"x": x}], "other")
    assert not QAAConfig(init_angles="data", control="none").needs_calibration


def test_angles_can_start_at_zero():
    update = QAAConfig(init_angles="zeros").make_update(10, 4)
    assert not update.features.angles.any()
