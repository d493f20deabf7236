"""QTHA against its formula written out, PennyLane, and the counts of the specification."""

import math

import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ketune import QTHAConfig
from ketune.adapters import ConfigError
from ketune.adapters.qtha import ARCHITECTURES, upload_layer

LINEAR = ("A", "AB", "B")
QWEN2_7B = {  # (in, out) of the seven linear maps of each of 28 layers
    "q": (3584, 3584),
    "k": (3584, 512),
    "v": (3584, 512),
    "o": (3584, 3584),
    "gate": (3584, 18944),
    "up": (3584, 18944),
    "down": (18944, 3584),
}


def moved(config, in_features=12, out_features=10):
    """A float64 update away from its zero start."""
    torch.manual_seed(0)
    update = config.make_update(in_features, out_features)
    update.randomize()
    return update.double()


# ------------------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize(
    ("module", "count"), [("q", 11_248), ("v", 9_104), ("gate", 12_208), ("down", 12_208)], ids=["q", "v", "up", "down"]
)
def test_the_modules_of_a_qwen2_7b_have_the_published_counts(module, count):
    """The figures of specs/qpa_qtha_quantum_peft.md, section 2, computed there by hand."""
    config, shape = QTHAConfig(r=4), QWEN2_7B[module]
    assert config.parameter_count(*shape) == count
    assert sum(p.numel() for p in config.make_update(*shape).parameters()) == count


@pytest.mark.parametrize(
    ("modules", "r", "count"),
    [("q v", 4, 569_856), ("q v", 8, 690_816), ("all", 4, 2_165_184), ("all", 8, 2_588_544)],
)
def test_a_whole_qwen2_7b_has_the_published_counts(modules, r, count):
    names = QWEN2_7B if modules == "all" else modules.split()
    config = QTHAConfig(r=r)
    assert 28 * sum(config.parameter_count(*QWEN2_7B[name]) for name in names) == count


def test_the_modes_are_those_of_the_released_table():
    table = {
        3584: (8, 8, 8, 7),
        18944: (37, 8, 8, 8),
        5120: (10, 8, 8, 8),
        27648: (27, 16, 8, 8),
        20480: (40, 8, 8, 8),
        4096: (8, 8, 8, 8),
        2560: (8, 8, 8, 5),
        2048: (8, 8, 8, 4),
        1024: (8, 8, 4, 4),
        512: (8, 4, 4, 4),
    }
    for width, modes in table.items():
        first, second = QTHAConfig(hidden_dim=256).trains(width, width)
        assert (first.in_modes, first.out_modes) == (modes, (4, 4, 4, 4))
        assert (second.in_modes, second.out_modes) == ((4, 4, 4, 4), modes)


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        ("A", 2 * 4576),
        ("AB", 2 * 4576 + 2 * 256 * 4 + 16),
        ("ABC", 2 * 4576 + 2 * 256 * 4 + 16 + 16 + 16),
        ("B", 4 * 7168 + 16),
        ("BC", 4 * 7168 + 16 + 16 + 16),
        ("C", 4 * 7168 + 16 + 16),
        ("BD", 4 * 7168 + 16 + 2 * 16),
        ("BE", 4 * 7168 + 16 + 3 * 16),
        ("BF", 4 * 7168 + 16 + 4 * 16),
    ],
)
def test_each_architecture_has_the_parts_of_its_letters(architecture, count):
    """4576 for a train between 3584 and 256; the circuit has 4 r angles, W_c, W_q and the others r^2 each."""
    assert QTHAConfig(architecture=architecture).parameter_count(3584, 3584) == count


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    architecture=st.sampled_from(ARCHITECTURES),
    r=st.integers(1, 5),
    layers=st.integers(1, 2),
    bond=st.integers(1, 9),
    hidden=st.sampled_from([None, 1, 7, 16]),
    multiplies=st.booleans(),
    control=st.sampled_from(["trained", "frozen", "classical", "none"]),
)
def test_counts_are_exact_for_any_shape_and_setting(shape, architecture, r, layers, bond, hidden, multiplies, control):
    config = QTHAConfig(
        architecture=architecture,
        r=r,
        n_qlayers=layers,
        bond_dim=bond,
        hidden_dim=hidden,
        fusion="mul" if multiplies and architecture in ("ABC", "BC", "BD") else "add",
        control=control if "C" in architecture else "trained",
    )
    update = config.make_update(*shape)
    assert sum(p.numel() for p in update.parameters()) == config.parameter_count(*shape)
    out = update(torch.randn(3, shape[0]))
    assert out.shape == (3, shape[1])
    assert not out.any()


