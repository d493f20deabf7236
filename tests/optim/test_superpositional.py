"""Superpositional gradient descent: AdamW where it must be, the published rule, circuits, controls, checkpoints."""

import copy
import math

import pytest
import torch
from torch import nn

from ketune.circuits import Circuit, ryrz_ring_ry
from ketune.optim import SuperpositionalAdamW


def net(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).to(dtype)


def train(model, optimizer, n_steps=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_steps):
        x = torch.randn(8, 5, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def one_step(weight, grad, **kwargs):
    """The step beyond AdamW's, divided by lr times strength: Q."""
    plain, bent = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    plain.grad, bent.grad = grad.clone(), grad.clone()
    torch.optim.AdamW([plain], lr=0.01, weight_decay=0.1).step()
    SuperpositionalAdamW([bent], lr=0.01, weight_decay=0.1, strength=0.5, **kwargs).step()
    return (plain - bent).detach() / (0.01 * 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kwargs", [{}, {"fused": True}, {"weight_decay": 0.1, "amsgrad": True}])
def test_without_strength_it_is_adamw_to_the_last_bit(dtype, kwargs):
    ours, theirs = net(dtype), net(dtype)
    ended = train(ours, SuperpositionalAdamW(ours.parameters(), lr=0.01, strength=0.0, **kwargs))
    expected = train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, **({"weight_decay": 0.0} | kwargs)))
    assert all(torch.equal(a, b) for a, b in zip(ended, expected))


def test_the_published_rule_bends_the_first_four_coordinates_only():
    weight, grad = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    expected = torch.zeros_like(weight)
    expected[0] = (math.pi * weight[0]).sin() * grad[0]
    assert torch.allclose(one_step(weight, grad), expected, atol=1e-12)


def test_scope_all_bends_every_coordinate_and_global_the_first_of_all_parameters():
    weight, grad = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    bent = (math.pi * weight).sin() * grad
    assert torch.allclose(one_step(weight, grad, scope="all"), bent, atol=1e-12)
    first = torch.where(torch.arange(12).view(3, 4) < 6, bent, 0.0)
    assert torch.allclose(one_step(weight, grad, n_qubits=6, scope="global"), first, atol=1e-12)
    small, large = (nn.Parameter(torch.full((n,), 0.5)) for n in (3, 5))
    small.grad, large.grad = torch.full((3,), 1e-3), torch.full((5,), 1e-3)
    SuperpositionalAdamW([small, large], lr=1.0, strength=1000.0, scope="global").step()
    assert (small < -1).all()
    assert large[0] < -1
    assert torch.allclose(large[1:], torch.tensor(-0.5), atol=1e-3)


def test_a_parameter_stored_in_another_order_is_bent_at_the_same_places():
    weight, grad = torch.randn(4, 3, dtype=torch.float64).T, torch.randn(3, 4, dtype=torch.float64)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    expected[0] = (math.pi * weight[0]).sin() * grad[0]
    assert torch.allclose(one_step(weight, grad), expected, atol=1e-12)


def test_a_circuit_without_gates_reads_the_closed_form():
    weight, grad = torch.randn(10, dtype=torch.float64), torch.randn(10, dtype=torch.float64)
    for scope in ("tensor", "all"):
        closed = one_step(weight, grad, scope=scope)
        assert torch.allclose(one_step(weight, grad, scope=scope, circuit=Circuit(4, ())), closed, atol=1e-12)


def test_a_circuit_with_gates_agrees_with_qiskit():
    info = pytest.importorskip("qiskit.quantum_info")
    from ketune.circuits import to_qiskit

    circuit = ryrz_ring_ry(3, 2)
    angles = torch.linspace(-2, 2, circuit.n_angles, dtype=torch.float64)
    weight, grad = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    found = one_step(weight, grad, n_qubits=3, circuit=circuit, circuit_angles=angles)
    from qiskit import QuantumCircuit

    program = QuantumCircuit(3)
    for wire in range(3):
        program.ry(math.pi * float(weight[wire]), 2 - wire)  # our wire 0 is Qiskit's last
    state = info.Statevector(program.compose(to_qiskit(circuit, angles)))
    values = [state.expectation_value(info.Pauli("I" * k + "X" + "I" * (2 - k))).real for k in range(3)]
    assert torch.allclose(found, torch.tensor(values, dtype=torch.float64) * grad, atol=1e-10)


def test_the_controls_match_the_sine_in_size_and_follow_their_seed():
    weight, grad = torch.randn(1000, dtype=torch.float64), torch.ones(1000, dtype=torch.float64)
    sine = one_step(weight, grad, scope="all")
    signed = one_step(weight, grad, scope="all", perturbation="random_sign")
    assert torch.allclose(signed.abs(), sine.abs(), atol=1e-12)
    assert 0.4 < float((signed.sign() == sine.sign()).double().mean()) < 0.6
    noise = one_step(weight, grad, scope="all", perturbation="gaussian")
    assert float(noise.square().mean() / sine.square().mean()) == pytest.approx(1, abs=0.15)
    assert torch.equal(noise, one_step(weight, grad, scope="all", perturbation="gaussian"))
    assert not torch.equal(noise, one_step(weight, grad, scope="all", perturbation="gaussian", seed=1))


@pytest.mark.parametrize("perturbation", ["circuit", "gaussian"])
def test_a_run_goes_on_from_its_checkpoint_as_if_never_broken(perturbation):
    settings = {"lr": 0.01, "strength": 2.0, "perturbation": perturbation, "scope": "all"}
    whole = net()
    optimizer = SuperpositionalAdamW(whole.parameters(), **settings)
    train(whole, optimizer, 3)
    kept, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(whole.state_dict())
    expected = train(whole, optimizer, 3, seed=2)
    again = net(seed=5)
    again.load_state_dict(weights)
    resumed = SuperpositionalAdamW(again.parameters(), **settings)
    resumed.load_state_dict(kept)
    assert all(torch.equal(a, b) for a, b in zip(train(again, resumed, 3, seed=2), expected))


def test_groups_have_their_own_strength_and_a_closure_is_run():
    first, second = (nn.Parameter(torch.full((2,), 0.25)) for _ in range(2))
    groups = [{"params": [first], "strength": 1.0}, {"params": [second], "strength": 0.0}]
    optimizer = SuperpositionalAdamW(groups, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = first.sum() + second.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(1.0)
    assert torch.allclose(second, torch.full((2,), 0.15), atol=1e-4)
    assert torch.allclose(first, torch.full((2,), 0.15 - 0.1 * math.sin(math.pi / 4)), atol=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"scope": "tensors"}, "scope='tensors'"),
        ({"perturbation": "noise"}, "perturbation='noise'"),
        ({"n_qubits": 0}, "n_qubits=0"),
        ({"circuit": Circuit(3, ())}, "pass n_qubits=3"),
        ({"circuit": Circuit(4, ()), "circuit_angles": torch.zeros(2)}, "one angle for each"),
        ({"strength": math.nan}, "strength=nan"),
    ],
)
def test_settings_out_of_range_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        SuperpositionalAdamW(net().parameters(), **kwargs)
