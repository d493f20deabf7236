"""Fisher-EWC and transfer, against hand calculations and closed forms."""

import math

import pytest
import torch

from ketune.circuits import QuantumLayer, ry_ring
from ketune.vqc.architecture_search import (
    ElasticPenalty,
    SearchError,
    backward_transfer,
    diagonal_fisher,
    forward_transfer,
    named_subset,
)


def test_value_and_gradient_are_those_of_a_hand_calculation():
    penalty = ElasticPenalty(
        {"a": torch.tensor([2.0, 0.5]), "b": torch.tensor([[4.0]])},
        {"a": torch.tensor([1.0, -1.0]), "b": torch.tensor([[0.5]])},
    )
    a, b = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([[0.0]], requires_grad=True)
    value = penalty({"a": a, "b": b})
    # 1/2 (2 * 1^2 + 0.5 * 4^2 + 4 * 0.5^2)
    assert float(value.detach()) == pytest.approx(5.5)
    value.backward()
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.tolist() == pytest.approx([2.0 * 1, 0.5 * 4])
    assert b.grad.tolist() == [[pytest.approx(4.0 * -0.5)]]


def test_two_tasks_as_one_penalty_pull_as_both_do():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        ElasticPenalty({"p": torch.rand(5, generator=generator)}, {"p": torch.randn(5, generator=generator)})
        for _ in range(2)
    )
    first.fisher["p"][0] = second.fisher["p"][0] = 0
    p = torch.randn(5, generator=generator, requires_grad=True)
    apart = torch.autograd.grad(first({"p": p}) + second({"p": p}), p)[0]
    together = torch.autograd.grad(first.with_task(second)({"p": p}), p)[0]
    assert torch.allclose(apart, together, atol=1e-6)
    assert torch.isfinite(first.with_task(second).anchor["p"]).all()


def test_the_fisher_information_of_a_coin_is_its_closed_form():
    logit = torch.tensor(0.7, requires_grad=True)
    p = float(torch.sigmoid(logit.detach()))
    n = 4000
    heads = torch.rand(n, generator=torch.Generator().manual_seed(0)) < p
    log_p = (torch.nn.functional.logsigmoid(logit if head else -logit) for head in heads)
    fisher = diagonal_fisher(log_p, {"logit": logit})
    assert float(fisher["logit"]) == pytest.approx(p * (1 - p), rel=0.05)


def test_the_angles_of_a_circuit_can_be_held():
    layer = torch.nn.Sequential(QuantumLayer(ry_ring(2), readout="probabilities"), torch.nn.Linear(4, 2))
    held = named_subset(layer, ["*.angles"])
    assert list(held) == ["0.angles"]
    x = torch.tensor([1.0, 0.0, 0.0, 0.0])
    outcomes = layer[0](x).log()
    fisher = diagonal_fisher((outcomes[k] for k in range(4)), held)
    penalty = ElasticPenalty(fisher, held)
    assert float(penalty(held).detach()) == 0
    with torch.no_grad():
        layer[0].angles += 0.1
    assert float(penalty(held).detach()) == pytest.approx(0.5 * 0.01 * float(fisher["0.angles"].sum()), rel=1e-4)


def test_transfer_follows_its_definition():
    quality = torch.tensor([[0.9, 0.6, 0.5], [0.8, 0.9, 0.6], [0.7, 0.85, 0.95]])
    assert backward_transfer(quality) == pytest.approx(((0.7 - 0.9) + (0.85 - 0.9)) / 2)
    assert forward_transfer(quality, torch.tensor([0.5, 0.5, 0.5])) == pytest.approx((0.1 + 0.1) / 2)


def test_wrong_names_shapes_and_samples_are_refused():
    one = {"p": torch.ones(2)}
    with pytest.raises(SearchError, match="name or shape"):
        ElasticPenalty(one, {"q": torch.ones(2)})
    with pytest.raises(SearchError, match="name or shape"):
        ElasticPenalty(one, one)({"p": torch.ones(1)})
    with pytest.raises(SearchError, match="at least one log-probability"):
        diagonal_fisher([], one)
    with pytest.raises(SearchError, match="no trainable parameter"):
        named_subset(torch.nn.Linear(1, 1), ["*.angles"])
    with pytest.raises(SearchError, match="at least 2 tasks"):
        backward_transfer(torch.ones(1, 1))
    with pytest.raises(SearchError, match="for each of 2 tasks"):
        forward_transfer(torch.ones(2, 2), torch.ones(3))
    assert math.isclose(forward_transfer(torch.ones(2, 2), torch.ones(2)), 0)