@pytest.mark.parametrize("architecture", ["ABC", "BC"])
@pytest.mark.parametrize("fusion", ["add", "mul"])
@pytest.mark.parametrize("r", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_classical_control_has_exactly_as_many_parameters(architecture, fusion, r, layers):
    counts = {
        control: QTHAConfig(
            architecture=architecture, fusion=fusion, r=r, n_qlayers=layers, control=control
        ).parameter_count(160, 48)
        for control in ("trained", "frozen", "classical", "none")
    }
    angles = (4 if r > 1 else 2) * r * layers
    assert counts["classical"] == counts["trained"]
    assert counts["frozen"] == counts["trained"] - angles
    assert counts["none"] == counts["frozen"] - r * r * (fusion == "add")


def test_at_four_qubits_the_classical_control_is_the_published_one():
    """BD puts two r x r matrices in the circuit's place, which at r = 4 is what W_q and 16 angles have."""
    control = QTHAConfig(architecture="BC", control="classical").make_update(12, 10)
    assert [tuple(m.shape) for m in control.network.matrices] == [(4, 4), (4, 4)]
    assert control.network.bias is None
    assert QTHAConfig(architecture="BD").parameter_count(12, 10) == QTHAConfig(architecture="BC").parameter_count(
        12, 10
    )


@pytest.mark.parametrize(
    ("shape", "hidden"), [((3584, 512), 256), ((160, 160), 32), ((160, 64), 16), ((10, 20), 4), ((2, 1), 4)]
)
def test_small_layers_get_a_narrower_bottleneck(shape, hidden):
    assert QTHAConfig().bottleneck_width(*shape) == hidden
    assert QTHAConfig(hidden_dim=100).bottleneck_width(*shape) == 100


# ----------------------------------------------------------------------------------------------------------- circuit


def pennylane_circuit(n_wires):
    """RY(z) and the two rings of every layer, gate by gate; angles (layers, 4, n_wires)."""

    @qml.qnode(qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    def node(z, angles):
        for layer in angles:
            for wire in range(n_wires):
                qml.RY(z[..., wire], wires=wire)
            for k, step in ((0, 1), (2, -1)):
                for wire in reversed(range(n_wires)):  # the released code's order; the gates of a ring commute
                    qml.CRZ(layer[k, wire], wires=[wire, (wire + step) % n_wires])
                for wire in range(n_wires):
                    qml.RY(layer[k + 1, wire], wires=wire)
        return [qml.expval(qml.Z(wire)) for wire in range(n_wires)]

    return node


@pytest.mark.parametrize("n_wires", [2, 3, 4, 6])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_circuit_and_its_gradients_are_those_of_pennylane(n_wires, n_layers):
    torch.manual_seed(0)
    layer = upload_layer(n_wires, n_layers).double()
    z = (2 * torch.randn(5, n_wires, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(5, n_wires, dtype=torch.float64)
    table = layer.angles.detach().reshape(n_layers, 4, n_wires).requires_grad_()
    wanted = torch.stack(pennylane_circuit(n_wires)(z, table), -1)
    got = layer(z)
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)
    ours = torch.autograd.grad((got * weight).sum(), (z, layer.angles))
    theirs = torch.autograd.grad((wanted * weight).sum(), (z, table))
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(ours[1], theirs[1].flatten(), atol=1e-10, rtol=0)


def test_one_qubit_has_two_rotations_and_no_ring():
    """<Z> = cos of all angles about Y together."""
    layer = upload_layer(1, 1).double()
    z = torch.randn(6, 1, dtype=torch.float64)
    torch.testing.assert_close(layer(z), torch.cos(z + layer.angles.sum()))


def test_angles_are_spread_over_the_whole_circle():
    angles = torch.cat([upload_layer(8, 1).angles for _ in range(100)])
    assert -math.pi <= angles.min() < -3.1
    assert 3.1 < angles.max() <= math.pi
    assert abs(angles.mean().item()) < 0.15


def test_the_circuit_is_there_to_be_drawn_with_its_uploads():
    assert QTHAConfig(n_qlayers=2).circuit_for(160).count_gates() == {"RY": 24, "CRZ": 16}
    with pytest.raises(ConfigError, match="has no circuit"):
        QTHAConfig(architecture="AB").circuit_for(160)


# ------------------------------------------------------------------------------------------------------------ update


def train_matrix(train):
    """The matrix of a train of up to four cores as one einsum, cut to its widths."""
    cores = [core.detach() for core in train.cores]
    letters = "abcdefghijklmnopqrstuvwxyz"
    terms = [letters[k] + letters[10 + k] + letters[15 + k] + letters[k + 1] for k in range(len(cores))]
    outs, ins = letters[10 : 10 + len(cores)], letters[15 : 15 + len(cores)]
    whole = torch.einsum(",".join(terms) + "->" + outs + ins, cores)
    shape = train.shape
    return whole.reshape(math.prod(shape.out_modes), -1)[: shape.out_features, : shape.in_features]


@pytest.mark.parametrize("fusion", ["add", "mul"])
@pytest.mark.parametrize("upload", ["raw", "tanh"])
def test_the_update_is_the_formula(fusion, upload):
    config = QTHAConfig(r=3, alpha=4.5, fusion=fusion, upload=upload, angle_scale=1.3, bond_dim=3)
    update = moved(config)
    x = torch.randn(7, 12, dtype=torch.float64)
    z = x @ train_matrix(update.mpo_a).T @ update.m_a.T
    angles = 1.3 * torch.tanh(z) if upload == "tanh" else z
    q = torch.stack(pennylane_circuit(3)(angles, update.qnn.angles.reshape(1, 4, 3)), -1)
    linear = z @ update.w_c.T
    f = q @ update.w_q.T + linear if fusion == "add" else (1 + q) * linear
    expected = 4.5 / 3 * f @ update.m_b.T @ train_matrix(update.mpo_b).T
    torch.testing.assert_close(update(x), expected)


@pytest.mark.parametrize(("architecture", "n_matrices"), [("BD", 2), ("BE", 3), ("BF", 4)])
def test_the_networks_are_products_of_matrices_with_silu_between(architecture, n_matrices):
    update = moved(QTHAConfig(architecture=architecture))
    x = torch.randn(7, 12, dtype=torch.float64)
    z = x @ update.m_a.T
    first, *others = update.network.matrices
    assert len(others) == n_matrices - 1
    h = z @ first.T
    for matrix in others:
        h = (h * torch.sigmoid(h)) @ matrix.T
    torch.testing.assert_close(update(x), 2 * (h + z @ update.w_c.T) @ update.m_b.T)


@pytest.mark.parametrize("architecture", LINEAR)
def test_the_linear_architectures_are_the_matrices_that_they_say(architecture):
    update = moved(QTHAConfig(architecture=architecture, r=3))
    matrix = update.delta_weight()
    x = torch.randn(2, 3, 12, dtype=torch.float64)
    torch.testing.assert_close(update(x), x @ matrix.T)
    expected = torch.full((), 2.0, dtype=torch.float64)
    if update.m_a is not None:
        expected = expected * update.m_b @ update.w_c @ update.m_a
    if update.mpo_a is not None:
        a, b = train_matrix(update.mpo_a), train_matrix(update.mpo_b)
        expected = b @ expected @ a if update.m_a is not None else 2.0 * b @ a
    torch.testing.assert_close(matrix, expected)


@pytest.mark.parametrize("architecture", ["ABC", "C", "BD"])
def test_the_others_say_why_they_do_not_merge(architecture):
    update = QTHAConfig(architecture=architecture).make_update(12, 10)
    assert "not linear in the layer's input" in update.why_not_mergeable
    assert "architecture='AB'" in update.why_not_mergeable
    assert QTHAConfig(architecture="ABC", control="none").make_update(12, 10).why_not_mergeable is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(48, 40), (13, 2), (7, 31)])
def test_every_parameter_has_a_gradient_within_two_steps(architecture, shape):
    torch.manual_seed(0)
    update = QTHAConfig(architecture=architecture).make_update(*shape)
    x, y = torch.randn(64, shape[0]), torch.randn(64, shape[1])
    optimizer = torch.optim.SGD(update.parameters(), lr=0.1)
    seen = set()
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(update(x), y).backward()
        seen |= {name for name, p in update.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert seen == {name for name, _ in update.named_parameters()}


@pytest.mark.parametrize("architecture", ["ABC", "AB", "A", "BC"])
def test_a_small_update_survives_bfloat16(architecture):
    """A last factor of the size of 1e-3: parameters and activations in bfloat16 lose less than 2 %."""
    torch.manual_seed(0)
    update = QTHAConfig(architecture=architecture).make_update(320, 256)
    with torch.no_grad():
        for parameter in update.parameters():
            if not parameter.any():
                parameter.normal_(std=1e-3)
    x = torch.randn(400, 320).bfloat16()
    exact = update(x.float())
    half = update.bfloat16()
    assert (half(x).float() - exact).norm() < 0.02 * exact.norm()
    if update.why_not_mergeable is None:
        assert (x.float() @ half.delta_weight().T - exact).norm() < 0.02 * exact.norm()


def test_the_scale_stays_when_the_rank_changes_unless_alpha_is_given():
    for r in (2, 4, 8):
        assert QTHAConfig(r=r).make_update(12, 10).scale == 2.0
        assert QTHAConfig(r=r, alpha=6.0).make_update(12, 10).scale == 6.0 / r


def test_frozen_angles_are_saved_and_never_trained():
    update = QTHAConfig(control="frozen", n_qlayers=2).make_update(12, 10)
    assert "qnn.angles" in update.state_dict()
    assert "qnn.angles" not in dict(update.named_parameters())
    assert update.qnn.angles.any()


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("r", 0, "at least 1"),
        ("r", 15, "at most 14 qubits"),
        ("architecture", "ABCD", "did you mean 'ABC'"),
        ("architecture", "abc", "choose one of 'A', 'AB', 'ABC', 'B', 'BC', 'C', 'BD', 'BE', 'BF'"),
        ("bond_dim", 0, "at least 1"),
        ("hidden_dim", 0, "at least 1, or None"),
        ("n_qlayers", 0, "at least 1"),
        ("alpha", 0.0, "above zero"),
        ("fusion", "concat", "'add', 'mul'"),
        ("upload", "sigmoid", "'raw', 'tanh'"),
        ("angle_scale", 0.0, "must not be zero"),
        ("control", "quantum", "'trained', 'frozen', 'classical', 'none'"),
    ],
)
def test_bad_values_are_refused_by_name_with_what_is_allowed(field, value, says):
    with pytest.raises(ConfigError, match=says) as caught:
        QTHAConfig(**{field: value})
    assert str(caught.value).startswith(f"QTHAConfig({field}={value!r}): ")


def test_what_an_architecture_does_not_have_cannot_be_set():
    assert QTHAConfig(architecture="B", r=100).parameter_count(4, 4) == 100 * 8 + 100**2
    for architecture in ("A", "AB", "B", "BD"):
        with pytest.raises(ConfigError, match="has no circuit to control"):
            QTHAConfig(architecture=architecture, control="frozen")
    for architecture in ("A", "AB", "B", "C"):
        with pytest.raises(ConfigError, match="nothing to multiply"):
            QTHAConfig(architecture=architecture, fusion="mul")
