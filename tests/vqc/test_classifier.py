"""Circuit classifiers: what they compute, which parameters move, what is counted."""

import math

import pytest
import torch

from ketune.circuits import Circuit, Gate, ring_rxryrz, rxryrz_ring, simulate
from ketune.vqc.angle_maps import ANGLE_MAPS
from ketune.vqc.classifier import CircuitClassifier, Temperature
from ketune.vqc.hypernetwork import AngleHypernet
from ketune.vqc.reducers import TTReducer


def reducer(n_wires=4, seed=0):
    return TTReducer(16, n_wires, (4, 4), max_rank=3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("circuit", [rxryrz_ring(4, 2), ring_rxryrz(4, 2)], ids=["rotations first", "CNOTs first"])
def test_logits_are_encoder_map_circuit_and_head_in_turn(circuit):
    model = CircuitClassifier(reducer(), circuit, 3)
    x = torch.randn(5, 16)
    uploads = Circuit(4, tuple(Gate("RY", (w,), w) for w in range(4)))
    angles = torch.cat((math.pi * model.encoder(x).tanh(), model.block.angles.expand(5, -1)), -1)
    weights = simulate(uploads + circuit, angles).abs().square().view(5, 2, 2, 2, 2)
    z = torch.stack(
        [weights.select(q + 1, 0).sum((1, 2, 3)) - weights.select(q + 1, 1).sum((1, 2, 3)) for q in range(4)], -1
    )
    torch.testing.assert_close(model(x), model.head(z), atol=1e-5, rtol=1e-5)


def test_the_two_orders_are_those_of_the_two_releases():
    """npj 2023: CNOTs, then rotations. Pre+TTN-VQC: rotations, then CNOTs."""
    names = [gate.name for gate in ring_rxryrz(3).gates]
    assert names == ["CNOT"] * 3 + ["RX", "RY", "RZ"] * 3
    assert [gate.name for gate in rxryrz_ring(3).gates] == names[3:] + names[:3]


@pytest.mark.parametrize("make", [rxryrz_ring, ring_rxryrz])
@pytest.mark.parametrize("angle_map", ANGLE_MAPS)
def test_gradients_reach_every_parameter_but_the_last_rz_of_each_wire(make, angle_map):
    model = CircuitClassifier(reducer().double(), make(4, 2), 3, angle_map=angle_map).double()
    x = torch.randn(20, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(model(x), torch.arange(20) % 3).backward()
    last_rz = torch.zeros(2, 4, 3, dtype=torch.bool)
    last_rz[-1, :, 2] = True
    gradient = model.block.angles.grad
    assert (gradient[~last_rz.flatten()].abs() > 1e-9).all()
    assert (gradient[last_rz.flatten()].abs() < 1e-12).all()
    for name, parameter in model.named_parameters():
        if not name.startswith("block"):
            assert (parameter.grad.abs() > 1e-12).any(), name


def test_counts_are_split_and_equal_for_the_linear_stand_in():
    counts = {
        block: CircuitClassifier(reducer(8), rxryrz_ring(8, 6), 3, block=block).count_parameters()
        for block in ("circuit", "linear", "frozen", "none")
    }
    encoder = sum(p.numel() for p in reducer(8).parameters())
    assert (counts["circuit"].quantum, counts["circuit"].stand_in) == (144, 0)
    assert (counts["linear"].quantum, counts["linear"].stand_in) == (0, 144)
    assert counts["circuit"].total == counts["linear"].total == 144 + encoder + 8 * 3 + 3
    assert counts["frozen"].total == counts["none"].total == encoder + 27
    assert counts["circuit"].classical == encoder + 27


def test_a_temperature_is_the_only_parameter_of_its_head_and_sharpens_readouts():
    model = CircuitClassifier(reducer(), rxryrz_ring(4), 2, head="temperature")
    assert model.count_parameters().head == 1
    z = torch.tensor([[1.0, -1.0, 0.0, 0.0]])
    assert model.head(z).tolist() == [[1.0, -1.0]]
    assert torch.nn.functional.cross_entropy(model.head(z), torch.tensor([0])).item() == pytest.approx(
        math.log(1 + math.exp(-2))  # the floor of the published heads
    )
    torch.nn.init.constant_(model.head.log_factor, 3.0)
    assert torch.nn.functional.cross_entropy(model.head(z), torch.tensor([0])) < 1e-6
    with pytest.raises(ValueError, match=r"5 classes.*4 readouts"):
        Temperature(4, 5)


def test_amplitudes_go_into_the_state_as_they_are():
    model = CircuitClassifier(torch.nn.Identity(), rxryrz_ring(4), 2, encoding="amplitude", n_features=10)
    x = torch.randn(3, 10)
    padded = torch.cat((x / x.norm(dim=-1, keepdim=True), torch.zeros(3, 6)), -1)
    weights = simulate(rxryrz_ring(4), model.block.angles.detach(), padded).abs().square()
    z0 = weights[:, :8].sum(-1) - weights[:, 8:].sum(-1)
    torch.testing.assert_close(model.readouts(x)[:, 0], z0, atol=1e-6, rtol=0)


def test_samples_with_their_own_angles_are_those_of_a_loop():
    hypernet = AngleHypernet(1, 24, "conditioned", n_features=16, gate="none")
    model = CircuitClassifier(reducer(), rxryrz_ring(4, 2), 3, hypernet=hypernet)
    x = torch.randn(6, 16)
    torch.testing.assert_close(model(x), torch.cat([model(row[None]) for row in x]), atol=1e-5, rtol=0)
    assert model.count_parameters().quantum == 0
    assert model.count_parameters().hypernet == AngleHypernet.count_parameters(
        1, 24, "conditioned", n_features=16, gate="none"
    )
    spread = hypernet(x=x).std(0)
    assert (spread > 1e-3).all()


@pytest.mark.slow
def test_sixteen_wires_train_and_agree_with_the_simulator():
    encoder = TTReducer(16, 16, (4, 4), generator=torch.Generator().manual_seed(0))
    circuit = rxryrz_ring(16, 1)
    model = CircuitClassifier(encoder, circuit, 2)
    x = torch.randn(2, 16)
    model(x).square().sum().backward()
    assert (model.block.angles.grad.view(16, 3)[:, :2] != 0).all()
    uploads = Circuit(16, tuple(Gate("RY", (w,), w) for w in range(16)))
    angles = torch.cat((math.pi * encoder(x).tanh(), model.block.angles.expand(2, -1)), -1)
    weights = simulate(uploads + circuit, angles).abs().square()
    z0 = weights[:, : 2**15].sum(-1) - weights[:, 2**15 :].sum(-1)
    torch.testing.assert_close(model.readouts(encoder(x))[:, 0], z0, atol=1e-5, rtol=0)


def test_seeds_decide_circuit_and_head_whatever_the_global_one_is():
    torch.manual_seed(1)
    first = CircuitClassifier(reducer(), rxryrz_ring(4), 3, seed=7)
    torch.manual_seed(2)
    second = CircuitClassifier(reducer(), rxryrz_ring(4), 3, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    other = CircuitClassifier(reducer(), rxryrz_ring(4), 3, seed=8)
    assert not torch.equal(first.block.angles, other.block.angles)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_fresh_keeps_the_encoder_and_starts_the_rest_anew():
    model = CircuitClassifier(reducer(), rxryrz_ring(4), 3, angle_map="atan", head="temperature", seed=1)
    fresh = model.fresh(2, seed=2)
    assert fresh.encoder is model.encoder
    assert (fresh.n_classes, fresh.angle_map) == (2, "atan")
    assert isinstance(fresh.head, Temperature)
    assert not torch.equal(fresh.block.angles, model.block.angles)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"angle_map='relu'.*'pi_tanh'"):
        CircuitClassifier(reducer(), rxryrz_ring(4), 2, angle_map="relu")
    with pytest.raises(ValueError, match=r"head='mlp'.*'linear', 'temperature'"):
        CircuitClassifier(reducer(), rxryrz_ring(4), 2, head="mlp")
    with pytest.raises(ValueError, match=r"block='linear' with a hypernet"):
        CircuitClassifier(reducer(), rxryrz_ring(4), 2, block="linear", hypernet=AngleHypernet(1, 12))
