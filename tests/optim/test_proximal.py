"""Proximal steps: the map itself, the variants, and life inside a trainer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ketune.optim import Proximal, released_threshold, soft_threshold, sparsity_phases

numbers = st.floats(-10, 10, allow_nan=False, width=32)


@given(value=numbers, xi=st.floats(0, 5, width=32))
def test_soft_threshold_minimises_the_proximal_objective(value, xi):
    """prox(v) = argmin_u (u - v)^2 / 2 + xi |u|: no nearby point does better."""
    v = torch.tensor(value, dtype=torch.float64)
    u = soft_threshold(v, xi)

    def objective(u):
        return float((u - v) ** 2 / 2 + xi * u.abs())

    for step in (-1e-3, 1e-3, -0.1, 0.1):
        assert objective(u) <= objective(u + step) + 1e-12


@pytest.mark.parametrize(
    ("value", "released", "exact"), [(0.15, 0.0, 0.05), (0.19, 0.0, 0.09), (0.21, 0.11, 0.11), (0.05, 0.0, 0.0)]
)
def test_the_released_threshold_has_a_dead_zone_of_twice_xi(value, released, exact):
    for sign in (1, -1):
        v = torch.tensor([sign * value], dtype=torch.float64)
        assert released_threshold(v, 0.1).item() == pytest.approx(sign * released, abs=1e-12)
        assert soft_threshold(v, 0.1).item() == pytest.approx(sign * exact, abs=1e-12)


def test_the_released_threshold_leaves_a_value_equal_to_xi():
    assert released_threshold(torch.tensor([0.1]), 0.1).item() == pytest.approx(0.1)


def gate_problem(threshold="scheduled_lr", penalty=0.5, lr=0.1, **kwargs):
    gate, weight = nn.Parameter(torch.tensor([1.0, -0.04, 0.02])), nn.Parameter(torch.tensor([1.0]))
    inner = torch.optim.SGD([gate, weight], lr=lr)
    return gate, weight, Proximal(inner, [gate], penalty, threshold=threshold, **kwargs)


def test_a_step_is_the_gradient_step_followed_by_the_map_and_spares_other_parameters():
    gate, weight, optimizer = gate_problem()
    gate.grad, weight.grad = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0])
    optimizer.step()
    # gradient step: [0.9, -0.04, 0.02]; xi = 0.1 * 0.5
    assert torch.allclose(gate, torch.tensor([0.85, 0.0, 0.0]))
    assert torch.allclose(weight, torch.tensor([0.9]))


def test_the_base_rate_ignores_a_warm_up_that_the_scheduled_rate_follows():
    for threshold, expected in (("scheduled_lr", 1.0), ("base_lr", 0.95), ("constant", 0.5)):
        gate, _, optimizer = gate_problem(threshold)
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
        gate.grad = torch.zeros(3)
        optimizer.step()
        assert gate[0].item() == pytest.approx(expected)


def test_the_l1_term_adds_the_gradient_of_the_mean_absolute_gate():
    gate, _, optimizer = gate_problem(penalty=0.0, lr=1.0, l1_coefficient=0.3)
    gate.grad = torch.zeros(3)
    optimizer.step()
    assert torch.allclose(gate, torch.tensor([0.9, 0.06, -0.08]))


def test_a_schedule_moves_through_its_phases_and_resumes_in_the_right_one():
    gate, _, optimizer = gate_problem(penalty=[0.0, 1.0, 2.0], total_steps=6)
    seen = []
    for _ in range(7):
        seen.append(optimizer.penalty)
        gate.grad = torch.zeros(3)
        optimizer.step()
    assert seen == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    other_gate, _, other = gate_problem(penalty=[0.0, 1.0, 2.0], total_steps=6)
    other_gate.grad = torch.zeros(3)
    other.load_state_dict(optimizer.state_dict())
    assert other.penalty == 2.0


def test_phases_of_each_kind_start_and_stop_where_they_should():
    assert sparsity_phases("constant", 0.1, 9.0, 1) == [0.1]
    assert sparsity_phases("linear", 0.0, 7e-4, 8) == pytest.approx([i * 1e-4 for i in range(8)])
    for kind in ("linear", "log_linear", "exp_linear"):
        phases = sparsity_phases(kind, 0.1, 0.9, 5)
        assert phases == sorted(phases)
        assert (phases[0], phases[-1]) == pytest.approx((0.1, 0.9))
    ratios = [b / a for a, b in zip(*(lambda p: (p, p[1:]))(sparsity_phases("exp_linear", 0.1, 0.9, 5)))]
    assert ratios == pytest.approx([9 ** (1 / 4)] * 4)
    assert sparsity_phases("log_linear", 0.0, 1.0, 3)[1] == pytest.approx(math.log((1 + math.e) / 2))


def test_settings_that_do_not_fit_are_refused_with_a_reason():
    gate, weight = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    inner = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(ValueError, match="group of the wrapped optimiser"):
        Proximal(inner, [gate], 0.1)
    with pytest.raises(ValueError, match="choose one of"):
        Proximal(inner, [weight], 0.1, threshold="soft")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="number of steps"):
        Proximal(inner, [weight], [0.1, 0.2])
    with pytest.raises(ValueError, match="zero or more"):
        Proximal(inner, [weight], -0.1)
    with pytest.raises(ValueError, match="choose one of"):
        sparsity_phases("cosine", 0, 1, 3)
    with pytest.raises(ValueError, match="above zero"):
        sparsity_phases("exp_linear", 0, 1, 3)
    with pytest.raises(ValueError, match="at least 1"):
        sparsity_phases("linear", 0, 1, 0)
